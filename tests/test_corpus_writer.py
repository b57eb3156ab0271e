"""The split writer: row groups of exact size, whole files only, and the statistics of the manifest."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypro.data.corpus import SCHEMA, sha256_of
from raypro.data.statistics import Statistics, count_bytes
from raypro.data.writer import SplitWriter, write_split


def table(sequences: list[str]) -> pa.Table:
    """Return the sequences as a table of a corpus, ids in order."""
    columns = {"id": [f"s{i}" for i in range(len(sequences))], "sequence": sequences, "length": [len(s) for s in sequences]}
    return pa.table({**columns, **dict.fromkeys(("family", "clan", "taxon"), [None] * len(sequences))}, schema=SCHEMA)


def sequences(n: int) -> list[str]:
    """Return n different sequences of lengths 1 to 40."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWYX"), rng.integers(1, 41))) for _ in range(n)]


@pytest.mark.parametrize("cut", [1, 7, 64, 1000])
def test_row_groups_hold_exactly_their_rows(tmp_path: Path, cut: int) -> None:
    rows = sequences(137)
    whole = table(rows)
    files = write_split(tmp_path, "train", [whole.slice(i, cut) for i in range(0, 137, cut)], row_group_rows=8, rows_per_file=35)
    assert [f.rows for f in files] == [32, 32, 32, 32, 9]
    assert [f.name for f in files] == [f"train-{i:05d}.parquet" for i in range(5)]
    for file in files:
        metadata = pq.read_metadata(tmp_path / file.name)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert groups == ([8, 8, 8, 8] if file.rows == 32 else [8, 1])
        assert file.sha256 == sha256_of(tmp_path / file.name)
        assert file.residues == sum(pq.read_table(tmp_path / file.name)["length"].to_pylist())
    read = pa.concat_tables(pq.read_table(tmp_path / f.name) for f in files)
    assert read.schema.equals(SCHEMA)
    assert read["sequence"].to_pylist() == rows


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert write_split(tmp_path, "test", [], 8) == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_no_unfinished_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), SplitWriter(tmp_path, "train", row_group_rows=4, rows_per_file=8) as writer:
        writer.write(table(sequences(13)))
        raise RuntimeError("the build was interrupted")
    assert [p.name for p in tmp_path.iterdir()] == ["train-00000.parquet"]


def test_statistics_are_those_of_a_plain_count(tmp_path: Path) -> None:
    rows = sequences(50)
    statistics = Statistics()
    write_split(tmp_path, "valid", [table(rows[:21]).slice(2, 15), table(rows[21:])], 8, statistics=statistics)
    kept = rows[2:17] + rows[21:]
    letters = "".join(kept)
    assert json.loads(statistics.residue_counts()) == {"valid": {a: letters.count(a) for a in sorted(set(letters))}}
    bins = json.loads(statistics.length_histogram())["valid"]
    assert bins == {str(b): n for b in (0, 16, 32) if (n := sum(b <= len(s) < b + 16 for s in kept))}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, (1 << 21) + 3])
def test_count_bytes_matches_bincount(size: int) -> None:
    letters = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    np.testing.assert_array_equal(count_bytes(letters), np.bincount(letters, minlength=256))
    np.testing.assert_array_equal(count_bytes(letters[1:]), np.bincount(letters[1:], minlength=256))  # from an odd address
