"""The data plan on real proteins."""

from pathlib import Path

import numpy as np
import pytest

from raypro.data.build import build
from raypro.data.corpus import Corpus
from raypro.data.plan import CONTROL_TOKENS, Plan, WindowTask


@pytest.fixture(scope="module")
def natural(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build([shared_data / "natural.fasta.gz"], tmp_path_factory.mktemp("natural") / "corpus").corpus


def test_natural_proteins_become_a_corpus(natural: Corpus) -> None:
    assert sum(natural.rows(split) for split in ("train", "valid", "test")) == 115_451
    assert natural.rows("valid") / 115_451 == pytest.approx(0.05, abs=0.003)
    natural.check()


@pytest.mark.parametrize(("budget", "max_length"), [(16_384, 512), (16_384, 1024), (4096, 512)])
def test_padding_waste_is_below_three_percent(natural: Corpus, budget: int, max_length: int) -> None:
    plan = Plan(natural, "train", 0, budget, max_length, 4)
    filled = slots = 0
    for window, groups in enumerate(plan.windows):
        sizes = np.minimum(natural.read(groups, ["length"])["length"].to_numpy(), max_length) + CONTROL_TOKENS
        for batch in plan.cut(sizes - CONTROL_TOKENS, 0, window):
            filled += int(sizes[batch].sum())
            slots += int(len(batch) * sizes[batch].max())
    waste = 1 - filled / slots
    print(f"padding waste at {budget} tokens, {max_length} residues: {waste:.2%}")
    assert waste < 0.03


def test_batches_are_what_was_counted(natural: Corpus) -> None:
    plan = Plan(natural, "train", 0, 16_384, 512, 4)
    for batch in plan.read(WindowTask(0, 3, 0)):
        assert batch.tokens.size <= 16_384
