"""What the report reads of fine-tuning runs and sweeps: their data, what they have to beat, and what the splits share with training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from raypro.cluster.objectives_table import Measured
from raypro.cluster.objectives_table import Score as ComparedScore
from raypro.config import to_plain
from raypro.core import checkpoint
from raypro.delivery import Sent
from raypro.encoder_import import import_encoder
from raypro.evaluate.report_scores import Score, verdict
from raypro.mlflow_store import RunRecord
from raypro.report_data import TaskData, labels, task_data
from raypro.report_runs import Runs
from raypro.report_tuned import repeated_runs, tuned_scores
from raypro.scoring import tags_of_start
from raypro.sweep_report import Spread
from tests.label_files import run as import_files
from tests.label_files import to_csv
from tests.test_imports_tape import saved, transformer

CURVES = {"train/residues": [(10, 1000.0), (20, 2000.0)], "train/minutes": [(10, 5.0), (20, 10.0)]}
"""What every pre-training run of these tests logged."""


class Files:
    """A store that holds the given files: run -> name -> text."""

    def __init__(self, files: dict[str, dict[str, str]]) -> None:
        self.files = files

    def bytes(self, run_id: str, path: str) -> bytes | None:
        text = self.files.get(run_id, {}).get(path)
        return None if text is None else text.encode()

    def json(self, run_id: str, path: str) -> dict[str, Any]:
        return json.loads(self.bytes(run_id, path) or b"{}")

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        return CURVES.get(metric, []) if run_id.startswith("mlm") else []


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


def test_a_baseline_whose_seeds_are_all_the_same_has_no_known_spread():
    sweep = tuned("scratch", tags={"axes": "optimizer.learning_rate"})
    files = {"scratch": {"test.csv": "split,metric,mean,deviation,runs\ntest,spearman,0.4,0.0,3\n"}, "tuned": scores(0.5, 0.45, 0.55)}
    found = on_test([BEFORE, sweep, tuned("tuned", START)], files)["tuned"]
    beside = {"not pre-trained": Measured.over(Spread(0.4, 0.0, 3))}
    table = ComparedScore("", "", "fine-tuned", "stability", "test", "spearman", "", Measured(0.5, 0.45, 0.55), beside)
    assert verdict(found) == table.verdict == "unclear"


@pytest.mark.parametrize(("value", "said"), [(0.66, "unclear"), (0.68, "better")])
def test_both_intervals_count_where_the_baseline_was_trained_too(value, said):
    files = {"scratch": scores(0.6, 0.55, 0.65), "tuned": scores(value, value - 0.05, value + 0.05)}  # hypot(0.05, 0.05) = 0.071
    assert verdict(on_test([BEFORE, tuned("scratch"), tuned("tuned", START)], files)["tuned"]) == said


def test_the_run_that_an_encoder_is_from_says_what_was_held_equal():
    found = on_test([BEFORE, tuned("tuned", START)], {"tuned": scores(0.5, 0.4, 0.6)})
    assert (found["tuned"].model.method, found["tuned"].model.about) == ("MLM, Transformer", "from mlm, equal tokens")


def test_residues_and_minutes_are_those_of_the_checkpoint_that_was_taken():
    own = {"train/residues": 50.0, "train/minutes": 1.0}
    records = [BEFORE, replace(tuned("early", START), metrics=own), replace(tuned("late", "/home/runs/mlm/step_00000020"), metrics=own)]
    found = on_test([*records, replace(tuned("scratch"), metrics=own)], {n: scores(0.5, 0.4, 0.6) for n in ("early", "late", "scratch")})
    assert {n: (s.model.residues, s.model.minutes) for n, s in found.items()} == {
        "early": (1050, 6),
        "late": (2050, 11),
        "scratch": (50, 1),
    }


OTHER = {"kind": "Experiment", "objective.kind": "CPC", "encoder.kind": "CPCProtShape"}
TWIN = replace(record("mlm-2", OTHER, {"corpus_checksum": "c2"}), name="mlm")


def origin(tags: dict[str, str], *records: RunRecord) -> RunRecord | None:
    return Runs(Files({}), records).origin(tuned("tuned", START, tags))  # type: ignore[arg-type]


def test_of_two_runs_of_one_name_the_id_decides_or_what_was_logged_of_the_start():
    assert origin({"start_run_id": "mlm-2"}, BEFORE, TWIN) is TWIN and origin({"start_run_id": "mlm"}, BEFORE, TWIN) is BEFORE
    assert origin({"start_objective": "CPC"}, BEFORE, TWIN) is TWIN and origin({"start_corpus_checksum": "c2"}, BEFORE, TWIN) is TWIN
    assert origin({}, BEFORE, TWIN) is None and origin({}, BEFORE) is BEFORE
    assert origin({"start_run_id": "gone"}, BEFORE) is None and origin({"start_corpus_checksum": "c3"}, BEFORE, TWIN) is None


def test_what_is_not_sure_of_the_start_stays_empty():
    known = {"start_objective": "PMLM", "start_corpus_checksum": "c3"}
    model = on_test([BEFORE, TWIN, tuned("tuned", START, known)], {"tuned": scores(0.5, 0.4, 0.6)})["tuned"].model
    assert (model.method, model.about, model.checksum) == ("PMLM, Transformer", "from mlm", "c3")
    assert (model.residues, model.minutes, model.corpus, model.pretrained) == (None, None, "", True)


def test_the_start_is_found_among_runs_that_are_not_shown():
    runs = Runs(Files({"tuned": scores(0.5, 0.4, 0.6)}), [tuned("tuned", START)], elsewhere=[BEFORE])  # type: ignore[arg-type]
    assert {s.model.method for s in tuned_scores(runs) if not s.model.baseline} == {"MLM, Transformer"} and runs.pretrained == []


def test_a_seed_that_was_run_twice_counts_once_the_newest():
    records = [tuned(name, seed=seed) for name, seed in (("first", "0"), ("again", "0"), ("other", "1"))]
    files = {"first": scores(0.1, 0.0, 0.2), "again": scores(0.4, 0.3, 0.5), "other": scores(0.6, 0.5, 0.7)}
    [mean] = on_test(records, files).values()
    assert (mean.value, mean.seeds, mean.model.run_ids) == (0.5, 2, ("again", "other"))
    assert repeated_runs(Runs(Files(files), records)) == {"first"}  # type: ignore[arg-type]
    [alone] = on_test(records[:2], files).values()
    assert (alone.value, alone.seeds, alone.deviation, alone.low) == (0.4, 1, None, 0.3)


@pytest.mark.parametrize("tag", ["equal time", "equal tokens", None])
def test_what_was_held_equal_is_said_by_the_tag_and_by_no_name(tag: str | None):
    before = replace(BEFORE, tags={"held equal": tag} if tag else {})
    before, start = replace(before, name="mlm-equal-time"), "/home/runs/mlm-equal-time/step_00000010"
    [model] = [s.model for s in on_test([before, tuned("tuned", start)], {"tuned": scores(0.5, 0.4, 0.6)}).values()]
    assert model.method == ("MLM, Transformer, equal time" if tag == "equal time" else "MLM, Transformer")


def test_fine_tuning_logs_which_pre_training_it_began_with(tmp_path: Path):
    start = tmp_path / "mlm" / "step_00000010"
    checkpoint.save(start, nn.Linear(1, 1), {"kind": "Experiment", "objective": {"kind": "MLM"}}, 10, {})
    assert tags_of_start(start) == {"start_step": "10"}
    (start.parent / "run.json").write_text(json.dumps({"experiment": {}, "data_checksum": "0123456789abcdef"}))
    Sent("sqlite:///x", "pretraining", "mlm", 0, run_id="77").save(start.parent)
    known = {"start_run_id": "77", "start_corpus_checksum": "0123456789ab", "start_objective": "MLM", "start_step": "10"}
    assert tags_of_start(start) == tags_of_start(str(start)) == known
    assert tags_of_start(None) == tags_of_start(tmp_path / "nothing") == {}
    for damaged in ("{", "[]", '{"strange": 1}'):
        (start.parent / "tracking" / "sent.json").write_text(damaged)
        assert tags_of_start(start) == {name: value for name, value in known.items() if name != "start_run_id"}


def test_an_imported_encoder_is_of_no_run_and_of_no_objective(tmp_path: Path):
    out = import_encoder(saved(transformer(), tmp_path), tmp_path / "mlm", "tape")  # called as a run is
    assert tags_of_start(out) == {"start_step": "0"}
    model = on_test([BEFORE, tuned("tuned", str(out), tags_of_start(out))], {"tuned": scores(0.5, 0.4, 0.6)})["tuned"].model
    assert (model.method, model.about, model.corpus) == ("pre-trained, Transformer", "from mlm", "")
    assert (model.checksum, model.residues, model.pretrained) == ("", None, True)


def test_data_of_ones_own_are_told_by_their_kind_where_it_is_known_that_they_are_of_no_paper():
    regression = {"task.kind": "Regression"}
    own = task_data(record("r", regression, {"data": "wells", "data_task": ""}), {})
    assert (own.task, own.own, own.measured) == ("regression", True, "own regression")
    assert task_data(record("r", regression, {"data": "wells"}), {"options": '{"task": null}'}).measured == "own regression"
    assert task_data(record("r", regression, {"data": "wells"}), {}).measured == ""  # of an older raypro: it may be stability
    assert task_data(record("r", regression, {"data": "wells", "data_task": "stability"}), {}).measured == "stability"
    assert labels([own, replace(own, name="other", checksum="x")]) == {own: "", replace(own, name="other", checksum="x"): ""}


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
    eight = task_data(record("r", (), {"data_task": "secondary_structure_8"}), {})
    assert eight.task == "secondary_structure_8" and not eight.own


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
