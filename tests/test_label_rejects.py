"""What is rejected of labelled data and why: bad records, splits that leak, unknown classes, pickles that ask for a call."""

import csv
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypro.config import InputError
from raypro.data.label_import import ImportReport
from tests.label_files import STABILITY, rejects, run, to_csv, to_json, to_lmdb

REGRESSION = {"sequence": "ACDEF", "label": 1.0}
RESIDUES = {"primary": "ACDEF", "ss3": [0, 1, 2, 0, 1], "valid_mask": [1] * 5}
PLACES = [[float(i), 0.0, 0.0] for i in range(5)]
CONTACTS = {"primary": "ACDEF", "tertiary": PLACES, "valid_mask": [1] * 5}
LISTED = {"primary": "ACDEF", "contact_i": [0], "contact_j": [4]}
DEEP: Any = 1
for _ in range(900):  # nearly as deep as JSON is read
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("options", "good", "change", "cause"),
    [
        ({"kind": "regression"}, REGRESSION, {"label": float("nan")}, "label that is not finite"),
        ({"kind": "regression"}, REGRESSION, {"label": "inf"}, "label that is not finite"),
        ({"kind": "regression"}, REGRESSION, {"label": "high"}, "label that is no number"),
        ({"kind": "regression"}, REGRESSION, {"label": "1_000"}, "label that is no number"),
        ({"kind": "regression"}, REGRESSION, {"label": [1.0, 2.0]}, "label that is no number"),
        ({"kind": "regression"}, REGRESSION, {"label": None}, "no label"),
        ({"kind": "regression"}, REGRESSION, {"label": " "}, "no label"),
        ({"kind": "regression"}, REGRESSION, {"sequence": ""}, "no sequence"),
        ({"kind": "regression"}, REGRESSION, {"sequence": None}, "no sequence"),
        ({"kind": "regression"}, REGRESSION, {"sequence": "AC-DF"}, "gap (- or .): an alignment, not a sequence"),
        ({"kind": "regression"}, REGRESSION, {"sequence": "AC\ud800DF"}, "another character that is no residue"),
        ({"kind": "regression"}, REGRESSION, {"label": 10**400}, "label that is no number"),
        ({"kind": "regression"}, REGRESSION, {"label": {"a": DEEP}}, "label that is no number"),
        ({"kind": "classification"}, REGRESSION, {"label": ""}, "no label"),
        ({"kind": "classification"}, REGRESSION, {"label": "NaN"}, "no label"),
        ({"kind": "classification"}, REGRESSION, {"label": float("nan")}, "no label"),
        ({"kind": "classification"}, REGRESSION, {"label": "1" * 5000}, "label that is no class"),
        ({"kind": "classification"}, REGRESSION, {"label": "a\tb"}, "label with control characters"),
        ({"kind": "classification"}, REGRESSION, {"label": {"a": 1}}, "label that is no class"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": [0, 1, 2, 0]}, "label of another length than its sequence"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": "HEC"}, "label of another length than its sequence"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": [0, 1, 2, 0, 3]}, "unknown class"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": "HEC G"}, "unknown class"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": "HEC\ud800G"}, "unknown class"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": [0, 1, 2, 0, "1" * 5000]}, "unknown class"),
        ({"task": "secondary_structure"}, RESIDUES, {"ss3": 7}, "label that is no list"),
        ({"task": "secondary_structure"}, RESIDUES, {"valid_mask": [1] * 6}, "mask of another length than its sequence"),
        ({"task": "secondary_structure"}, RESIDUES, {"valid_mask": [1, 1, 2, 1, 1]}, "mask of other values than 0 and 1"),
        ({"task": "secondary_structure"}, RESIDUES, {"valid_mask": [1, 1, DEEP, 1, 1]}, "mask of other values than 0 and 1"),
        ({"task": "secondary_structure"}, RESIDUES, {"valid_mask": [0] * 5}, "no residue is scored"),
        ({"kind": "residue_classification", "label_column": "ss3"}, RESIDUES, {"ss3": "HE CH"}, "label that is no class letter"),
        ({"kind": "residue_classification", "label_column": "ss3"}, RESIDUES, {"ss3": [1, 2, 3, 4, 10]}, "label that is no class letter"),
        ({"task": "contacts"}, CONTACTS, {"tertiary": PLACES[:4]}, "label of another length than its sequence"),
        ({"task": "contacts"}, CONTACTS, {"tertiary": [*PLACES[:4], [0, 0, float("nan")]]}, "label that is not finite"),
        ({"task": "contacts"}, CONTACTS, {"tertiary": [*PLACES[:4], [0, 0, 10**400]]}, "coordinates that are no numbers"),
        ({"task": "contacts"}, CONTACTS, {"tertiary": "here"}, "coordinates that are no numbers"),
        ({"task": "contacts"}, CONTACTS, {"valid_mask": [1] * 4}, "mask of another length than its sequence"),
        ({"task": "contacts"}, CONTACTS, {"valid_mask": [0, 0, 0, 0, 1]}, "fewer than two resolved residues"),
        ({"task": "contacts"}, LISTED, {"contact_j": [5]}, "contact outside the sequence"),
        ({"task": "contacts"}, LISTED, {"contact_j": [-1]}, "contact outside the sequence"),
        ({"task": "contacts"}, LISTED, {"contact_j": [0]}, "contact outside the sequence"),
        ({"task": "contacts"}, LISTED, {"contact_j": [1, 2]}, "contacts that are no pairs of residues"),
        ({"task": "contacts"}, LISTED, {"contact_j": [10**400]}, "contacts that are no pairs of residues"),
        ({"task": "contacts"}, LISTED, {"contact_j": "4, 5"}, "contacts that are no pairs of residues"),
        ({"task": "contacts"}, LISTED, {"contact_j": "e"}, "contacts that are no pairs of residues"),
        ({"task": "contacts"}, LISTED, {"contact_j": "[nan]"}, "label that is no list"),
        ({"task": "contacts"}, LISTED, {"contact_j": " "}, "no label"),
        ({"task": "contacts"}, LISTED, {"contact_j": None}, "label that is no list"),
    ],
)
def test_a_bad_record_is_left_out_counted_and_named(
    tmp_path: Path, options: dict[str, Any], good: dict[str, Any], change: dict[str, Any], cause: str
) -> None:
    records = [{"id": "first", **good}, {"id": "b\tad", **good, **change}, {"id": "last", **good}]
    report = run([to_json(tmp_path / "x_train.json", records)], tmp_path / "d", **options)
    assert report.data.read("train").ids == ["first", "last"]
    assert report.rejected == {"train": Counter({cause: 1})} and report.read == {"train": 3}
    (row,) = rejects(report)
    assert [row[name] for name in ("source", "row", "split", "id", "cause")] == ["x_train.json", "2", "train", "b\tad", cause]
    assert json.loads(report.data.manifest.rejected) == {"train": {cause: 1}}


def test_records_that_cannot_be_read_are_rejected_with_their_causes(tmp_path: Path) -> None:
    good = json.dumps(STABILITY[0])
    (tmp_path / "x_train.json").write_text("\n".join(['{"primary": bad}', good, "17", "null", "[1]", '{"primary": bad}']))
    report = run([tmp_path / "x_train.json"], tmp_path / "d", task="stability")
    assert report.data.read("train").ids == ["a"] and report.read == {"train": 6}
    assert [(row["row"], row["cause"], row["detail"]) for row in rejects(report)] == [
        ("1", "not valid JSON", '{"primary": bad}'),
        ("3", "no object with fields", "int"),
        ("4", "no object with fields", "null"),
        ("5", "no object with fields", "list"),
        ("6", "not valid JSON", '{"primary": bad}'),
    ]
    (tmp_path / "x_train.json").write_text('{"primary": bad}\n')
    with pytest.raises(InputError, match="no record with fields in it"):
        run([tmp_path / "x_train.json"], tmp_path / "none", task="stability")


@pytest.mark.parametrize("block", [16, 1 << 20], ids=["in blocks", "at once"])
def test_rows_of_a_table_with_a_wrong_number_of_columns_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("raypro.data.tables._BLOCK_BYTES", block)
    (tmp_path / "x.test.csv").write_text("sequence,label\nACD,1\nWY\nMKV,2,3\nMKL,4\n")
    report = run([tmp_path / "x.test.csv"], tmp_path / "d", kind="regression")
    assert report.data.read("test").labels == [1.0, 4.0]
    assert sorted((row["row"], row["cause"]) for row in rejects(report)) == [
        ("2", "wrong number of columns"),
        ("3", "wrong number of columns"),
    ]


def test_a_row_with_no_split_is_rejected(tmp_path: Path) -> None:
    rows = [{"sequence": s, "label": 1, "split": split} for s, split in (("ACD", "train"), ("MKV", ""), ("MKL", "../x"))]
    report = run([to_csv(tmp_path / "x.csv", rows)], tmp_path / "d", kind="regression")
    assert report.rejected == {"none": Counter({"no name of a split": 2})} and report.data.splits == ("train",)


def test_a_class_that_never_occurs_in_train_is_rejected_elsewhere(tmp_path: Path) -> None:
    rows = [("ACD", "a", "train"), ("MKV", "b", "train"), ("WYL", "b", "valid"), ("WYM", "c", "test"), ("WYN", "a", "test")]
    path = to_csv(tmp_path / "x.csv", [dict(zip(("sequence", "label", "split"), row, strict=True)) for row in rows])
    report = run([path], tmp_path / "d", kind="classification")
    assert report.data.manifest.classes == ("a", "b") and report.data.read("test").labels == [0]
    assert [(row["row"], row["cause"], row["detail"]) for row in rejects(report)] == [("4", "class that never occurs in train", "c")]
    report = run([path], tmp_path / "r", kind="residue_classification", label_column="sequence")
    assert [row["detail"] for row in rejects(report)] == ["L, W, Y", "W, Y", "N, W, Y"]


def test_a_sequence_in_two_splits_stays_in_the_later_one_but_in_every_test_set(tmp_path: Path) -> None:
    splits = {"train": "ACD CDE DEF EFG", "valid": "CDE FGH EFG", "ts115": "DEF FGH GHI", "casp12": "GHI HIK EFG"}
    for split, sequences in splits.items():
        to_csv(tmp_path / f"x_{split}.csv", [{"sequence": sequence, "label": "1"} for sequence in sequences.split()])
    report = run([tmp_path / f"x_{split}.csv" for split in splits], tmp_path / "d", kind="regression")
    kept = {split: " ".join(report.data.read(split).sequences) for split in report.data.splits}
    assert kept == {"train": "ACD", "valid": "CDE", "ts115": "DEF FGH GHI", "casp12": "GHI HIK EFG"}
    assert report.rejected["train"] == {"sequence that is also in a later split": 3} and report.rejected["valid"].total() == 2
    assert {row["detail"] for row in rejects(report)} == {"kept in valid", "kept in ts115", "kept in casp12"}
    assert "ts115 and casp12 share 1 sequences; each test set is kept whole" in report.data.manifest.notes
    assert shared(report) == [("ts115", "GHI", "casp12"), ("casp12", "GHI", "ts115")]

    asked = run([tmp_path / f"x_{split}.csv" for split in splits], tmp_path / "leaky", kind="regression", keep_overlaps=True)
    assert " ".join(asked.data.read("train").sequences) == splits["train"] and not asked.rejected
    assert "1 sequences of train are also in ts115, as you asked: scores on ts115 are too good" in asked.data.manifest.notes
    assert ("train", "EFG", "valid, casp12") in shared(asked) and len(shared(asked)) == 11


def shared(report: ImportReport) -> list[tuple[str, str, str]]:
    with (report.data.path / "shared.tsv").open(newline="") as file:
        return [(row["split"], row["sequence"], row["also in"]) for row in csv.DictReader(file, delimiter="\t")]


def test_repeated_sequences_of_a_split_are_kept_and_said(tmp_path: Path) -> None:
    rows = [("ACD", 1), ("ACD", 1), ("ACD", 2), ("MKV", 3)]
    path = to_csv(tmp_path / "x_train.csv", [{"sequence": s, "label": label} for s, label in rows])
    data = run([path], tmp_path / "d", kind="regression").data
    assert data.read("train").labels == [1, 1, 2, 3]
    assert "train: 2 repeat an earlier sequence of the split, 1 of them with another label; all are kept" in data.manifest.notes
    assert "there is no valid split; fine-tuning needs one" in data.manifest.notes


def test_numbers_taken_for_classes_are_pointed_out(tmp_path: Path) -> None:
    rows = [{"sequence": "ACD" * (i + 1), "label": i / 7, "split": "train"} for i in range(9)]
    (note,) = [
        n for n in run([to_csv(tmp_path / "x.csv", rows)], tmp_path / "d", kind="classification").data.manifest.notes if "classes" in n
    ]
    assert "9 classes for 9 sequences" in note and "--kind regression" in note


def test_classes_without_a_train_split_are_asked_for_and_what_may_be_a_missing_label_is_said(tmp_path: Path) -> None:
    rows = [{"sequence": sequence, "label": label} for sequence, label in (("ACD", "a"), ("WYL", "None"), ("MKV", "NA"), ("MKL", "no"))]
    with pytest.raises(InputError, match=r"no labelled sequence of train is left \(none in them\); the classes are those that train has"):
        run([to_csv(tmp_path / "x_test.csv", rows)], tmp_path / "d", kind="classification")
    with pytest.raises(InputError, match=r"no labelled sequence of train is left \(4 sequence that is also in a later split\)"):
        run([to_csv(tmp_path / "x_train.csv", rows), tmp_path / "x_test.csv"], tmp_path / "d", kind="classification")
    data = run([tmp_path / "x_train.csv"], tmp_path / "d", kind="classification").data
    assert "a class is called NA, None: if that means a missing label, leave those cells empty" in data.manifest.notes
    assert not (data.path / "shared.tsv").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_hostile_pickle_in_a_record_is_rejected_and_does_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for hidden in (
        _Evil(made),
        {**STABILITY[1], "stability_score": _Evil(made)},
        {**STABILITY[1], "x": np.array([_Evil(made)], dtype=object)},
    ):
        path = to_lmdb(tmp_path / f"{len(list(tmp_path.iterdir()))}_train.lmdb", [STABILITY[0], hidden])
        (row,) = rejects(report := run([path], tmp_path / f"{path.stem}_data", task="stability"))
        assert report.data.read("train").ids == ["a"] and row["row"] == "2" and row["cause"].startswith("a pickle that is damaged or asks")
        assert "mkdir" in row["detail"] or "type 'O8'" in row["detail"]
    assert not made.exists()
    pickle.loads(pickle.dumps(_Evil(made)))
    assert made.exists()  # it would have done something


def test_an_lmdb_without_a_count_is_refused(tmp_path: Path) -> None:
    path = to_lmdb(tmp_path / "x_train.lmdb", STABILITY)
    import lmdb

    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"num_examples", pickle.dumps("many"))
    with pytest.raises(InputError, match="'num_examples' is no number"):
        run([path], tmp_path / "d", task="stability")
