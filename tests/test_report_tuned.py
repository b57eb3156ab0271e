"""What the report reads of fine-tuning runs and sweeps: their data, what they have to beat, and what the splits share with training."""

import json
from pathlib import Path
from typing import Any

import pytest

from raypro.config import to_plain
from raypro.evaluate.report_scores import Score, verdict
from raypro.mlflow_store import RunRecord
from raypro.report_data import TaskData, labels, task_data
from raypro.report_runs import Runs
from raypro.report_tuned import tuned_scores
from tests.label_files import run as import_files
from tests.label_files import to_csv


class Files:
    """A store that holds the given files: run -> name -> text."""

    def __init__(self, files: dict[str, dict[str, str]]) -> None:
        self.files = files

    def bytes(self, run_id: str, path: str) -> bytes | None:
        text = self.files.get(run_id, {}).get(path)
        return None if text is None else text.encode()

    def json(self, run_id: str, path: str) -> dict[str, Any]:
        return json.loads(self.bytes(run_id, path) or b"{}")


def record(name: str, params=(), tags=(), metrics=(), **fields) -> RunRecord:
    about = {"status": "FINISHED", "parent": None, **fields}
    return RunRecord(name, name, "e", "1", about["status"], about["parent"], 0, 1.0, dict(params), dict(tags), dict(metrics))


def tuned(name: str, start: str = "None", tags=(), **params) -> RunRecord:
    known = {"kind": "FineTuning", "encoder.kind": "TransformerShape", "encoder.width": "8", "start": start, "frozen": "False"}
    return record(name, known | params, {"data": "stab", "data_task": "stability", "data_checksum": "abc", **dict(tags)})


def scores(value: float, low: float, high: float) -> dict[str, str]:
    found = {"scores": {"valid": {"spearman": 0.5}, "test": {"spearman": value}}, "intervals": {"test": {"spearman": [low, high]}}}
    return {"scores.json": json.dumps({**found, "baselines": {"ridge": {"test": {"spearman": 0.2}}}})}


def on_test(records: list[RunRecord], files: dict[str, dict[str, str]]) -> dict[str, Score]:
    """Return the scores on test by their run, without baselines."""
    found = tuned_scores(Runs(Files(files), records))  # type: ignore[arg-type]  # all that is asked of a store
    return {score.model.run_ids[0]: score for score in found if score.split == "test" and not score.model.baseline}


BEFORE = record("mlm", {"kind": "Experiment", "objective.kind": "MLM", "encoder.kind": "TransformerShape"}, {"held equal": "equal tokens"})
START = "/home/runs/mlm/step_00000010"


def test_a_pre_trained_model_has_to_beat_the_same_one_from_random_weights():
    records = [BEFORE, tuned("scratch"), tuned("tuned", START)]
    found = on_test(records, {"scratch": scores(0.6, 0.55, 0.65), "tuned": scores(0.5, 0.45, 0.55)})
    assert dict(found["tuned"].baselines) == {"ridge": 0.2, "not pre-trained": 0.6}
    assert verdict(found["tuned"]) == "not better" and dict(found["scratch"].baselines) == {"ridge": 0.2}


@pytest.mark.parametrize("other", [{"encoder.width": "16"}, {"frozen": "True"}, {"tags": {"data_checksum": "other"}}])
def test_another_shape_other_data_or_a_frozen_encoder_is_no_baseline(other):
    found = on_test([BEFORE, tuned("scratch", **other), tuned("tuned", START)], {n: scores(0.6, 0.5, 0.7) for n in ("scratch", "tuned")})
    assert "not pre-trained" not in dict(found["tuned"].baselines)


@pytest.mark.parametrize(("value", "said"), [(0.66, "unclear"), (0.68, "better")])
def test_both_intervals_count_where_the_baseline_was_trained_too(value, said):
    files = {"scratch": scores(0.6, 0.55, 0.65), "tuned": scores(value, value - 0.05, value + 0.05)}  # hypot(0.05, 0.05) = 0.071
    assert verdict(on_test([BEFORE, tuned("scratch"), tuned("tuned", START)], files)["tuned"]) == said


def test_the_run_that_an_encoder_is_from_says_what_was_held_equal():
    found = on_test([BEFORE, tuned("tuned", START)], {"tuned": scores(0.5, 0.4, 0.6)})
    assert (found["tuned"].model.method, found["tuned"].model.about) == ("MLM, Transformer", "from mlm, equal tokens")


def test_a_sweep_says_what_the_corpus_holds_of_the_split():
    sweep = tuned("grid", START, {"axes": "optimizer.learning_rate"})
    overlap = {"corpus_overlap": {"test": {"rows": 9, "identical": 3, "near": 4}}}
    files = {"test.csv": "split,metric,mean,deviation,runs,ridge\ntest,spearman,0.5,0.1,3,0.2\n", "scores.json": json.dumps(overlap)}
    assert on_test([BEFORE, sweep], {"grid": files})["grid"].overlap == (3, 4)
    assert on_test([BEFORE, sweep], {"grid": {"test.csv": files["test.csv"]}})["grid"].overlap is None


def test_what_an_import_kept_of_test_in_train_stands_beside_the_score(tmp_path: Path):
    for split, sequences in (("train", ["MKVLAA", "ACDEFG", "WYWYWY"]), ("valid", ["MMMMMM"]), ("test", ["MKVLAA", "ACDEFG", "KKKKKK"])):
        to_csv(tmp_path / f"s_{split}.csv", [{"sequence": sequence, "label": str(i)} for i, sequence in enumerate(sequences)])
    files = [tmp_path / f"s_{split}.csv" for split in ("train", "valid", "test")]
    data = import_files(files, tmp_path / "d", kind="regression", keep_overlaps=True).data
    manifest = {"data/manifest.json": json.dumps(to_plain(data.manifest))}
    found = on_test([tuned("leaky")], {"leaky": {**scores(0.5, 0.4, 0.6), **manifest}})
    assert found["leaky"].in_train == 2


def test_the_task_is_what_data_were_imported_as_and_never_guessed_from_a_name():
    older = {"options": '{"task": "secondary_structure"}', "files": [{"split": "train", "rows": 1200}]}
    assert task_data(record("r", (), {"data": "ss1200"}), older) == TaskData("secondary_structure", "ss1200", "", 1200)
    assert task_data(record("r", (), {"data": "stability_mine", "data_task": ""}), older).task == ""  # a kind of labels was given, no task
    assert task_data(record("r", (), {"data": "stability_mine"}), {}).task == ""
    assert task_data(record("r", (), {"data_task": "contacts"}), {}).task == "contacts"


@pytest.mark.parametrize(
    "manifest",
    [{"options": "{"}, {"options": 3, "files": 4, "notes": 5}, {"files": ["x", {"split": "train", "rows": "many"}], "notes": [None]}],
)
def test_a_damaged_manifest_says_nothing(manifest):
    assert task_data(record("r", (), {"data": "d"}), manifest) == TaskData("", "d", "")


def test_data_of_one_task_are_told_apart_by_name_and_size_and_else_by_checksum():
    only, small, large = (
        TaskData(t, t, c, rows) for t, c, rows in (("contacts", "a", 3), ("stability", "b", 1200), ("stability", "c", 53583))
    )
    assert labels([only, small, large, large]) == {only: "", small: "stability, 1,200 to train on", large: "stability, 53,583 to train on"}
    twin = TaskData("stability", "stability", "0123456789", 1200)
    assert labels([small, twin])[twin] == "stability, 1,200 to train on, checksum 01234567"
