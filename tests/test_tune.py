"""Sweeps on Ray, the whole way: failures, kills, interrupts, resumes, early stopping, trials of several workers."""

import os
import signal
import subprocess
import sys
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
from raypro.finetuning import FineTuned, Finetuning
from raypro.scoring import predict_split
from raypro.sweep import Result, Sweep, Trial, logged, sweep_folder
from raypro.tracking import fetch_model
from raypro.training import train
from tests.conftest import ROOT
from tests.processes import left_after
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
LONG = """
def space(data):
    judged = Validation(every=None, sequences=None, patience=None, keep=1)
    base = tiny_fine_tuning(Path(data), encoder=ConvolutionShape(layers=2, width=64), budget=Budget(epochs=30), validation=judged)
    return Space(base, {"optimizer.learning_rate": (1e-3, 3e-3)}, seeds=1)
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
PARALLEL = """
def space(data):
    base = tiny_fine_tuning(Path(data), budget=Budget(epochs=6), workers=Workers(count=2, cpus=this_machine().cpus / 2))
    return Space(base, {"optimizer.learning_rate": (1e-2, 1e-9)}, ASHA(trials=2, factor=2, seed=SEED), seeds=1)
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


TRIAL, RAYS_OWN = "ray::ImplicitFunc", ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""How Ray calls the process of a trial, and two of a node's that hold nothing, and do not see that a driver was killed."""


def driver(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a sweep's driver, which starts a Ray of its own."""
    words = ", ".join(options)
    imports = "from pathlib import Path; from raypro.arguments import one_line_errors; from raypro.cluster.tune import tune_command"
    program = f"{imports}\nwith one_line_errors(): tune_command({words})"
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True, cwd=ROOT)


def end(process: subprocess.Popen[bytes], sent: signal.Signals) -> list[str]:
    """End a driver by a signal; return the names of what was its, and does not end by itself within the time."""
    names = {child: " ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)}
    assert any(name.startswith(TRIAL) for name in names.values())
    process.send_signal(sent)
    process.wait(60)
    left = left_after([child for child, name in names.items() if sent == signal.SIGINT or not name.startswith(RAYS_OWN)], 30)
    for child in left_after([*names], 0):
        child.kill()
    return [names[child] for child in left]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_interrupted_and_killed_goes_on_to_the_weights_of_undisturbed_trials(home: Path, data: str, ray_cluster: None) -> None:
    file = space_file(home, "killed", LONG)
    first, second = (sweep_folder("killed") / f"trial_{number:04d}" for number in range(2))

    def interrupt() -> None:
        wait_for(lambda: logged(first, "valid/loss"))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        tune_command(file, data=data, name="killed", max_concurrent=1)
    wait_for(lambda: trial_process(home) is None, 10)
    assert {name: status for name, status in statuses(home).items() if name.startswith("killed")} == {
        "killed": "KILLED",
        "killed.trial_0000": "KILLED",
    }
    assert not (first / "result.json").exists()

    process = driver(home, "resume='killed'", "max_concurrent=1")
    wait_for(lambda: logged(second, "valid/loss"))
    assert not end(process, signal.SIGKILL)
    ended = (first / "result.json").stat().st_mtime_ns
    assert not (second / "result.json").exists()

    tune_command(resume="killed")
    assert (first / "result.json").stat().st_mtime_ns == ended
    assert "RUNNING" not in statuses(home).values()
    torch.set_num_threads(1)
    for trial in Sweep.open("killed").trials:
        alone = home / f"alone_{trial.name}"
        alone.mkdir()
        experiment = trial.experiment
        state = train(Finetuning.load(experiment), alone, lambda metrics, path: None, None)  # type: ignore[arg-type]
        there = checkpoint.load(max(trial.path.glob("step_*")))
        assert there.step == state.step and trial.result and trial.result.score is not None
        for name, weight in state.model.state_dict().items():
            assert torch.equal(weight, there.weights[name]), (trial.name, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_may_have_two_workers_and_be_stopped_or_interrupted(home: Path, data: str) -> None:
    """Each asks for all CPUs: none would begin if the one before, stopped or not, had kept any. At Ctrl-C nothing stays."""
    file = space_file(home, "parallel", PARALLEL.replace("SEED", str(first_choice(2))))
    process = driver(home, f"Path({str(file)!r})", f"data={data!r}", "name='parallel'", "max_concurrent=1")
    first, seed = (sweep_folder("parallel") / name for name in ("trial_0000", "seed_0"))
    wait_for(lambda: logged(seed, "valid/loss"), 280)
    assert not end(process, signal.SIGINT) and process.returncode == 130
    results = [trial.result for trial in Sweep.open("parallel").trials]
    assert [result.status for result in results if result] == ["finished", "stopped"]
    assert {path.name.split(".")[1] for path in (first / "record").iterdir()} == {"worker_0", "worker_1"}
    assert {name: status for name, status in statuses(home).items() if name.startswith("parallel")} == {
        "parallel": "KILLED",
        "parallel.trial_0000": "FINISHED",
        "parallel.trial_0001": "FINISHED",
        "parallel.seed_0": "KILLED",
    }


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
    file = space_file(home, "no_dashboard", PARALLEL.replace("SEED", "0"))
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
