"""The end of a run: the tables that say what it learned."""

from pathlib import Path

import pytest

from raypro.data.corpus import Corpus
from raypro.summary import CHANCE, MASKED, compare_masking, describe_run, print_summary
from tests.small import random_sequences, tiny_experiment, write_corpus


def test_what_the_noiser_masks_has_a_head_of_its_own(tmp_path: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare_masking({"valid/loss_adversarial": 2.9, "valid/loss_random": 2.5})
    assert compare_masking({"valid/loss_random": 2.5}) == []
    tables = [(CHANCE, [("perplexity", 12.0, 18.0)]), (MASKED, rows)]
    corpus: Corpus = write_corpus(tmp_path / "corpus", {"train": random_sequences(4, 10, 20), "valid": random_sequences(2, 10, 20)})
    experiment = tiny_experiment(corpus.path)
    text = describe_run(experiment, corpus, 4, tables, tmp_path)
    assert text.startswith(
        "| on sequences held out of training | learned | by chance |\n|---|---|---|\n| perplexity | 12.000 | 18.000 |\n\n| "
    )
    assert (
        "| masked by the noiser | masked at random |\n|---|---|---|\n| loss of a masked residue, nats | 2.900 | 2.500 |\n\nPMLM, " in text
    )
    print_summary(tmp_path, tables, experiment)
    said = capsys.readouterr().out
    assert said.index("by chance") < said.index("12.000") < said.index("masked by the noiser") < said.index("2.900")
    assert said.count("What ") == 1
