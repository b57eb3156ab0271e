"""Training on Ray: the whole way, with failures injected from outside."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import psutil
import pytest
import torch

from raypro.audit import audit, planned, read_uses
from raypro.cluster.train import Outcome, pretrain, saved_experiment
from raypro.config import InputError, RunFailed
from raypro.core import checkpoint
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.noiser import GRUNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.delivery import Sent
from raypro.experiment import Experiment
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import read_records
from raypro.pretraining import data_plan
from raypro.settings import Budget, Tracking, Validation, Workers
from raypro.tracking import send_pending
from tests.processes import left_after
from tests.small import random_sequences, tiny_experiment, write_corpus

pytestmark = pytest.mark.cluster

STEPS = 250
"""Some four epochs: long enough that what is killed after its first checkpoint, at KILL_AT, is killed before its end."""
KILL_AT = 25


@pytest.fixture(scope="module")
def experiment(home: Path) -> Experiment:
    write_corpus(home / "corpus", {"train": random_sequences(500, 10, 60), "valid": random_sequences(40, 10, 60, seed=1)})
    return tiny_experiment(
        home / "corpus",
        "whole",
        budget=Budget(steps=STEPS),
        validation=Validation(every=20),
        workers=Workers(count=2, cpus=0.5),
        tracking=Tracking(every=5),
    )


@pytest.fixture(scope="module")
def undisturbed(experiment: Experiment, ray_cluster: None) -> Outcome:
    return pretrain(experiment)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / f"step_{STEPS:08d}").weights


def assert_equal_weights(one: Path, other: Path) -> None:
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name


def assert_each_sequence_once(experiment: Experiment, run: Path, epochs: int) -> None:
    found = audit(planned(data_plan(experiment)), read_uses(run))
    assert len(found) == epochs
    assert not [wrong for epoch in found for wrong in epoch.wrong]
    assert all(epoch.whole == epoch.windows and epoch.rows == 500 for epoch in found[:-1])


def logged_step(run: Path) -> int:
    path = run / "tracking" / "outbox-worker.jsonl"
    records = [record for record, _ in read_records(path, 0)] if path.exists() else []
    return max((record["step"] for record in records if record and record["kind"] == "metrics"), default=0)


def wait_for_step(run: Path, step: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while logged_step(run) < step:
        assert time.monotonic() < end, f"no step {step} within {seconds} s"
        time.sleep(0.02)


def test_a_run_leaves_checkpoints_a_record_and_an_mlflow_run(undisturbed: Outcome, experiment: Experiment, home: Path) -> None:
    run = undisturbed.run
    assert run == home / "runs" / "whole"
    kept = sorted(path.name for path in run.glob("step_*"))
    assert f"step_{STEPS:08d}" in kept and undisturbed.best.name in kept and len(kept) <= 3
    assert saved_experiment("whole")[0] == experiment
    assert_each_sequence_once(experiment, run, epochs=len({use.epoch for use in read_uses(run)}))

    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "whole"
    assert found.data.params["objective.kind"] == "PMLM"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(5, STEPS + 1, 5))
    assert {"valid/loss", "valid_table2/perplexity", "speed/tokens_per_second"} <= set(found.data.metrics)
    artifacts = {a.path for folder in ("pictures", "") for a in client.list_artifacts(found.info.run_id, folder)}
    assert {"pictures/curve_loss_mlm.png", "pictures/figure3_divergence.png", "experiment.json"} <= artifacts


def test_a_killed_worker_changes_nothing(undisturbed: Outcome, experiment: Experiment) -> None:
    killed = replace(experiment, name="killed-worker")
    run, victims = run_folder(killed.name), []

    def kill_a_worker() -> None:
        wait_for_step(run, KILL_AT)
        every = [p for p in psutil.process_iter(["cmdline"]) if any("RayTrainWorker" in part for part in p.info["cmdline"] or [])]
        workers = [p for p in every if Path(p.cwd()).name == killed.name]  # not those of other runs on this machine
        victims.extend(workers)
        workers[-1].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    outcome = pretrain(killed)
    killer.join()
    assert len(victims) == 2
    assert_equal_weights(outcome.run, undisturbed.run)
    assert_each_sequence_once(killed, run, epochs=len({use.epoch for use in read_uses(undisturbed.run)}))


@pytest.fixture(scope="module")
def orphan(experiment: Experiment, home: Path) -> Path:
    """Return the folder of a run whose driver and workers were killed in mid-epoch, as by a plug that is pulled."""
    orphaned = replace(experiment, name="killed-driver")
    program = f"from raypro.cluster.train import *; pretrain(Experiment.from_plain({orphaned.to_plain()!r}))"
    driver = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_for_step(run_folder(orphaned.name), KILL_AT)
    killed = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in killed:  # stopped first: none trains on while the others are being killed
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in killed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    driver.wait()
    assert not left_after(killed, 20)
    return run_folder(orphaned.name)


def test_a_run_whose_driver_died_is_resumed_to_the_same_weights(
    undisturbed: Outcome, experiment: Experiment, orphan: Path, home: Path, ray_cluster: None
) -> None:
    fewer = shutil.copytree(orphan, orphan.with_name("resized"))
    (fewer / RUN_FILE).write_text((fewer / RUN_FILE).read_text().replace("killed-driver", "resized"))
    shutil.rmtree(fewer / "tracking")
    with pytest.raises(InputError, match="run killed-driver exists.*--resume killed-driver"):
        pretrain(replace(experiment, name="killed-driver"))
    assert (latest := max(orphan.glob("step_*"))).name < f"step_{STEPS:08d}"

    outcome = pretrain(saved_experiment("killed-driver")[0], resume=True)
    assert_equal_weights(outcome.run, undisturbed.run)
    assert_each_sequence_once(experiment, outcome.run, epochs=len({use.epoch for use in read_uses(undisturbed.run)}))
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id], "attributes.run_name = 'killed-driver'")
    assert [run.info.status for run in runs] == ["FINISHED"]

    one_worker = replace(saved_experiment("resized")[0], workers=Workers(count=1, cpus=0.5))
    resized = pretrain(one_worker, resume=True)
    uses = read_uses(resized.run)
    assert {use.step for use in uses} >= set(range(1, STEPS + 1)) and int(latest.name[5:]) < STEPS
    assert_each_sequence_once(one_worker, resized.run, epochs=len({use.epoch for use in uses}))


def test_what_would_make_another_run_is_refused_at_resuming(undisturbed: Outcome, experiment: Experiment, home: Path) -> None:
    with pytest.raises(InputError, match="seed: differs from run whole's"):
        pretrain(replace(experiment, seed=9), resume=True)
    other = write_corpus(home / "other", {"train": random_sequences(50, 10, 20), "valid": random_sequences(5, 10, 20)})
    with pytest.raises(InputError, match="not the corpus that run whole began with"):
        pretrain(replace(experiment, corpus=str(other.path)), resume=True)


def test_more_workers_than_there_is_room_for_are_refused_at_once(experiment: Experiment, ray_cluster: None) -> None:
    for workers, message in (
        (Workers(count=40, cpus=1), "40 workers"),
        (Workers(gpus=1), "0 GPUs"),
        (Workers(count=2, cpus=1), "to read the corpus"),
    ):
        with pytest.raises(InputError, match=message):
            pretrain(replace(experiment, name="too-large", workers=workers))
    assert not run_folder("too-large").exists()


def test_an_objective_that_does_not_fit_is_refused_at_once(experiment: Experiment, home: Path) -> None:
    with pytest.raises(InputError, match="encoder: Transformer has no patches to contrast"):
        pretrain(replace(experiment, name="unfit", objective=CPC()))
    patches = CPCProtShape(embedding=4, filters=(5, 6, 8), kernels=(4, 6, 3))
    with pytest.raises(InputError, match="no sequence is long enough: the longest has 40 residues, .* takes 66"):
        pretrain(replace(experiment, name="unfit", objective=CPC(), encoder=patches))
    noised = Adversarial(GRUNoiserShape(4, 4, 1), adversarial_rate=0.04)
    with pytest.raises(InputError, match=r"of the shortest sequence \(10 residues\) rounds to none; build the corpus with --min-length 13"):
        pretrain(replace(experiment, name="unfit", objective=noised))
    assert not run_folder("unfit").exists()


def test_a_run_that_fails_for_good_says_why_in_one_line(experiment: Experiment, home: Path, ray_cluster: None) -> None:
    """A learning rate beyond all reason: the loss is soon not finite, and no restart helps."""
    hopeless = replace(
        experiment,
        name="hopeless",
        optimizer=Adam(learning_rate=1e30, warmup_steps=0),
        workers=Workers(restarts=0),
    )
    with pytest.raises(RunFailed, match=r"run hopeless: .*not finite.*lower optimizer.learning_rate; .*--resume hopeless"):
        pretrain(hopeless)
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id], "attributes.run_name = 'hopeless'")
    assert [run.info.status for run in runs] == ["FAILED"]
    assert "not finite" in runs[0].data.tags["failure"]


def test_a_silent_tracking_server_stops_nothing_and_gets_everything_later(
    experiment: Experiment, home: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = replace(experiment, name="silent", budget=Budget(steps=4), workers=Workers(), tracking=Tracking(uri="http://127.0.0.1:9"))
    pretrain(silent)
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9 does not answer" in said and "raypro runs sync silent" in said
    sent = Sent.load(run_folder("silent"))
    assert sent is not None and sent.run_id is None
    sent.address = f"sqlite:///{home}/mlflow.db"  # as if it answered now
    sent.save(run_folder("silent"))
    assert send_pending(run_folder("silent")) > 0
    client = mlflow.MlflowClient(sent.address)
    runs = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id], "attributes.run_name = 'silent'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [point.step for point in client.get_metric_history(runs[0].info.run_id, "train/loss")] == [4]
