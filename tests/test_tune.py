"""Sweeps on Ray, the whole way: failures, resumes, early stopping, registered models, what is refused."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import ray
import torch

from raypro.cluster.tune import tune_command
from raypro.config import InputError, RunFailed
from raypro.core import checkpoint
from raypro.data.labelled import LabelledData
from raypro.evaluate.metrics import regression_metrics
from raypro.finetuning import FineTuned
from raypro.scoring import predict_split
from raypro.sweep import Result, Sweep, Trial, logged, sweep_folder
from raypro.tracking import fetch_model
from tests.small import hydrophobic_share, random_sequences, tiny_fine_tuning, write_corpus

pytestmark = pytest.mark.cluster

HEAD = """
from pathlib import Path
from raypro.cluster.resources import this_machine
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.experiment import *
from raypro.space import *
from tests.small import tiny_experiment, tiny_fine_tuning
"""
TWO = """
def space(data):
    base = tiny_fine_tuning(Path(data), budget=Budget(epochs=2))
    return Space(base, {"optimizer.learning_rate": (1e-2, 1e30)}, seeds=2)
"""
DYING = """
def space(data):
    base = tiny_experiment(Path(data), budget=Budget(steps=150), validation=Validation(every=5, sequences=None))
    return Space(base, {"optimizer.learning_rate": (1e-2, 1e-3)})
"""
HALVED = """
def space(data):
    base = tiny_experiment(Path(data), budget=Budget(steps=12), validation=Validation(every=2, sequences=None))
    return Space(base, {"optimizer.learning_rate": (1e-2, 1e-9, 1e-10)}, ASHA(trials=3, factor=3, seed=SEED))
"""


@pytest.fixture(scope="module")
def data(home: Path) -> str:
    return str(hydrophobic_share(home / "data", {"train": 200, "valid": 40, "test": 40}).path)


@pytest.fixture(scope="module")
def corpus(home: Path) -> str:
    sequences = {"train": random_sequences(100, 10, 40), "valid": random_sequences(20, 10, 40, seed=1)}
    return str(write_corpus(home / "corpus", sequences).path)


def space_file(home: Path, name: str, text: str) -> Path:
    path = home / f"{name}.py"
    path.write_text(HEAD + text)
    return path


def first_choice(size: int) -> int:
    """Return a seed of a draw of which the first of ``size`` values is the first."""
    from raypro.space import Random

    return next(seed for seed in range(100) if Random(size, seed).choices((size,))[0] == (0,))


def statuses(home: Path) -> dict[str, str]:
    """Return the name and status of every run in MLflow."""
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {run.info.run_name: run.info.status for run in runs}


def trial_at(path: Path) -> Result:
    """Return how the trial in a folder ended."""
    result = Trial(path, tiny_fine_tuning(Path("data")), ()).result
    assert result
    return result


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def test_a_failed_trial_is_recorded_and_does_not_end_the_sweep(
    home: Path, data: str, ray_cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # a narrower table breaks its words
    tune_command(space_file(home, "two", TWO), data=data, name="two", max_concurrent=1)
    said = capsys.readouterr()
    assert "2 trials (Grid, of 2 combinations), each 1 worker of 1 CPUs and 0 GPUs, 1 at once; then 2 runs of the best" in said.out
    good, bad = Sweep.open("two").trials
    assert good.result and (good.result.status, good.result.used) == ("finished", 2.0)
    assert bad.result and bad.result.status == "failed" and "not finite" in bad.result.reason
    assert "mean ± deviation" in said.out and "ridge on one-hot" in said.out
    found = {name: status for name, status in statuses(home).items() if name.startswith("two")}
    expected = {
        "two": "FINISHED",
        "two.trial_0000": "FINISHED",
        "two.trial_0001": "FAILED",
        "two.seed_0": "FINISHED",
        "two.seed_1": "FINISHED",
    }
    assert found == expected

    seeds = [sweep_folder("two") / f"seed_{i}" for i in range(2)]
    best = max(seeds, key=lambda path: max(logged(path, "valid/spearman").values()))
    registered = FineTuned.load(fetch_model("models:/two/1"))
    there = checkpoint.load(max(best.glob("step_*")))
    assert there.step == registered.step and all(torch.equal(w, there.weights[n]) for n, w in registered.model.state_dict().items())
    csv = (sweep_folder("two") / "test.csv").read_text().splitlines()
    assert csv[0] == "split,metric,mean,deviation,runs,failed,their average,mean of train,ridge on one-hot"
    csv = [csv[0], *(line for line in csv if line.startswith("test,"))]
    assert csv[1].startswith("test,spearman,")
    examples = LabelledData.open(data).read("test")
    models = [FineTuned.load(path / f"step_{trial_at(path).step:08d}") for path in seeds]
    average = np.mean([predict_split(model, examples)[0] for model in models], axis=0)
    assert float(csv[1].split(",")[6]) == pytest.approx(regression_metrics(average, np.array(examples.labels))["spearman"])


def test_a_resumed_sweep_runs_nothing_again_but_what_failed_where_it_is_told_to(home: Path, data: str, ray_cluster: None) -> None:
    written = {path: path.stat().st_mtime_ns for path in sweep_folder("two").glob("*/result.json")}
    assert len(written) == 4
    tune_command(resume="two")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    tune_command(resume="two", retry_failed=True)
    changed = [path.parent.name for path, before in written.items() if path.stat().st_mtime_ns != before]
    assert changed == ["trial_0001"]
    assert "RUNNING" not in statuses(home).values()
    with pytest.raises(InputError, match="its versions: 1$"):
        fetch_model("models:/two/2")  # the same model is registered once


def trial_process(home: Path) -> psutil.Process | None:
    """Return the process that holds a trial's folder locked."""
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith("ray::") for part in process.info["cmdline"] or []):
            try:
                if any(Path(file.path).is_relative_to(home / "sweeps") for file in process.open_files()):
                    return process
            except psutil.Error:
                continue
    return None


def test_a_trial_whose_process_dies_is_recorded_and_the_next_one_runs(home: Path, corpus: str, ray_cluster: None) -> None:
    def kill() -> None:
        wait_for(lambda: len(logged(sweep_folder("dying") / "trial_0000", "valid/loss")) > 1)
        victim = trial_process(home)
        assert victim is not None
        victim.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.time()
    tune_command(space_file(home, "dying", DYING), data=corpus, name="dying", max_concurrent=1)
    killer.join()
    dead, alive = Sweep.open("dying").trials
    assert dead.result and dead.result.status == "failed" and "its process died" in dead.result.reason
    assert "memory" not in dead.result.reason and dead.result.used  # Ray guesses at causes: that is none
    assert dead.result.first_step and began < dead.result.started <= dead.result.first_step < dead.result.ended
    assert alive.result and alive.result.status == "finished"
    assert statuses(home)["dying.trial_0000"] == "FAILED"


def test_trials_that_do_not_keep_up_are_stopped(home: Path, corpus: str, ray_cluster: None) -> None:
    space = space_file(home, "halved", HALVED.replace("SEED", str(first_choice(3))))
    tune_command(space, data=corpus, name="halved", max_concurrent=1)
    results = [trial.result for trial in Sweep.open("halved").trials]
    assert [result.status for result in results if result] == ["finished", "stopped", "stopped"]
    assert [result.used for result in results if result] == [12.0, 2.0, 2.0]
    assert not list(sweep_folder("halved").glob("seed_*"))
    assert set(statuses(home).values()) <= {"FINISHED", "FAILED"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrent": 40}, "40 trials at once: 40 workers of 1 CPUs"),
        ({"gpus_per_trial": 0.25}, "1 trial at once:.*0 GPUs"),
        ({"cpus_per_trial": 3.0}, "1 trial at once:.*3 CPUs"),
        ({"max_concurrent": 0}, "--max-concurrent 1 or more"),
        ({"data": "/no/such"}, "/no/such: no such folder"),
        ({"resume": "other"}, "--resume NAME"),
        ({"encoder": "convolution"}, "--encoder: refused.py takes none"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    options: dict[str, object], message: str, home: Path, data: str, ray_cluster: None
) -> None:
    file = space_file(home, "refused", TWO)
    with pytest.raises(InputError, match=message):
        tune_command(file, **{"data": data, "name": "refused", **options})  # type: ignore[arg-type]
    assert not sweep_folder("refused").exists()


def test_trials_of_several_workers_are_refused_where_no_dashboard_would_free_what_they_hold(
    home: Path, data: str, ray_cluster: None
) -> None:
    file = space_file(home, "no_dashboard", TWO.replace("epochs=2)", "epochs=2), workers=Workers(count=2, cpus=0.5)"))
    with pytest.raises(InputError, match="dashboard"):
        tune_command(file, data=data, name="no_dashboard", max_concurrent=1)
    assert not sweep_folder("no_dashboard").exists()


def test_a_sweep_of_which_every_trial_fails_says_why(home: Path, data: str, ray_cluster: None) -> None:
    file = space_file(home, "hopeless", TWO.replace("(1e-2, 1e30)", "(1e30,)"))
    with pytest.raises(RunFailed, match="sweep hopeless: every trial failed, the first for: the loss.*--resume hopeless --retry-failed"):
        tune_command(file, data=data, name="hopeless")
    assert statuses(home)["hopeless"] == "FAILED"


def test_nothing_of_a_sweep_stays_on_the_cluster(ray_cluster: None) -> None:
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 30)
