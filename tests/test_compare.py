"""Adversarial against random masking: what is run, what is held equal, and what is not run again."""

import csv
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from raypro.arguments import parse
from raypro.cluster import comparing as module
from raypro.cluster import sweeping
from raypro.cluster.compare import ADVERSARIAL, LONGER, RANDOM, SCRATCH, Comparison, compare
from raypro.cluster.comparing import PAPER_GRID, Tuning
from raypro.cluster.trial import Shared, run_trial
from raypro.cluster.trials import close
from raypro.config import InputError
from raypro.core.noiser import GRUNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.data.labelled import LabelledData
from raypro.experiment import Experiment
from raypro.settings import Batches, Budget, Validation
from raypro.sweep import Sweep, Trial
from raypro.tracking import Child
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, write_corpus
from tests.test_compare_objectives import pretrain_here


def comparison(corpus: Path, **changes: object) -> Comparison:
    objective = Adversarial(noiser=GRUNoiserShape(8, 8, 1), noiser_steps=1, encoder_steps=3)
    adversarial = tiny_experiment(
        corpus,
        objective=objective,
        optimizer=Adam(learning_rate=1e-3, warmup_steps=8),
        batches=Batches(token_budget=256, max_length=40, window_row_groups=2, accumulation_changes=((0.75, 2),)),
        budget=Budget(steps=16),
        validation=Validation(every=8, sequences=16),
    )
    return Comparison("tried", adversarial, tuning=Tuning((1e-3,), epochs=1, seeds=2, at_once=1), **changes)


def test_random_masking_has_the_encoders_steps_and_all_else_alike() -> None:
    asked = comparison(Path("corpus"))
    adversarial, random, longer = (asked.pretraining(c, n) for c, n in ((ADVERSARIAL, 1.0), (RANDOM, 1.0), (LONGER, 1.5)))
    assert [run.name for run in (adversarial, random, longer)] == ["tried-adversarial", "tried-random", "tried-random-equal-time"]
    assert (adversarial.budget.steps, random.budget.steps, longer.budget.steps) == (16, 12, 18)
    assert random.objective == MLM(0.2)
    assert (
        random.optimizer.warmup_steps == 6
        and random.batches.accumulation_at(12, 8) == 1
        and random.batches.accumulation_at(12, 9) == 2
        and random.validation.every == 6
    )
    same = ("corpus", "encoder", "batches", "workers", "precision", "seed")
    assert all(getattr(random, name) == getattr(adversarial, name) for name in same)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, raypro_home: Path) -> None:
    asked = comparison(tmp_path)
    with pytest.raises(InputError, match="tasks: stabilty: no such task.*stability"):
        replace(asked, tasks=(("stabilty", "x"),))
    with pytest.raises(InputError, match="tasks: give pairs"):
        compare(asked)
    with pytest.raises(InputError, match="adversarial.budget: give steps, and no minutes"):
        replace(asked, adversarial=replace(asked.adversarial, budget=Budget(steps=10, minutes=1)))
    with pytest.raises(InputError, match="adversarial.objective"):
        replace(asked, adversarial=replace(asked.adversarial, objective=MLM()))
    assert not raypro_home.exists()


def test_the_grid_is_the_product_of_its_axes_and_the_table_says_which_it_was() -> None:
    tuning = Tuning((1e-4, 1e-3), (16, 64), (0.0, 0.01), (3,), epochs=7, seeds=2, residues=5000)
    space = tuning.space("tried", "stability", "data", comparison(Path("corpus")).adversarial, None)
    assert space.planned == 8 and space.seeds == 2 and space.base.budget == Budget(epochs=7)
    assert set(space.axes) == {"batches.size", "optimizer.learning_rate", "optimizer.weight_decay"}  # of one patience nothing is varied
    assert "8 combinations (batches.size 16, 64; optimizer.learning_rate 0.0001, 0.001; optimizer.weight_decay 0, 0.01;" in str(tuning)
    assert "at most 5,000 residues" in str(tuning) and "at most 7 epochs" in str(tuning) and "2 seeds" in str(tuning)
    assert "all sequences; 1 combination (" in str(Tuning((1e-3,)))
    assert PAPER_GRID.space("paper", "stability", "data", comparison(Path("corpus")).adversarial, None).planned == 24
    kept = replace(tuning, weight_decays=(0.01,)).space("tried", "stability", "data", comparison(Path("corpus")).adversarial, None)
    assert set(kept.axes) == {"batches.size", "optimizer.learning_rate"}
    assert (kept.base.optimizer.weight_decay, kept.base.validation.patience, kept.base.optimizer.beta2) == (0.01, 3, 0.999)
    for changes in ({"learning_rates": ()}, {"patience": ()}, {"epochs": 0}, {"residues": 0}):
        with pytest.raises(InputError, match="tuning: "):
            replace(tuning, **changes)


def test_the_job_is_small_by_default_and_any_field_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "jobs"))
    default = importlib.import_module("compare_adversarial").comparison()
    args = (
        "--adversarial.corpus c --tasks stability s --tuning.batch-sizes 16 64 --tuning.weight-decays 0 0.01 --tuning.residues None".split()
    )
    found = parse(Comparison, args, default=default)
    assert (found.adversarial.corpus, found.tasks) == ("c", (("stability", "s"),))
    assert found.tuning == replace(default.tuning, batch_sizes=(16, 64), weight_decays=(0.0, 0.01), residues=None)
    assert found.pretraining(RANDOM).budget.steps == 400


def run_here(
    sweep: Sweep, trials: list[Trial], count: int, shared: Shared, begin: Callable[[Trial], Child], proposals: None = None
) -> None:
    """What a sweep's trials leave, without Ray Tune."""
    assert count == len(trials)
    for trial in trials:
        trial.begin(sweep.checksum)
        child = begin(trial)
        run_trial({"run": str(trial.path)}, shared)
        assert trial.result
        close(child, trial.result)


@pytest.mark.cluster
def test_a_comparison_ends_in_a_table_and_runs_nothing_twice(
    tmp_path: Path, raypro_home: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": random_sequences(60, 8, 30), "valid": random_sequences(12, 8, 30, seed=1)})
    data = hydrophobic_share(tmp_path / "data", {"train": 48, "valid": 16, "test": 16})
    asked = comparison(corpus.path, tasks=(("regression", str(data.path)),))
    asked = replace(asked, tuning=replace(asked.tuning, residues=500))
    started: list[str] = []
    pretrain, drive = module.pretrain, module.drive

    def train_one(run: Experiment, resume: bool) -> None:
        """The first on Ray, the others, which are run alike, in this process: they start in no time."""
        started.append(run.name)
        (pretrain_here if len(started) > 1 else pretrain)(run, resume=resume)

    def drive_one(sweep: Sweep, *rest: Any, **more: Any) -> None:
        """Likewise: the trials of the first sweep on Ray."""
        if started[-1] in swept:
            monkeypatch.setattr(sweeping, "run_trials", run_here)
            monkeypatch.setattr("ray.tune.report", lambda metrics: None)
        started.append(sweep.path.name)
        swept.append(sweep.path.name)
        drive(sweep, *rest, **more)

    swept: list[str] = []
    monkeypatch.setattr(module, "pretrain", train_one)
    monkeypatch.setattr(module, "drive", drive_one)

    rows = compare(asked)
    assert [(row.task, row.split) for row in rows] == [("regression", "test")]
    assert list(rows[0].reached) == [SCRATCH, RANDOM, LONGER, ADVERSARIAL]
    assert all(spread.runs == 2 for spread in rows[0].reached.values())
    assert len(started) == 7
    table = raypro_home / "comparisons" / "tried" / "table.csv"
    with table.open() as file:
        written = list(csv.DictReader(file))
    assert [row["condition"] for row in written] == [*rows[0].reached, "mean of train", "ridge on one-hot"]
    assert float(written[-1]["mean"]) == rows[0].baselines["ridge on one-hot"] and not written[-1]["runs"]
    assert float(written[3]["mean"]) == rows[0].reached[ADVERSARIAL].mean
    said = table.with_suffix(".md").read_text()
    assert "| regression | test |" in said and str(asked.tuning) in said and f"{max(rows[0].baselines.values()):.3f} (" in said
    sampled = LabelledData.open(asked.folder / "data" / "regression" / "data").manifest.files
    assert [file.rows < 48 for file in sampled] == [True, True, True] and sampled[0].residues <= 500 and sampled[2].rows == 16
    client = mlflow.MlflowClient(f"sqlite:///{raypro_home}/mlflow.db")
    runs = {run.info.run_name: run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])}
    held = {name: run.data.tags.get("held equal") for name, run in runs.items() if name in started[:3]}
    assert held == {"tried-random": "equal steps", "tried-adversarial": "equal steps", "tried-random-equal-time": "equal time"}

    assert compare(asked) == rows  # all of it is finished
    assert len(started) == 7
    with pytest.raises(InputError, match="run tried-random exists, finished, and is another experiment"):
        compare(replace(asked, adversarial=replace(asked.adversarial, seed=1)))
