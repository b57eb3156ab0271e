"""TAPE's files: JSON and LMDB, what is no record in them, and pickles that would run code."""

import gzip
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from raypro.config import InputError
from raypro.data.readers import pieces_of, read_piece
from tests.test_readers import read

TAPE = [
    {"primary": "ACD", "id": "x", "family": 3, "clan": 7, "protein_length": 3},
    {"primary": "WY", "id": "y", "family": 4, "clan": 8, "protein_length": 2},
]


@pytest.mark.parametrize("form", ["list", "indented", "lines", "gzip"])
def test_tape_json(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypro.data.tape._READ_CHARACTERS", 5)
    text = {"indented": json.dumps(TAPE, indent=2), "lines": "\n".join(map(json.dumps, TAPE))}.get(form, json.dumps(TAPE))
    path = tmp_path / ("t.json.gz" if form == "gzip" else "t.json")
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    assert [(r["id"], r["sequence"], r["family"], r["clan"], r["line"]) for r in read(path)] == [
        ("x", "ACD", "3", "7", 1),
        ("y", "WY", "4", "8", 2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"primary": "AC"}, {"primary"', "record 2 is not valid JSON"),
        ('[{"primary": "AC"}, {"primary": "WY", "n": [{"a": 1}', "record 2 is not valid JSON"),
        ('{"primary": "AC"}\n{"primary": bad}\n{"primary": "WY"', "record 3 is not valid JSON"),
        ('{"primary": "AC"}\n{"primary": "' + "A" * 5000, "record 2 is no JSON, or longer than 0 million characters"),
        ("[1, 2]", "record 1: expected an object"),
    ],
)
def test_damaged_tape_json(tmp_path: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypro.data.tape._LONGEST_RECORD", 1000)
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "t.json")


def rejects_of(path: Path) -> list[tuple[int, str, str]]:
    """Return row, id and the cause's first words of what is no record."""
    (piece,) = pieces_of(path, "sequence", 1 << 20)
    found = [row for _, rejects, _ in read_piece(piece, "sequence") for row in rejects.to_pylist()]
    return [(row["line"], row["id"], " ".join(row["cause"].split()[:3])) for row in found]


@pytest.mark.parametrize("characters", [1, 7, 1 << 20])
@pytest.mark.parametrize("between", [", ", "\n"], ids=["list", "lines"])
def test_a_bad_tape_record_is_rejected_and_the_next_one_read(
    tmp_path: Path, between: str, characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypro.data.tape._READ_CHARACTERS", characters)
    bad = [
        ('{"primary": null, "id": "none"}', "none", "no sequence"),
        ('{"primary": NaN, "id": "nan"}', "nan", "no sequence"),
        ('{"primary": 17}', "t.json:6", "a sequence that"),
        ('{"sequence": "AC", "id": "half \\ud800"}', "half ?", "no field 'primary',"),
        ('{"primary": "AC}', "t.json:10", "not valid JSON"),
        ('{"primary": AC, "id": "b"}', "t.json:12", "not valid JSON"),
        ('{"primary": ' + "[" * 100_000 + "}", "t.json:14", "not valid JSON"),
        ("null", "t.json:16", "no object with"),
        ("[1]", "t.json:18", "no object with"),
    ][: None if characters > 7 else 4]
    records = [text for number, (other, _, _) in enumerate(bad) for text in (f'{{"primary": "AC", "id": "good{number}"}}', other)]
    text = between.join([*records, '{"primary": "A\xe9", "id": "\xe9"}', '{"primary": "WY"}'])
    (tmp_path / "t.json").write_bytes((f"[{text}]" if between == ", " else text).encode("latin-1"))
    assert rejects_of(tmp_path / "t.json") == [(2 * number + 2, name, cause) for number, (_, name, cause) in enumerate(bad)]
    last = [("�", "A�"), (f"t.json:{2 * len(bad) + 2}", "WY")]
    assert [(row["id"], row["sequence"]) for row in read(tmp_path / "t.json")] == [(f"good{n}", "AC") for n in range(len(bad))] + last


@pytest.mark.parametrize("characters", [1, 7, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "bad", ['{"primary": bad}', '{"primary": "AC}', '{"primary": bad, "n": [{"a": 1}, {"primary": "MKV"}]}', "17", "[1]"]
)
def test_a_bad_tape_record_at_the_end_is_rejected(
    tmp_path: Path, bad: str, end: str, characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypro.data.tape._READ_CHARACTERS", characters)
    cause = "no object with" if bad in ("17", "[1]") else "not valid JSON"
    for text in (f'{{"primary": "AC"}}\n{bad}', f'[{{"primary": "AC"}}, {bad}]', f'[{{"primary": "AC"}},\n {bad}\n]'):
        (tmp_path / "t.json").write_text(text + end)
        assert rejects_of(tmp_path / "t.json") == [(2, "t.json:2", cause)]
        assert [row["sequence"] for row in read(tmp_path / "t.json")] == ["AC"]


@pytest.mark.parametrize("characters", [1, 7, 1 << 20])
@pytest.mark.parametrize("between", [", ", ",\n ", "\n"])
@pytest.mark.parametrize(
    "bad",
    [
        '{"primary": bad, "n": [{"a": 1}, {"primary": "MKV"}]}',
        '{"primary": bad, "n": {"m": [1, {"primary": "MKV"}, {"b": []}, {"c": 2}]}}',
        '{"primary": bad, "n": [{"note": "a { and a } in it"}]}',
        '{"primary": "AC", "n": {"a": 1',
        '{"primary": "AC", "n": [1, 2}',
        '{"primary": "AC", "n": 1]}',
    ],
)
def test_reading_goes_on_behind_a_broken_record_not_inside_it(
    tmp_path: Path, bad: str, between: str, characters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypro.data.tape._READ_CHARACTERS", characters)
    text = between.join(['{"primary": "AC"}', bad, '{"primary": "WY"}', bad, '{"primary": "GG", "n": [{}, {}]}'])
    (tmp_path / "t.json").write_text(text if between == "\n" else f"[{text}]")
    assert [(row["sequence"], row["line"]) for row in read(tmp_path / "t.json")] == [("AC", 1), ("WY", 3), ("GG", 5)]
    assert [number for number, _, _ in rejects_of(tmp_path / "t.json")] == [2, 4]


def test_a_list_whose_end_cannot_be_told_from_a_broken_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('[{"primary": "AC"}, {"primary": "AC", "n": [1, {"primary": "WY"}, {"primary": "GG"}]')
    with pytest.raises(InputError, match="record 2 is not valid JSON"):
        read(tmp_path / "t.json")


class _Evil:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_tape_lmdb(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed (pip install 'raypro[lmdb]')")
    path = tmp_path / "pfam_valid.lmdb"
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for number, record in enumerate(TAPE):
            transaction.put(str(number).encode(), pickle.dumps(record))
        transaction.put(b"num_examples", pickle.dumps(len(TAPE)))
    assert [(r["id"], r["sequence"], r["family"], r["clan"]) for r in read(path)] == [("x", "ACD", "3", "7"), ("y", "WY", "4", "8")]
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate([_Evil(), {"primary": b"MKV", "id": b"bytes"}, {"primary": np.float32("nan")}, [1]], start=1):
            transaction.put(str(number).encode(), pickle.dumps(value))
        transaction.put(b"num_examples", pickle.dumps(5))
    assert [(r["id"], r["sequence"]) for r in read(path)] == [("x", "ACD"), ("bytes", "MKV")]
    name = "pfam_valid.lmdb"
    assert rejects_of(path) == [(2, f"{name}:2", "a pickle that"), (4, f"{name}:4", "a sequence that"), (5, f"{name}:5", "no object with")]


def test_lmdb_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "x.lmdb").mkdir()
    with pytest.raises(InputError, match=r"pip install 'raypro\[lmdb\]'"):
        read(tmp_path / "x.lmdb")
