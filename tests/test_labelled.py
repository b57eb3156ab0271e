"""Labelled data: what is read is what was written, batches are as the objectives want them, and damage is named."""

import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypro.config import InputError, to_plain
from raypro.core.alphabet import CLS, PAD, SEP, encode
from raypro.core.batch import ContactLabel
from raypro.data.build import build
from raypro.data.corpus import sha256_of, write_manifest
from raypro.data.label_arrays import schema_of
from raypro.data.labelled import FORMAT_VERSION, Examples, LabelledData, LabelledManifest, SplitFile

SEQUENCES = ["ACDX", "WY", "MKLVU"]
COLUMNS: dict[str, dict[str, Any]] = {
    "regression": {"label": [0.5, -1.0, 2.25]},
    "classification": {"label": ["b", "a", "b"]},
    "residue_classification": {"label": ["HE-C", "--", "CCHHE"]},
    "contacts": {
        "contact_i": [[0, 1], [], [0]],
        "contact_j": [[2, 3], [], [4]],
        "resolved": [[True] * 4, [True, False], [True, True, False, True, True]],
    },
}
CLASSES = {"classification": ("a", "b"), "residue_classification": ("H", "E", "C")}
LABELS: dict[str, list[Any]] = {
    "regression": [0.5, -1.0, 2.25],
    "classification": [1, 0, 1],
    "residue_classification": [[0, 1, -1, 2], [-1, -1], [2, 2, 0, 0, 1]],
    "contacts": [([[0, 2], [1, 3]], [1, 1, 1, 1]), ([], [1, 0]), ([[0, 4]], [1, 1, 0, 1, 1])],
}
KINDS = pytest.mark.parametrize("kind", list(COLUMNS))


def write(folder: Path, kind: str, columns: dict[str, Any] | None = None, sequences: list[str] = SEQUENCES) -> LabelledData:
    """Write labelled data with one split; their manifest says what is there, right or wrong."""
    folder.mkdir(parents=True)
    table = {"id": [f"ä{i}" for i in range(len(sequences))], "sequence": sequences, **(columns or COLUMNS[kind])}
    pq.write_table(pa.table(table, schema=schema_of(kind)), folder / "train.parquet")
    rows, residues = len(sequences), sum(map(len, sequences))
    file = SplitFile("train", "train.parquet", rows, residues, sha256_of(folder / "train.parquet"))
    classes = CLASSES.get(kind, ())
    manifest = LabelledManifest(FORMAT_VERSION, "2026-01-01", kind, "label", classes, (file,), "given", "[]", "{}", "{}", ())
    write_manifest(folder, manifest)
    return LabelledData.open(folder)


def plain(label: Any) -> Any:
    if isinstance(label, ContactLabel):
        return label.pairs.tolist(), label.resolved.tolist()
    return label.tolist() if isinstance(label, np.ndarray) else label


@KINDS
def test_what_is_read_is_what_was_written(tmp_path: Path, kind: str) -> None:
    data = write(tmp_path / "d", kind)
    data.check()
    examples = data.read("train")
    assert data.splits == ("train",) and data.kind == kind and len(examples) == 3
    assert examples.sequences == SEQUENCES and examples.ids == ["ä0", "ä1", "ä2"]
    assert examples.lengths.tolist() == [4, 2, 5] and examples.starts.tolist() == [0, 4, 6, 11]
    assert [plain(label) for label in examples.labels] == LABELS[kind]
    assert [type(label) for label in examples.labels] == [
        {"regression": float, "classification": int, "contacts": ContactLabel}.get(kind, np.ndarray)
    ] * 3


@KINDS
def test_a_batch_holds_the_rows_as_given_with_control_tokens_and_padding(tmp_path: Path, kind: str) -> None:
    batch = write(tmp_path / "d", kind).read("train").batch(np.array([2, 0, 1]))
    expected = np.full((3, 7), PAD)
    for place, sequence in enumerate(["MKLVU", "ACDX", "WY"]):
        tokens = [CLS, *encode(sequence), SEP]
        expected[place, : len(tokens)] = tokens
    np.testing.assert_array_equal(batch.tokens.numpy(), expected)
    assert batch.tokens.dtype == batch.keys.dtype == batch.rows.dtype
    assert batch.rows.tolist() == [2, 0, 1]
    assert [plain(label) for label in batch.labels] == [LABELS[kind][i] for i in (2, 0, 1)]


@KINDS
def test_examples_are_arrays_alone_and_work_where_they_are_shared_and_read_only(tmp_path: Path, kind: str) -> None:
    examples = write(tmp_path / "d", kind).read("train")
    for field in dataclasses.fields(Examples):
        value = getattr(examples, field.name)
        assert field.name == "kind" or (isinstance(value, np.ndarray) and not value.dtype.hasobject)
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(examples, protocol=5, buffer_callback=buffers.append)
    shared = pickle.loads(message, buffers=[bytes(buffer) for buffer in buffers])
    assert not shared.tokens.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that it may not write to
        batch = shared.batch(np.arange(3))
    assert [plain(label) for label in batch.labels] == LABELS[kind]
    arrays = [x for label in batch.labels for x in (vars(label).values() if kind == "contacts" else [label]) if isinstance(x, np.ndarray)]
    assert all(array.flags.writeable for array in arrays)


def test_keys_depend_on_seed_epoch_and_row_but_not_on_neighbours(tmp_path: Path) -> None:
    examples = write(tmp_path / "d", "regression").read("train")
    alone = [examples.batch(np.array([row]), seed=1, epoch=2).keys.item() for row in range(3)]
    assert examples.batch(np.array([2, 0, 1]), seed=1, epoch=2).keys.tolist() == [alone[2], alone[0], alone[1]]
    others = [examples.batch(np.arange(3), seed=s, epoch=e).keys.tolist() for s, e in ((1, 2), (1, 3), (2, 2))]
    assert len({key for keys in others for key in keys}) == 9


CONTACTS = COLUMNS["contacts"]


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("regression", {"label": [0.5, float("nan"), 1.0]}, "no finite number"),
        ("regression", {"label": [0.5, None, 1.0]}, "an empty cell"),
        ("classification", {"label": ["a", "c", "b"]}, "an unknown class"),
        ("residue_classification", {"label": ["HE-C", "H?", "CCHHE"]}, "an unknown class"),
        ("residue_classification", {"label": ["HE-C", "HHH", "CCHH"]}, "a label of the wrong length"),
        ("contacts", {**CONTACTS, "resolved": [[True] * 3, [True] * 3, [True] * 5]}, "a label of the wrong length"),
        ("contacts", {**CONTACTS, "contact_j": [[2], [], [4, 3]]}, "a label of the wrong length"),
        ("contacts", {**CONTACTS, "contact_j": [[2, 3], [], [5]]}, "a contact that is none"),
        ("contacts", {**CONTACTS, "contact_i": [[0, 3], [], [0]]}, "a contact that is none"),
        ("contacts", {**CONTACTS, "resolved": [[True] * 4, [True, None], [True] * 5]}, "an empty cell"),
    ],
)
def test_labels_that_do_not_fit_are_refused_though_the_checksum_is_right(
    tmp_path: Path, kind: str, columns: dict[str, Any], message: str
) -> None:
    data = write(tmp_path / "d", kind, columns)
    for read in (lambda: data.read("train"), data.check):
        with pytest.raises(InputError, match=f"train.parquet: not as it was imported .*{message}"):
            read()


def test_a_sequence_that_is_none_is_refused(tmp_path: Path) -> None:
    for number, wrong in enumerate(("", "A1")):
        with pytest.raises(InputError, match="a sequence that is none"):
            write(tmp_path / str(number), "regression", sequences=["ACD", wrong, "WY"]).read("train")


def test_damage_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "d", "regression")
    path = data.path / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(InputError, match="train.parquet: its checksum differs"):
        data.check()
    path.write_bytes(whole[:30])
    with pytest.raises(InputError, match="train.parquet: not as it was imported"):
        data.read("train")
    path.unlink()
    with pytest.raises(InputError, match="train.parquet: missing; import the data again"):
        data.check()
    with pytest.raises(InputError, match="no split 'test'; it has train"):
        data.read("test")


def test_a_count_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "d", "regression")
    file = dataclasses.replace(data.manifest.files[0], rows=4)
    write_manifest(data.path, dataclasses.replace(data.manifest, files=(file,)))
    with pytest.raises(InputError, match="3 rows and 11 residues, the manifest says 4 and 11"):
        LabelledData.open(data.path).check()


def test_what_is_no_labelled_data_is_not_opened(tmp_path: Path) -> None:
    data = write(tmp_path / "d", "regression")
    (tmp_path / "x.fasta").write_text(">a\nACD\n")
    build([tmp_path / "x.fasta"], tmp_path / "corpus")
    (tmp_path / "empty").mkdir()
    for name, message in (("none", "no such folder"), ("empty", "unfinished import"), ("corpus", "holds no labelled data")):
        with pytest.raises(InputError, match=message):
            LabelledData.open(tmp_path / name)
    whole = to_plain(data.manifest)
    for change, message in (
        ({"version": 99}, "format version 99"),
        ({"labels": "colours"}, "'colours' is none of regression"),
        ({"extra": 1}, "extra: no such field"),
        ({"files": "train.parquet"}, "files: expected a list"),
    ):
        (data.path / "manifest.json").write_text(json.dumps({**whole, **change}))
        with pytest.raises(InputError, match=message):
            LabelledData.open(data.path)
    (data.path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        LabelledData.open(data.path)


def test_the_checksum_is_that_of_the_data(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "classification").manifest
    assert write(tmp_path / "b", "classification").manifest.checksum == first.checksum
    assert dataclasses.replace(first, created="2027-01-01").checksum == first.checksum
    assert dataclasses.replace(first, classes=("b", "a")).checksum != first.checksum
    assert write(tmp_path / "c", "classification", {"label": ["b", "b", "b"]}).manifest.checksum != first.checksum
