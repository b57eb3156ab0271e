"""Sweeps that are interrupted or killed, and go on; trials of several workers."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch

from raypro.cluster.tune import tune_command
from raypro.core import checkpoint
from raypro.finetuning import Finetuning
from raypro.sweep import Sweep, logged, sweep_folder
from raypro.training import train
from tests.conftest import ROOT
from tests.processes import left_after
from tests.small import hydrophobic_share
from tests.test_tune import first_choice, space_file, statuses, trial_process, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

LONG = """
def space(data):
    judged = Validation(every=None, sequences=None, patience=None, keep=1)
    base = tiny_fine_tuning(Path(data), encoder=ConvolutionShape(layers=2, width=64), budget=Budget(epochs=30), validation=judged)
    return Space(base, {"optimizer.learning_rate": (1e-3, 3e-3)}, seeds=1)
"""
PARALLEL = """
def space(data):
    base = tiny_fine_tuning(Path(data), budget=Budget(epochs=6), workers=Workers(count=2, cpus=this_machine().cpus / 2))
    return Space(base, {"optimizer.learning_rate": (1e-2, 1e-9)}, ASHA(trials=2, factor=2, seed=SEED), seeds=1)
"""


@pytest.fixture(scope="module")
def data(home: Path) -> str:
    return str(hydrophobic_share(home / "data", {"train": 200, "valid": 40, "test": 40}).path)


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
