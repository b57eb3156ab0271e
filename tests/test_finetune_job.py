"""Fine-tuning on Ray, from the job's command line to what is written, logged and said."""

import json
import shutil
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import torch

from raypro.cli import main
from raypro.cluster.train import finetune, saved_experiment
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.data.labelled import LabelledData
from raypro.home import run_folder
from raypro.job import finetune_main
from raypro.outbox import last_status
from raypro.presets import fine_tuning
from raypro.settings import Budget, Workers
from tests.small import hydrophobic_share, tiny_fine_tuning

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def data(home: Path) -> LabelledData:
    return hydrophobic_share(home / "data", {"train": 60, "valid": 30, "test": 30, "test_far": 20})


@pytest.fixture(scope="module")
def finished(data: LabelledData, ray_cluster: None) -> Path:
    """A run of two workers."""
    finetune(tiny_fine_tuning(data.path, "two", workers=Workers(count=2, cpus=0.5), budget=Budget(epochs=2)))
    return run_folder("two")


def test_scores_predictions_and_pictures_are_written(finished: Path) -> None:
    found = json.loads((finished / "scores.json").read_text())
    assert set(found["scores"]) == {"valid", "test", "test_far"}
    assert set(found["baselines"]) == {"mean of train", "ridge on one-hot"}
    low, high = found["intervals"]["test"]["spearman"]
    assert low <= found["scores"]["test"]["spearman"] <= high
    predictions = pq.read_table(finished / "predictions" / "test_far.parquet")
    assert predictions.column_names == ["id", "sequence", "predicted", "measured"] and predictions.num_rows == 20
    assert {"scatter_test.png", "against_baselines.png"} <= {path.name for path in (finished / "pictures").iterdir()}


def test_the_best_checkpoint_is_scored_and_kept(finished: Path) -> None:
    found = json.loads((finished / "scores.json").read_text())
    best = checkpoint.load(finished / f"step_{found['checkpoint']:08d}")
    assert best.metrics["valid/spearman"] == pytest.approx(found["scores"]["valid"]["spearman"], abs=1e-6)
    others = [checkpoint.load(path).metrics["valid/spearman"] for path in finished.glob("step_*")]
    assert best.metrics["valid/spearman"] == max(others)


def test_the_run_is_in_mlflow(finished: Path, home: Path) -> None:
    (run,) = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db").search_runs(
        [mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db").get_experiment_by_name("fine-tuning").experiment_id]
    )
    assert run.info.status == "FINISHED" and last_status(finished) == "FINISHED"
    assert {"test/spearman", "test_far/spearman", "best_valid/spearman", "train/loss"} <= set(run.data.metrics)
    assert run.data.tags["task"] == "Regression"
    assert "ridge on one-hot" in run.data.tags["mlflow.note.content"]


def test_one_worker_takes_the_steps_of_two(finished: Path, data: LabelledData) -> None:
    finetune(tiny_fine_tuning(data.path, "one", workers=Workers(count=1, cpus=0.5), budget=Budget(epochs=2)))
    one, two = (checkpoint.load(run_folder(name) / "step_00000008").weights for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], rtol=1e-2, atol=1e-3, msg=name)


def test_a_run_is_resumed_with_a_larger_budget_and_audited(finished: Path, data: LabelledData, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, run_folder("longer"))
    experiment, _ = saved_experiment("two")
    plain = json.loads((run_folder("longer") / "run.json").read_text())
    plain["experiment"]["name"] = "longer"
    (run_folder("longer") / "run.json").write_text(json.dumps(plain))
    shutil.rmtree(run_folder("longer") / "tracking")
    for path in run_folder("longer").glob("*.json"):
        if path.name == "checkpoint_manager_snapshot.json":  # Ray's own note of where the run's checkpoints lie
            path.write_text(path.read_text().replace(str(finished), str(run_folder("longer"))))
    finetune_main(fine_tuning, ["--resume", "longer", "--budget.epochs", "3"])
    assert (run_folder("longer") / "step_00000012").is_dir()
    with pytest.raises(SystemExit) as ended:
        main(["runs", "audit", "longer"])
    assert ended.value.code == 0 and capsys.readouterr().out.count("each exactly once") == 3


def test_bad_input_ends_with_one_line_before_anything_starts(data: LabelledData, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = shutil.copytree(data.path, home / "named")
    manifest = json.loads((named / "manifest.json").read_text())
    (named / "manifest.json").write_text(json.dumps({**manifest, "options": json.dumps({"task": "fluorescence"})}))
    wrong = {
        "holds fluorescence": ["--task", "stability", "--encoder", "convolution", "--data", str(named)],
        "--task: no such task": ["--task", "stabilty", "--encoder", "convolution", "--data", str(data.path)],
        "neither a checkpoint": ["--task", "stability", "--encoder", "nowhere", "--data", str(data.path)],
        "no such folder": ["--task", "stability", "--encoder", "convolution", "--data", str(home / "nowhere")],
        "learns contacts labels": ["--task", "contacts", "--encoder", "convolution", "--data", str(data.path)],
        "give --task": ["--encoder", "convolution"],
        "learnin": ["--task", "stability", "--encoder", "convolution", "--data", str(data.path), "--optimizer.learnin-rate", "1"],
    }
    before = sorted(home.glob("runs/*"))
    for message, args in wrong.items():
        with pytest.raises(SystemExit) as ended:
            finetune_main(fine_tuning, args)
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and len(said.splitlines()) == 1, said
        assert message.split(":")[-1].strip() in said
    assert sorted(home.glob("runs/*")) == before


def test_a_run_of_another_kind_is_not_resumed(finished: Path, data: LabelledData) -> None:
    other = tiny_fine_tuning(data.path, "two", seed=5)
    with pytest.raises(InputError, match="seed: differs"):
        finetune(other, resume=True)
