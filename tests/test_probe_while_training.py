"""Probes of checkpoints while training goes on, the whole way: a curve in MLflow, resumed, and one that fails."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from raypro.checkpoint_probe import FAILED, WRITER, probe_checkpoint, recorded
from raypro.cluster.train import Outcome, pretrain
from raypro.config import InputError
from raypro.experiment import Experiment
from raypro.home import run_folder
from raypro.outbox import read_records
from raypro.settings import Budget, Probing, Tracking, Validation, Workers
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, write_corpus, write_labelled

pytestmark = pytest.mark.cluster

SPEARMAN = "probe/stability/spearman"


@pytest.fixture(scope="module")
def experiment(home: Path) -> Experiment:
    write_corpus(home / "corpus", {"train": random_sequences(300, 10, 40), "valid": random_sequences(40, 10, 40, seed=1)})
    hydrophobic_share(home / "stability", {"train": 80, "valid": 40, "test": 10})
    return tiny_experiment(
        home / "corpus",
        "probed",
        budget=Budget(steps=60),
        validation=Validation(every=10, keep=1),
        workers=Workers(count=2, cpus=0.5),
        tracking=Tracking(every=5),
        probe=Probing("stability", str(home / "stability"), every=2, examples=60),
    )


@pytest.fixture(scope="module")
def probed(experiment: Experiment, ray_cluster: None) -> Outcome:
    return pretrain(experiment)


def times_recorded(run: Path) -> Counter[int]:
    """Return how often each step's probe was recorded."""
    records = [record for record, _ in read_records(run / "tracking" / f"outbox-{WRITER}.jsonl", 0) if record]
    return Counter(record["step"] for record in records if record["kind"] == "metrics")


def test_every_second_checkpoint_is_probed_though_only_the_best_is_kept(probed: Outcome, home: Path) -> None:
    assert times_recorded(probed.run) == {20: 1, 40: 1, 60: 1}
    kept = sorted(path.name for path in probed.run.glob("step_*"))
    assert "step_00000020" not in kept and len(kept) <= 2
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id], "attributes.run_name = 'probed'")
    assert found.info.status == "FINISHED" and FAILED not in found.data.tags
    curve = {point.step: point.value for point in client.get_metric_history(found.info.run_id, SPEARMAN)}
    assert curve == {step: metrics[SPEARMAN] for step, metrics in recorded(probed.run).items()} and list(curve) == [20, 40, 60]
    assert "pictures/probe_stability.png" in {artifact.path for artifact in client.list_artifacts(found.info.run_id, "pictures")}


def test_the_curve_is_what_probing_the_checkpoint_gives(probed: Outcome, experiment: Experiment) -> None:
    assert probe_checkpoint(probed.run / "step_00000060", experiment.probe) == recorded(probed.run)[60]


def test_a_resumed_run_goes_on_with_its_curve(probed: Outcome, experiment: Experiment) -> None:
    pretrain(replace(experiment, budget=Budget(steps=80)), resume=True)
    assert times_recorded(probed.run) == {20: 1, 40: 1, 60: 1, 80: 1}


def test_a_probe_that_fails_is_a_warning(experiment: Experiment, home: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    """All training labels are of one class, which only the probe itself finds out."""
    columns = {split: {"sequence": random_sequences(8, 12, 20), "label": ["rich"] * 8} for split in ("train", "valid")}
    data = write_labelled(home / "one_class", "classification", columns, ("poor", "rich")).path
    probing = Probing("classification", str(data))
    outcome = pretrain(replace(experiment, name="unprobed", budget=Budget(steps=10), probe=probing))
    assert outcome.best.name == "step_00000010" and recorded(outcome.run) == {}
    assert "warning: a probe failed, the last one at step 10: the train split: all labels are of one class" in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id], "attributes.run_name = 'unprobed'")
    assert found.info.status == "FINISHED" and found.data.tags[FAILED].startswith("step 10: the train split: all labels")


def test_no_room_for_probes_is_said_at_once(experiment: Experiment, ray_cluster: None) -> None:
    for workers, cpus in ((Workers(count=2, cpus=0.8), 0.5), (Workers(count=1, cpus=0.1), 3.0)):
        probing = replace(experiment.probe, cpus=cpus)
        with pytest.raises(InputError, match=r"to probe checkpoints beside 0.25 to read the corpus; lower --workers.cpus or --probe.cpus"):
            pretrain(replace(experiment, name="no-room", workers=workers, probe=probing))
    assert not run_folder("no-room").exists()
