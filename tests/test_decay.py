"""A learning rate that falls until the budget ends knows when that is, and goes on falling in a resumed run."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from raypro.data.plan import Cursor
from raypro.data.source import read_here, to_batch
from raypro.experiment import Experiment
from raypro.outbox import read_records
from raypro.pretraining import Pretraining, count_batches, data_plan, end_of_epochs
from raypro.settings import Budget, Tracking, Workers
from tests.small import random_sequences, tiny_experiment, train_here, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "corpus"
    write_corpus(folder, {"train": random_sequences(200, 10, 60), "valid": random_sequences(40, 10, 60, seed=1)})
    return folder


DECAYING = Adam(learning_rate=1e-2, warmup_steps=2)


@pytest.mark.parametrize("budget", [Budget(epochs=2), Budget(epochs=2, steps=1000), Budget(epochs=2, residues=10**9)])
def test_the_rate_falls_to_nothing_at_the_end_of_the_epochs(corpus: Path, tmp_path: Path, budget: Budget) -> None:
    experiment = tiny_experiment(corpus, budget=budget, optimizer=DECAYING)
    batches = replace(experiment.batches, accumulation=3)
    state = train_here(replace(experiment, batches=batches), tmp_path / "run")
    assert state.total_steps == state.step > 10 and state.learning_rate == 0.0


def test_the_rate_falls_over_whatever_ends_first(corpus: Path) -> None:
    def total(**changes: object) -> int | None:
        job = Pretraining(tiny_experiment(corpus, **{"optimizer": DECAYING, **changes}), read_here)
        return job.last_step(job.state(torch.device("cpu")), None)

    assert total(budget=Budget(epochs=2, steps=7)) == 7 and total(budget=Budget(epochs=50, steps=7)) == 7
    assert total(budget=Budget(minutes=1)) is None
    assert total(budget=Budget(minutes=1, steps=9)) == 9
    game = Adversarial(GRUNoiserShape(4, 4, 1), noiser_steps=2, encoder_steps=1)
    plain, played = (total(budget=Budget(residues=5000), objective=objective) for objective in (MLM(), game))
    assert plain and played and 3 * (plain - 1) < played <= 3 * plain  # of three steps one trains the encoder
    used = data_plan(tiny_experiment(corpus))
    batches = [packed for epoch in (0, 1) for task in used.start(epoch, 1).hand(0) for packed in used.read(task)]
    needed = 1 + int(np.searchsorted(np.cumsum([to_batch(packed).residues for packed in batches]), 5000))
    assert plain == pytest.approx(needed, rel=0.1)


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
    assert end_of_epochs(experiment, plan, batches, 4, plan.start(0, 3), 0) == expected


def among(workers: int, experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process be one of so many workers, to which the others told the batches of their windows."""
    counted = count_batches(data_plan(experiment), torch.device("cpu"))
    monkeypatch.setattr("raypro.pretraining.count_batches", lambda plan, device: counted)
    for module in ("raypro.pretraining", "raypro.core.loop"):
        monkeypatch.setattr(f"{module}.world_size", lambda: workers)


@pytest.mark.parametrize("changes", [(), ((0.5, 3), (0.8, 1))])
def test_a_run_that_goes_on_by_other_workers_ends_where_they_come_to(
    changes: tuple[tuple[float, int], ...], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = replace(tiny_experiment(corpus).batches, accumulation=2, accumulation_changes=changes)
    experiment = tiny_experiment(corpus, budget=Budget(epochs=3, steps=100 if changes else None), batches=batches, optimizer=DECAYING)
    whole = train_here(experiment, tmp_path / "whole")
    assert whole.step > 40
    job, cpu = Pretraining(experiment, read_here), torch.device("cpu")
    for step in (4, whole.step // 4 * 4, whole.step):  # the last but one is near the end
        saved = torch.load(tmp_path / "whole" / f"step_{step:08d}" / "training.pt", weights_only=True)
        for workers in (1, 3):
            with monkeypatch.context() as patched:
                among(workers, experiment, patched)
                state = job.state(cpu)
                state.load_state_dict(saved)
                end = job.last_step(state, saved["cursor"])
            plan = data_plan(experiment)
            first, at = Cursor.from_plain(saved["cursor"]).dealt_to(workers), step
            for epoch in range(first.epoch, 3):
                present = first if epoch == first.epoch else plan.start(epoch, workers)
                left = max(sum(plan.count(task) for task in present.hand(worker)) for worker in range(workers))
                while left > 0:
                    left, at = left - experiment.batches.accumulation_at(experiment.budget.steps, at), at + 1
            assert end == at and (workers == 3 or end == whole.step)


def test_residues_are_reckoned_since_there_are_so_many_workers(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(residues=12_000), optimizer=DECAYING)
    whole = train_here(experiment, tmp_path / "whole")
    job = Pretraining(experiment, read_here)

    def resumed(saved: dict[str, Any]) -> tuple[int, TrainState]:
        state = job.state(torch.device("cpu"))
        state.load_state_dict(saved)
        return job.last_step(state, saved["cursor"]), state

    saved = torch.load(tmp_path / "whole" / f"step_{whole.step // 8 * 4:08d}" / "training.pt", weights_only=True)
    assert resumed(saved)[0] == whole.total_steps
    among(3, experiment, monkeypatch)
    end, state = resumed(saved)
    assert end - state.step == pytest.approx((whole.total_steps - state.step) / 3, abs=3)
    state.step += 2
    state.trained_on += 700
    assert resumed({**state.state_dict(), "cursor": saved["cursor"]})[0] == end  # once more by three


@pytest.mark.parametrize("budget", [Budget(epochs=2), Budget(residues=5000)])
def test_a_falling_rate_goes_on_where_it_was(corpus: Path, tmp_path: Path, budget: Budget) -> None:
    experiment = tiny_experiment(corpus, budget=budget, optimizer=DECAYING)
    whole = train_here(experiment, tmp_path / "whole")
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = train_here(experiment, broken, broken / "step_00000008")
    assert (resumed.step, resumed.total_steps) == (whole.step, whole.total_steps)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_rate_that_falls_each_epoch_does_so_whatever_its_steps_and_after_a_resume(corpus: Path, tmp_path: Path) -> None:
    rate = Adam(learning_rate=1e-2, warmup_steps=0, decay="exponential", decay_factor=0.5)
    experiment = tiny_experiment(corpus, budget=Budget(epochs=3), optimizer=rate, tracking=Tracking(every=1))
    whole = train_here(experiment, tmp_path / "whole")
    each = whole.step // 3
    records = [record for record, _ in read_records(tmp_path / "whole" / "tracking" / "outbox-worker.jsonl", 0) if record]
    rates = {r["step"]: r["values"]["train/learning_rate"] for r in records if "train/learning_rate" in r.get("values", {})}
    # Logged is the rate of the next step: that of the epoch's last step is the next epoch's.
    assert whole.step == 3 * each > 6 and list(rates.values()) == [1e-2 * 0.5 ** (step // each) for step in range(1, whole.step + 1)]
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = train_here(experiment, broken, broken / f"step_{(each + 4) // 4 * 4:08d}")
    assert resumed.epochs == whole.epochs == 3 and resumed.learning_rate == 1e-2 / 8
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
