"""MLflow, there or not, gets what the run recorded and disturbs no run."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raypro import provenance, tracking
from raypro.address import silence_of, tracking_address
from raypro.config import InputError
from raypro.delivery import Sent
from raypro.mlflow_run import quiet_mlflow
from raypro.outbox import Outbox, last_status
from raypro.provenance import git_commit, identity_tags, source_digest, versions


@pytest.fixture(scope="module")
def mlflow_home(tmp_path_factory) -> Path:
    """One store for this module's runs: making one costs seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def client(mlflow_home, monkeypatch):
    monkeypatch.setenv("RAYPRO_HOME", str(mlflow_home))
    monkeypatch.setattr(tracking, "INTERVAL", 0.1)
    return quiet_mlflow().MlflowClient(tracking_address())


def test_mlflow_holds_what_the_run_recorded(client, mlflow_home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = mlflow_home / "runs" / "whole"
    with tracking.Sender(run, "pretraining") as sender:
        worker = Outbox(run, "worker")
        sender.outbox.params({"encoder.layers": 2, "long": "x" * 9000})
        sender.outbox.tags({"objective": "pmlm"})
        sender.outbox.description("## What was trained")
        sender.outbox.dataset("corpus", "a" * 64, "/data/corpus", {"sequences": 10}, "train")
        (run / "map.png").write_bytes(b"picture")
        sender.outbox.artifact(run / "map.png", "pictures")
        sender.outbox.text("experiment.json", "{}")
        worker.metrics(10, {"train/loss": 2.5, "valid/loss": 2.75})
        time.sleep(0.01)  # writing a checkpoint takes a while
        worker.checkpoint(run / "checkpoints" / "step_10", 10, {"valid/loss": 2.75})
    stored = client.get_run(sender.run_id)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "whole")
    assert stored.data.metrics == {"train/loss": 2.5, "valid/loss": 2.75}
    assert len(client.get_metric_history(sender.run_id, "valid/loss")) == 1  # the checkpoint's is the same point
    assert stored.data.params["encoder.layers"] == "2"
    assert len(stored.data.params["long"]) == 6000 and stored.data.params["long"].endswith("(cut)")
    assert stored.data.tags["objective"] == "pmlm" and stored.data.tags["mlflow.note.content"] == "## What was trained"
    assert [d.dataset.name for d in stored.inputs.dataset_inputs] == ["corpus"]
    assert {f.path for f in client.list_artifacts(sender.run_id)} == {"pictures", "experiment.json"}
    [model] = client.search_logged_models([stored.info.experiment_id], "metrics.`valid/loss` < 3")
    assert model.tags["checkpoint"] == str(run / "checkpoints" / "step_10") and model.source_run_id == sender.run_id
    assert stored.info.artifact_uri.startswith((mlflow_home / "artifacts").as_uri())
    assert os.listdir(tmp_path) == []  # nothing beside the home


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("no such luck"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_ends_with_its_true_status(client, mlflow_home, error, status):
    run = mlflow_home / "runs" / status
    with pytest.raises(type(error)), tracking.Sender(run) as sender:
        raise error
    stored = client.get_run(sender.run_id)
    assert stored.info.status == status and type(error).__name__ in stored.data.tags["failure"]


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(client, mlflow_home):
    run = mlflow_home / "runs" / "resumed"
    with tracking.Sender(run) as first:
        first.outbox.metrics(1, {"loss": 3.0})
    with tracking.Sender(run) as second:
        second.outbox.metrics(1, {"loss": 3.0})
        second.outbox.metrics(2, {"loss": 2.0})
    assert second.run_id == first.run_id
    assert [m.step for m in client.get_metric_history(first.run_id, "loss")] == [1, 2]
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_another_store_gets_the_whole_run(tmp_path):
    Sent("sqlite:////elsewhere/mlflow.db", "raypro", "run", 0, run_id="theirs", positions={"outbox-driver.jsonl": 9}).save(tmp_path)
    sender = tracking.Sender(tmp_path, tracking_uri="sqlite:////here/mlflow.db")
    assert sender.run_id is None and sender._delivery.sent.positions == {}


def test_runs_within_a_run_are_sent_by_its_thread_and_end_with_it(client, mlflow_home):
    sweep = mlflow_home / "sweeps" / "sweep"
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), tracking.Sender(sweep) as sender:
        children = [sender.child(sweep / name, f"sweep.{name}") for name in ("good", "bad", "open")]
        Outbox(sweep / "good", "worker").metrics(1, {"loss": 3.0})
        assert threading.active_count() == threads + 1
        children[0].close("FINISHED")
        children[1].close("FAILED")
        raise KeyboardInterrupt
    found = client.search_runs(
        ["0", *(e.experiment_id for e in client.search_experiments())], f"tags.mlflow.parentRunId = '{sender.run_id}'"
    )
    assert {run.info.run_name: run.info.status for run in found} == {
        "sweep.good": "FINISHED",
        "sweep.bad": "FAILED",
        "sweep.open": "KILLED",
    }
    assert client.get_run(children[0].delivery.sent.run_id).data.metrics == {"loss": 3.0}
    assert client.get_run(sender.run_id).info.status == "KILLED"


def test_runs_within_a_run_that_was_killed_are_closed_with_it(client, mlflow_home):
    sweep = mlflow_home / "sweeps" / "killed"
    script = f"""
import os, signal
from pathlib import Path
from raypro.tracking import Sender
sender = Sender(Path({str(sweep)!r})).start()
sender.child(Path({str(sweep / "trial")!r}), "killed.trial")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script])
    tracking.send_pending(sweep)
    parent, child = (Sent.load(folder) for folder in (sweep, sweep / "trial"))
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert {client.get_run(sent.run_id).info.status for sent in (parent, child)} == {"KILLED"}


def test_a_registered_model_is_found_again(client, mlflow_home):
    run = mlflow_home / "runs" / "registering"
    (run / "step_1").mkdir(parents=True)
    for name in ("model.safetensors", "experiment.json", "training.pt"):
        (run / "step_1" / name).write_text(name)
    with tracking.Sender(run) as sender:
        for _ in range(2):
            sender.outbox.model("stability", [run / "step_1" / "model.safetensors", run / "step_1" / "experiment.json"])
    assert client.get_run(sender.run_id).data.tags["model"] == "models:/stability/2"
    for address in ("models:/stability/1", "models:/stability/2", "models:/stability"):
        folder = tracking.fetch_model(address)
        assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "model.safetensors"]
    with pytest.raises(InputError, match="models:/stability/3: not there.*its versions: 1, 2"):
        tracking.fetch_model("models:/stability/3")
    with pytest.raises(InputError, match="no model of that name"):
        tracking.fetch_model("models:/stabilty/1")
    with pytest.raises(InputError, match="it is models:/NAME/VERSION"):
        tracking.fetch_model("models:stability")
    with pytest.raises(InputError, match="does not give it"):
        tracking.fetch_model("models:/stability/1", "http://127.0.0.1:9")


def test_a_driver_killed_without_a_word_is_closed_by_sending_the_rest(client, mlflow_home):
    run = mlflow_home / "runs" / "killed"
    script = f"""
import os, signal
from pathlib import Path
from raypro.tracking import Sender
sender = Sender(Path({str(run)!r})).start()
sender.outbox.metrics(1, {{"loss": 3.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script])
    assert last_status(run) == "RUNNING"
    assert tracking.send_pending(run) > 0
    stored = client.get_run(Sent.load(run).run_id)
    assert stored.info.status == "KILLED" and stored.data.metrics == {"loss": 3.0}
    assert tracking.send_pending(run) == 0


def test_a_silent_server_is_said_once_and_gets_everything_later(client, mlflow_home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said: list[str] = []
    run = mlflow_home / "runs" / "silent"
    with tracking.Sender(run, tracking_uri=f"http://127.0.0.1:{port}", say=said.append) as sender:
        sender.outbox.metrics(1, {"loss": 3.0})
    assert sender.run_id is None
    assert len([line for line in said if "does not answer" in line]) == 1
    assert "raypro runs sync silent" in said[-1] and all("\n" not in line for line in said)
    with pytest.raises(InputError, match="does not answer"):
        tracking.send_pending(run)

    with tracking.Sender(run) as sender:  # resumed, with the store that answers
        pass
    assert client.get_run(sender.run_id).data.metrics == {"loss": 3.0}


def test_what_mlflow_refuses_is_kept_and_said(client, mlflow_home):
    said: list[str] = []
    run = mlflow_home / "runs" / "refused"
    with tracking.Sender(run, say=said.append) as sender:
        sender.outbox.metrics(1, {"P@L5": 0.5})  # "@" is not allowed in a name
        sender.outbox.metrics(1, {"loss": 3.0})
        sender.outbox.artifact(run / "gone.png")
    assert client.get_run(sender.run_id).data.metrics == {"loss": 3.0}
    assert said == [f"tracking: MLflow refused 2 records of the run; see {run}/tracking/refused.jsonl"]


def test_there_is_nothing_to_send_of_no_run(tmp_path):
    with pytest.raises(InputError, match="no tracked run"):
        tracking.send_pending(tmp_path / "nobody")


def test_addresses(raypro_home, monkeypatch):
    assert tracking_address() == f"sqlite:///{raypro_home}/mlflow.db"
    assert tracking_address("sqlite:///here.db") == f"sqlite:///{Path.cwd()}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_address() == "http://127.0.0.1:1"
    assert silence_of("http://127.0.0.1:1") is not None
    assert silence_of(f"sqlite:///{raypro_home}/mlflow.db") is None


def test_provenance(tmp_path):
    assert {"python", "torch", "raypro"} <= versions().keys()
    assert git_commit(tmp_path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(git_commit(tmp_path)) == 40


def test_a_submitted_copy_of_the_code_is_told_by_its_digest_and_the_commit_handed_over(tmp_path, monkeypatch):
    package = shutil.copytree(Path(provenance.__file__).parent, tmp_path / "raypro", ignore=shutil.ignore_patterns("__pycache__"))
    here = source_digest()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert source_digest() == here and git_commit() is None
    monkeypatch.setenv("RAYPRO_COMMIT", "0123")
    assert git_commit() == "0123" and git_commit(tmp_path) is None
    assert identity_tags()["mlflow.source.git.commit"] == "0123"
    (package / "home.py").write_text((package / "home.py").read_text() + "\n")
    assert source_digest() != here
