"""What a sweep checks before its first trial, and how the ends of trials are read; nothing here starts Ray."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import OutOfMemoryError

from raypro.cluster import group, trial_workers
from raypro.cluster.resources import Node
from raypro.cluster.sweeping import _Desk
from raypro.cluster.trial import FIRST_STEP, Shared, result_of
from raypro.cluster.trials import died, line_of, result_of_dead
from raypro.cluster.tune import demand_of, prepare, require_criteria
from raypro.config import InputError
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.finetuning import Finetuning
from raypro.outbox import FOLDER, Outbox, read_records
from raypro.settings import Budget, Probing, Workers
from raypro.space import Optuna, Space, load_space
from raypro.sweep import Demand, Sweep
from raypro.tasks.classification import Classification
from raypro.tasks.regression import Regression
from tests.conftest import ROOT
from tests.small import hydrophobic_share, tiny_experiment, tiny_fine_tuning, write_labelled

RATES = {"optimizer.learning_rate": (1e-3, 1e-2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hydrophobic_share(tmp_path_factory.mktemp("share") / "data", {"train": 40, "valid": 8, "test": 8}).path


def sweep_of(space: Space, name: str = "sweep") -> Sweep:
    return Sweep.begin(name, space, "checksum", Demand(1.0, 0.0), "space.py")


def test_tasks_as_an_axis_get_what_only_the_data_know(data: Path, raypro_home: Path) -> None:
    tried = (Regression(pooling="mean", hidden=16), Regression(pooling="max", hidden=16))
    prepared, source = prepare(Space(tiny_fine_tuning(data), {"task": tried}))
    labels = np.array(source.read("train").labels)  # type: ignore[union-attr]
    expected = [replace(task, center=labels.mean(), scale=labels.std()) for task in tried]
    sweep = sweep_of(prepared)
    assert [trial.experiment.task for trial in sweep.trials] == expected  # type: ignore[union-attr]
    sweep.save()
    resumed, _ = prepare(Sweep.open("sweep").space)
    assert [resumed.experiment(choice).task for choice in resumed.combinations()] == expected  # type: ignore[union-attr]


def test_classes_are_filled_in_and_a_task_of_another_kind_is_refused(data: Path, tmp_path: Path) -> None:
    columns = {"sequence": ["ACDEFGHIKL", "LKIHGFEDCA"], "label": ["a", "b"]}
    classes = write_labelled(tmp_path / "classes", "classification", dict.fromkeys(("train", "valid"), columns), ("a", "b")).path
    space = Space(tiny_fine_tuning(classes, task=Classification(hidden=8)), {"task": (Classification(hidden=8), Classification(hidden=16))})
    prepared, _ = prepare(space)
    assert [prepared.experiment(choice).task.classes for choice in prepared.combinations()] == [("a", "b")] * 2  # type: ignore[union-attr]
    with pytest.raises(InputError, match="classification"):
        prepare(Space(tiny_fine_tuning(data), {"task": (Regression(), Classification())}))


def test_a_criterion_that_no_trial_measures_is_refused_before_the_first() -> None:
    base = tiny_experiment(Path("corpus"), objective=MLM())

    def check(*names: str, axes: Any = RATES, **changes: Any) -> None:
        require_criteria(Space(replace(base, **changes), axes, criteria=tuple((name, "min") for name in names)))

    check("valid/loss", "valid/accuracy_mlm")
    check("valid/loss", "probe/families/accuracy", probe=Probing("families", "data"))
    with pytest.raises(InputError, match="criteria: valid/los: no figure of these trials; did you mean valid/loss"):
        check("valid/los")
    with pytest.raises(InputError, match="criteria: probe/families/accuracy: no figure"):
        check("probe/families/accuracy")
    with pytest.raises(InputError, match="criteria: valid/accuracy_mlm: no figure"):
        check("valid/accuracy_mlm", axes={"objective": (MLM(), CPC())})
    with pytest.raises(InputError, match="criteria: trials of fine-tuning"):
        require_criteria(Space(tiny_fine_tuning(Path("data")), RATES, criteria=(("valid/spearman", "max"),)))
    with pytest.raises(InputError, match="criteria: valid/accuracy_cpc_k3: no figure"):
        check("valid/accuracy_cpc_k3", axes={"objective": (CPC(judged_ahead=2),)})
    require_criteria(load_space(ROOT / "tune_spaces" / "cpcprot_pretrain.py", None, "corpus", "families"))


def test_a_search_by_optuna_without_optuna_is_refused_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="search: Optuna is not installed"):
        prepare(Space(tiny_fine_tuning(Path("/no/such")), RATES, Optuna(2)))


def test_a_resumed_sweep_runs_as_many_trials_at_once_as_before_unless_told_otherwise(raypro_home: Path) -> None:
    sweep = sweep_of(Space(tiny_fine_tuning(Path("data")), {"optimizer.learning_rate": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}))
    four, one = [Node("", "", 4.0, 0.0)], [Node("", "", 1.0, 0.0)]
    assert demand_of(sweep, four, None, None, None).at_once == 4
    sweep.with_demand(demand_of(sweep, four, 2, None, None)).save()
    resumed = Sweep.open("sweep")
    assert [demand_of(resumed, nodes, None, None, None).at_once for nodes in (four, one)] == [2, 1]
    assert demand_of(resumed, four, 3, None, None).at_once == 3
    resumed.with_demand(demand_of(resumed, one, None, None, None)).save()  # on a smaller machine
    assert demand_of(Sweep.open("sweep"), four, None, None, None).at_once == 2


DEAD = """The actor died unexpectedly before finishing this task.
	class_name: ImplicitFunc
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: {} Some common causes include:
(1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"""


def test_why_a_process_died_is_what_ray_knows_and_not_what_it_guesses() -> None:
    said = died(RuntimeError(DEAD.format("Connection error code 2. End of file.")))
    assert said.startswith("its process died (The actor is dead because its worker process has died.") and said.endswith("End of file.)")
    roots = "Worker unexpectedly exits. There are some potential root causes. (1) The process is killed by the OOM killer."
    assert died(RuntimeError(roots)) == "its process died (Worker unexpectedly exits.)"
    assert died(OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node was ...")) == (
        "its process died: the machine's memory was full, and Ray ended it"
    )
    assert died(None) == "its process died"


def logged_run(trial_path: Path, *points: tuple[int, dict[str, float]]) -> None:
    outbox = Outbox(trial_path, "worker")
    for step, values in points:
        outbox.metrics(step, {"train/loss": 1.0, **values})
    outbox.close()


@pytest.mark.parametrize("attempt_before", [False, True])
def test_a_trial_whose_process_died_has_the_time_that_it_took(attempt_before: bool, raypro_home: Path) -> None:
    sweep = sweep_of(Space(tiny_fine_tuning(Path("data")), RATES))
    sweep.save()
    trial, started = sweep.trials[0], time.time() - 100
    trial.begin("checksum")
    logged_run(trial.path, (4, {"train/epoch": 0.5}), (9, {"train/epoch": 1.5}))
    (trial.path / FIRST_STEP).touch()
    at = started - 50 if attempt_before else started + 2
    os.utime(trial.path / FIRST_STEP, (at, at))
    result = result_of_dead(trial, "its process died", started)
    assert (result.status, result.score, result.used, result.started) == ("failed", None, 1.5, started)
    assert result.first_step == (None if attempt_before else pytest.approx(at))
    assert "; 100 s)" in line_of(sweep, trial, result)


@pytest.mark.parametrize(
    ("budget", "used", "allowed"),
    [
        (Budget(epochs=20), 3.0, 20.0),  # it ran out of patience
        (Budget(epochs=3), 3.0, 3.0),
        (Budget(epochs=20, minutes=6), 3.0, 3.0),  # the minutes were over: nothing was saved
        (Budget(epochs=20, minutes=12), 3.0, 6.0),  # they would have been over by then
        (Budget(epochs=20, steps=30), 3.0, 3.0),
        (Budget(epochs=20, residues=4000), 3.0, 12.0),
        (Budget(steps=60), 30.0, 60.0),
        (Budget(minutes=6), 30.0, 30.0),
    ],
)
def test_early_stopping_saves_what_the_first_of_the_budgets_limits_left(
    budget: Budget, used: float, allowed: float, tmp_path: Path
) -> None:
    logged_run(tmp_path, (10, {"train/epoch": 1.0}), (30, {"train/epoch": 3.0, "train/minutes": 6.0, "train/residues": 1000.0}))
    result = result_of(tmp_path, tiny_fine_tuning(Path("data"), budget=budget), "finished")
    assert (result.used, result.allowed) == (used, pytest.approx(allowed))


def test_the_same_model_is_registered_once_and_another_one_again(raypro_home: Path) -> None:
    sweep = sweep_of(Space(tiny_fine_tuning(Path("data")), RATES))
    files = [sweep.path / "seed_0" / "step_00000010" / name for name in ("model.safetensors", "experiment.json")]
    other = [sweep.path / "seed_1" / "step_00000010" / name for name in ("model.safetensors", "experiment.json")]
    for file in (*files, *other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        os.utime(file, (1e9, 1e9))
    outbox = Outbox(sweep.path, "driver")
    desk = _Desk(sweep, None, SimpleNamespace(outbox=outbox))  # type: ignore[arg-type]

    def versions() -> list[str]:
        records = [record for record, _ in read_records(sweep.path / FOLDER / "outbox-driver.jsonl", 0) if record]
        assert {(record["kind"], record["name"]) for record in records} == {("model", "space")}
        return [record["files"][0].split("/")[0] for record in records]

    for registered, expected in ((files, 1), (files, 1), (other, 2), (files, 3)):
        desk.register(registered)
        assert len(versions()) == expected
    os.utime(files[0], (time.time() + 10,) * 2)  # trained anew, in the same place
    desk.register(files)
    assert versions() == ["seed_0", "seed_1", "seed_0", "seed_0"]
    outbox.close()


def test_ctrl_c_is_what_it_was_after_ray_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Swallowing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def fit(self) -> None:
            signal.signal(signal.SIGINT, lambda number, frame: None)
            raise OSError("no more of it is needed")

    monkeypatch.setattr(group, "TorchTrainer", Swallowing)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="no more"):
        group.fit_on_workers(tiny_fine_tuning(tmp_path), tmp_path, 1.0)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trial_of_several_workers_whose_loss_is_not_finite_ends_at_once_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_fine_tuning(data, optimizer=Adam(learning_rate=1e30, warmup_steps=0), workers=Workers(count=2, restarts=3))
    attempts: list[str] = []

    def fit(experiment: Any, run: Path, cpus: float, worker: Any, config: dict[str, Any]) -> None:
        attempts.append(run.name)
        worker({"experiment": experiment.to_plain(), "run": str(run), **config})

    monkeypatch.setattr(trial_workers, "fit_on_workers", fit)
    monkeypatch.setattr(trial_workers, "latest_checkpoint", lambda: None)
    monkeypatch.setattr(trial_workers, "hand_over", lambda metrics, path: None)
    monkeypatch.setattr(Shared, "job", lambda self, experiment, reader: Finetuning.load(experiment))
    for _ in range(2):  # tried again it is run again
        with pytest.raises(FloatingPointError, match="not finite"):
            trial_workers.train_on_workers(base, tmp_path, Shared({}, {}, {}))
    assert len(attempts) == 2
    good = replace(base, optimizer=Adam(learning_rate=1e-3, warmup_steps=0), budget=Budget(steps=2))
    assert trial_workers.train_on_workers(good, tmp_path, Shared({}, {}, {})) == "finished"
