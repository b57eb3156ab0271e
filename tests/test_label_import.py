"""Importing labelled data: TAPE's files in their published forms, tables of a user's own, real data."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypro.data.label_import import ImportReport
from raypro.data.labelled import Examples
from tests.label_files import STABILITY, rejects, run, to_csv, to_json, to_lmdb

STRUCTURE = {
    "id": "1abc-A",
    "primary": "MKLVDE",
    "protein_length": 6,
    "ss3": [2, 0, 0, 1, 2, 0],
    "ss8": [7, 0, 1, 4, 5, 2],
    "valid_mask": [0, 1, 1, 1, 1, 1],
    "asa_max": [0.0] * 6,
    "disorder": [0] * 6,
}


def letters(report: ImportReport, split: str) -> list[str]:
    names = (*report.data.manifest.classes, "-")
    return ["".join(names[number] for number in label) for label in report.data.read(split).labels]


def numpy_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record as LMDB has it: lists are numpy arrays, text may be bytes."""
    return {name: np.array(value) if isinstance(value, list) else value for name, value in record.items()}


# --- TAPE's published files ---


@pytest.mark.parametrize("form", ["stability_train.json", "stability_train.json.gz", "stability_train.lmdb"])
def test_stability_as_published(tmp_path: Path, form: str) -> None:
    if form.endswith("lmdb"):
        path = to_lmdb(tmp_path / form, [numpy_record(record) for record in STABILITY])
    else:
        path = to_json(tmp_path / form, STABILITY)
    report = run([path], tmp_path / "d", task="stability")
    examples = report.data.read("train")
    assert (examples.ids, examples.sequences, examples.labels) == (["a", "b"], ["ACDEF", "WYKLM"], [1.5, -0.25])
    assert report.data.manifest.label == "stability_score" and report.read == {"train": 2} and not report.rejected


def test_fluorescence_as_published(tmp_path: Path) -> None:
    record = {"primary": "SKGEEL", "protein_length": 6, "log_fluorescence": [3.7], "num_mutations": 2}
    report = run([to_json(tmp_path / "fluorescence_test.json", [record])], tmp_path / "d", task="fluorescence")
    assert report.data.read("test").labels == [3.7] and report.data.read("test").ids == ["fluorescence_test.json:1"]


def test_a_folder_of_remote_homology_has_a_test_set_for_each_hold_out(tmp_path: Path) -> None:
    folder = tmp_path / "remote_homology"
    folder.mkdir()
    splits = "train", "valid", "test_fold_holdout", "test_superfamily_holdout", "test_family_holdout"
    for number, split in enumerate(splits):
        record = {
            "primary": "ACD" + "EFGHI"[number],
            "fold_label": 10 * (number % 2),
            "superfamily_label": 7,
            "family_label": 9,
            "class_label": 1,
        }
        records = [record, {**record, "primary": "WWY" + "EFGHI"[number], "fold_label": 2}]
        if split == "train":
            records.append({**record, "primary": "KKK", "fold_label": 10})
        to_json(folder / f"remote_homology_{split}.json", records)
    (folder / "README.md").write_text("folds")
    data = run([folder], tmp_path / "d", task="remote_homology").data
    assert data.splits == ("train", "valid", "test_family_holdout", "test_fold_holdout", "test_superfamily_holdout")
    assert data.manifest.classes == ("0", "2", "10")  # by number
    assert data.read("train").labels == [0, 1, 2] and data.read("valid").labels == [2, 1]
    assert run([tmp_path], tmp_path / "again", task="remote_homology").data.manifest.checksum == data.manifest.checksum


@pytest.mark.parametrize("stored", ["json", "lmdb"])
def test_secondary_structure_has_tapes_classes_and_unresolved_residues_are_not_scored(tmp_path: Path, stored: str) -> None:
    name = f"secondary_structure_cb513.{stored}"
    path = to_lmdb(tmp_path / name, [numpy_record(STRUCTURE)]) if stored == "lmdb" else to_json(tmp_path / name, [STRUCTURE])
    report = run([path], tmp_path / "d3", task="secondary_structure")
    assert report.data.manifest.classes == ("H", "E", "C") and letters(report, "cb513") == ["-HHECH"]
    report = run([path], tmp_path / "d8", task="secondary_structure_8")
    assert report.data.manifest.classes == tuple("GHIBESTC") and letters(report, "cb513") == ["-GHESI"]


@pytest.mark.parametrize("stored", ["nested", "flat", "lmdb"])
def test_contacts_are_resolved_pairs_below_8_angstrom(tmp_path: Path, stored: str) -> None:
    rng = np.random.default_rng(0)
    length = 40
    places = np.cumsum(rng.normal(0, 3, (length, 3)), axis=0)
    places[3], places[4] = (100, 0, 0), (108, 0, 0)  # just 8 angstrom apart: no contact
    mask = rng.random(length) < 0.8
    mask[[3, 4]] = True
    places[~mask] = np.nan if stored == "lmdb" else 0
    record = {"id": "1abc", "primary": "ACDEFGHIKL" * 4, "protein_length": length, "tertiary": places.tolist(), "valid_mask": mask.tolist()}
    if stored == "flat":
        record["tertiary"] = places.reshape(-1).tolist()
    if stored == "lmdb":
        path = to_lmdb(tmp_path / "proteinnet_test.lmdb", [numpy_record({**record, "evolutionary": [[0.0] * 21] * length})])
    else:
        path = to_json(tmp_path / "proteinnet_test.json", [record])
    (label,) = run([path], tmp_path / "d", task="contacts").data.read("test").labels
    expected = []
    for i in range(length):
        for j in range(i + 1, length):
            if mask[i] and mask[j] and sum((places[i][k] - places[j][k]) ** 2 for k in range(3)) ** 0.5 < 8:
                expected.append([i, j])
    assert 20 < len(expected) < 700 and [3, 4] not in expected
    assert label.pairs.tolist() == expected and label.resolved.tolist() == mask.tolist()


# --- tables of a user's own ---


def test_a_table_with_columns_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"name": "one", "protein": "acdef", "activity": "1.25", "part": "Train"},
        {"name": "two", "protein": "WYKLM*", "activity": " -3e-2", "part": "validation"},
        {"name": "", "protein": "MKV", "activity": "7", "part": "plate2"},
    ]
    columns = {"sequence_column": "protein", "label_column": "activity", "id_column": "name", "split_column": "part"}
    for name in ("mine.csv", "mine.tsv", "mine.csv.gz"):
        data = run([to_csv(tmp_path / name, rows)], tmp_path / name.replace(".", "_"), kind="regression", **columns).data
        assert data.splits == ("train", "valid", "plate2") and data.manifest.split_rule == "by the field part, as published"
        assert [(e.ids, e.sequences, e.labels) for e in map(data.read, data.splits)] == [
            (["one"], ["ACDEF"], [1.25]),
            (["two"], ["WYKLM"], [-0.03]),
            ([f"{name}:3"], ["MKV"], [7.0]),
        ]


def test_classes_by_name_in_parquet_and_whole_numbers_that_pandas_made_fractions(tmp_path: Path) -> None:
    table = {"sequence": ["ACD", "WYK", "MKV"], "split": ["train", "train", "valid"]}
    pq.write_table(pa.table({**table, "label": ["kinase", "GPCR", "kinase"]}), tmp_path / "a.parquet")
    data = run([tmp_path / "a.parquet"], tmp_path / "a", kind="classification").data
    assert data.manifest.classes == ("GPCR", "kinase") and data.read("train").labels == [1, 0] and data.read("valid").labels == [1]
    pq.write_table(pa.table({**table, "label": [3.0, 12.0, None]}), tmp_path / "b.parquet")
    report = run([tmp_path / "b.parquet"], tmp_path / "b", kind="classification")
    assert report.data.manifest.classes == ("3", "12") and report.rejected == {"valid": Counter({"no label": 1})}


def test_residue_classes_as_strings_with_a_mask_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"sequence": "ACDE", "label": "oooM", "ok": "1101"},
        {"sequence": "MKVLA", "label": "M-ooM", "ok": "11111"},
    ]
    path = to_csv(tmp_path / "topology.csv", rows)
    report = run([f"train={path}"], tmp_path / "d", kind="residue_classification", mask_column="ok")
    assert report.data.manifest.classes == ("M", "o") and letters(report, "train") == ["oo-M", "M-ooM"]


def test_listed_contacts_in_either_order_without_those_of_unresolved_residues(tmp_path: Path) -> None:
    columns = {"sequence": ["ACDEF"], "contact_i": [[3, 0, 0, 1]], "contact_j": [[0, 3, 2, 4]], "resolved": [[1, 1, 0, 1, 1]]}
    pq.write_table(pa.table(columns), tmp_path / "x_train.parquet")
    (label,) = run([tmp_path / "x_train.parquet"], tmp_path / "d", kind="contacts").data.read("train").labels
    assert label.pairs.tolist() == [[0, 3], [1, 4]] and label.resolved.tolist() == [True, True, False, True, True]


def test_contacts_in_a_table_without_lists_are_read_from_text(tmp_path: Path) -> None:
    texts = [
        ("[0, 1]", "[7, 8]"),
        ("0 1", "7 8"),
        ("0,1", "7.0,8"),
        (" [0  1] ", "7\n8"),
        ("[]", "[]"),
        ("3", "0"),
        (" " * 20_000 + "x", "0"),
    ]
    rows = [{"sequence": "ACDEFGHIK" + "A" * i, "contact_i": first, "contact_j": second} for i, (first, second) in enumerate(texts)]
    data = run([to_csv(tmp_path / "x_train.csv", rows)], tmp_path / "d", kind="contacts").data
    found = [label.pairs.tolist() for label in data.read("train").labels]
    assert found == [[[0, 7], [1, 8]]] * 4 + [[], [[0, 3]]]


def test_without_a_split_a_seeded_hash_of_the_sequence_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 12)) for _ in range(2000)]
    rows = [{"sequence": sequence, "label": i} for i, sequence in enumerate([*sequences, *sequences[:200]])]
    path = to_csv(tmp_path / "mine.csv", rows)
    report = run([path], tmp_path / "d", kind="regression")
    splits = {split: report.data.read(split) for split in report.data.splits}
    assert list(splits) == ["train", "valid", "test"] and not report.rejected
    assert 150 < len(splits["valid"]) < 290 and 150 < len(splits["test"]) < 290
    where = {split: set(examples.sequences) for split, examples in splits.items()}
    assert not where["train"] & where["valid"] and not where["test"] & (where["train"] | where["valid"])
    reversed_rows = to_csv(tmp_path / "other.csv", rows[::-1])
    again = run([reversed_rows], tmp_path / "again", kind="regression").data
    assert set(again.read("test").sequences) == where["test"]
    assert set(run([path], tmp_path / "seed", kind="regression", seed=1).data.read("test").sequences) != where["test"]
    assert run([path], tmp_path / "share", kind="regression", test_share=0.0).data.splits == ("train", "valid")


# --- real data ---


@pytest.mark.parametrize(
    ("task", "source", "kept", "leaks"),
    [
        ("stability", "tape", {"train": 53_583, "valid": 2_512, "test": 12_851}, 31),
        ("remote_homology", "tape", {"train": 12_312, "valid": 736, "test": 718}, 0),
        ("secondary_structure", "tape", {"train": 8_631, "valid": 2_170, "cb513": 513}, 2),
        ("contacts", "contacts.parquet", {"train": 299, "valid": 35, "test": 400}, 0),
    ],
)
def test_published_splits_are_kept_but_for_what_leaks(
    tmp_path: Path, shared_data: Path, task: str, source: str, kept: dict[str, int], leaks: int
) -> None:
    report = run([shared_data / source], tmp_path / "d", task=task)
    report.data.check()
    splits: dict[str, Examples] = {split: report.data.read(split) for split in report.data.splits}
    assert {split: len(examples) for split, examples in splits.items()} == kept
    assert sum((causes for causes in report.rejected.values()), Counter()).total() == leaks == len(rejects(report))
    sets = [set(examples.sequences) for examples in splits.values()]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    if task == "contacts":
        label = splits["test"].label(0)
        truth = next(row for row in pq.read_table(shared_data / source).to_pylist() if row["id"] == splits["test"].ids[0])
        assert label.pairs.tolist() == sorted(map(list, zip(truth["contact_i"], truth["contact_j"], strict=True)))
