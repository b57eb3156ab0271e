"""A learning rate that falls until the budget ends knows when that is, and goes on falling in a resumed run."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raypro.cluster.train import pretrain
from raypro.config import InputError
from raypro.core.loop import TrainState
from raypro.core.noiser import GRUNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.data.source import read_here, to_batch
from raypro.experiment import Experiment
from raypro.pretraining import Pretraining, count_batches, data_plan, steps_of_epochs
from raypro.settings import Budget, Workers
from raypro.training import train
from tests.small import random_sequences, tiny_experiment, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "corpus"
    write_corpus(folder, {"train": random_sequences(200, 10, 60), "valid": random_sequences(40, 10, 60, seed=1)})
    return folder


def run(experiment: Experiment, folder: Path, resume: Path | None = None) -> TrainState:
    folder.mkdir(exist_ok=True)
    return train(Pretraining(experiment, read_here), folder, lambda metrics, path: None, resume)


DECAYING = Adam(learning_rate=1e-2, warmup_steps=2)


@pytest.mark.parametrize("budget", [Budget(epochs=2), Budget(epochs=2, steps=1000), Budget(epochs=2, residues=10**9)])
def test_the_rate_falls_to_nothing_at_the_end_of_the_epochs(corpus: Path, tmp_path: Path, budget: Budget) -> None:
    experiment = tiny_experiment(corpus, budget=budget, optimizer=DECAYING)
    batches = replace(experiment.batches, accumulation=3)
    state = run(replace(experiment, batches=batches), tmp_path / "run")
    assert state.total_steps == state.step > 10 and state.learning_rate == 0.0


def test_the_rate_falls_over_whatever_ends_first(corpus: Path) -> None:
    def total(**changes: object) -> int | None:
        return Pretraining(tiny_experiment(corpus, **{"optimizer": DECAYING, **changes}), read_here).state(torch.device("cpu")).total_steps

    assert total(budget=Budget(epochs=2, steps=7)) == 7 and total(budget=Budget(epochs=50, steps=7)) == 7
    assert total(budget=Budget(minutes=1)) is None
    assert total(budget=Budget(minutes=1, steps=9)) == 9
    game = Adversarial(GRUNoiserShape(4, 4, 1), noiser_steps=2, encoder_steps=1)
    plain, played = (total(budget=Budget(residues=5000), objective=objective) for objective in (MLM(), game))
    assert plain and played and 3 * (plain - 1) < played <= 3 * plain  # of three steps one trains the encoder
    state = Pretraining(tiny_experiment(corpus, budget=Budget(residues=5000), optimizer=DECAYING), read_here).state(torch.device("cpu"))
    used = data_plan(tiny_experiment(corpus))
    batches = [packed for epoch in (0, 1) for task in used.start(epoch, 1).hand(0) for packed in used.read(task)]
    needed = 1 + int(np.searchsorted(np.cumsum([to_batch(packed).residues for packed in batches]), 5000))
    assert state.total_steps == pytest.approx(needed, rel=0.1)


def test_epochs_of_several_workers_end_with_the_one_that_has_most(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(epochs=4), batches=replace(tiny_experiment(corpus).batches, accumulation=2))
    plan = data_plan(experiment)
    batches, residues = count_batches(plan, torch.device("cpu"))
    lengths = plan.corpus.read(plan.corpus.row_groups("train"), ["length"])["length"].to_numpy()
    assert residues == np.minimum(lengths, 40).sum()
    monkeypatch.setattr("raypro.pretraining.world_size", lambda: 3)
    expected = 0
    for epoch in range(4):
        hands = [plan.start(epoch, 3).hand(worker) for worker in range(3)]
        expected += math.ceil(max(sum(plan.count(task) for task in hand) for hand in hands) / 2)
    assert steps_of_epochs(experiment, plan, batches, 4) == expected


@pytest.mark.parametrize("budget", [Budget(epochs=2), Budget(residues=5000)])
def test_a_falling_rate_goes_on_where_it_was(corpus: Path, tmp_path: Path, budget: Budget) -> None:
    experiment = tiny_experiment(corpus, budget=budget, optimizer=DECAYING)
    whole = run(experiment, tmp_path / "whole")
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = run(experiment, broken, broken / "step_00000008")
    assert (resumed.step, resumed.total_steps) == (whole.step, whole.total_steps)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_where_only_minutes_end_a_run_that_the_rate_stays_is_said(
    corpus: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tiny_experiment(corpus, workers=Workers(count=1000), optimizer=DECAYING)
    for asked, said in (
        (replace(experiment, budget=Budget(minutes=1)), True),
        (replace(experiment, budget=Budget(minutes=1, epochs=1)), False),
        (replace(experiment, budget=Budget(minutes=1), optimizer=replace(DECAYING, decay="constant")), False),
        (replace(experiment, budget=Budget(minutes=1), optimizer=replace(DECAYING, decay_steps=9)), False),
    ):
        with pytest.raises(InputError, match="1000 workers"):  # said before anything starts
            pretrain(asked)
        assert ("the learning rate stays constant" in capsys.readouterr().out) == said
