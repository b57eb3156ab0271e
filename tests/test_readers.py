"""Readers: every kind of input against a plain loop, awkward files, and what damaged files get."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypro.config import InputError
from raypro.data import fasta
from raypro.data.file_kinds import kind_of
from raypro.data.readers import pieces_of, read_piece
from raypro.data.records import RECORDS


def plain_fasta(text: str) -> list[tuple[int, str, str]]:
    """Return line, header and sequence of each record by a plain loop (as Biopython's parser has it)."""
    records: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.startswith(">"):
            records.append((number, line[1:], []))
        elif records and not line.startswith((";", "#", "!")):
            records[-1][2].append(line)
    return [(line, header, "".join(lines)) for line, header, lines in records]


def read(path: Path, piece_bytes: int = 1 << 20, column: str = "sequence") -> list[dict]:
    """Return all records of a file, sequences as text."""
    return [{**row, "sequence": row["sequence"].decode()} for row in read_bytes(path, piece_bytes, column)]


def read_bytes(path: Path, piece_bytes: int = 1 << 20, column: str = "sequence") -> list[dict]:
    """Return all records of a file, lines counted over its pieces."""
    rows, before = [], 0
    for piece in pieces_of(path, column, piece_bytes):
        lines = 0
        for records, _, count in read_piece(piece, column):
            assert records.schema.equals(RECORDS)
            rows += [{**row, "line": row["line"] + before} for row in records.to_pylist()]
            lines += count
        before += lines
    return rows


def fasta_text(rng: np.random.Generator, records: int, end: str) -> str:
    """Return FASTA with odd line lengths, empty lines, comments, empty records and > inside headers."""
    lines = ["; a comment at the top", "# another"]
    for i in range(records):
        lines.append(f">r{i} x>y" if i % 5 == 0 else f">r{i}\tdescription; of it")
        for _ in range(rng.integers(0, 4)):
            lines.append("".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), rng.integers(0, 61))))
        if i % 7 == 3:
            lines.append("!comment")
    return end.join(lines) + (end if rng.integers(2) else "")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("piece_bytes", [7, 100, 1 << 20])
def test_fasta_is_that_of_a_plain_loop(tmp_path: Path, end: str, packed: bool, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasta.read_fasta, "__defaults__", (0, None, max(piece_bytes, 50)))
    for seed in range(3):
        text = fasta_text(np.random.default_rng(seed), 40, end)
        path = tmp_path / f"{seed}.fasta{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        found = [(row["line"], row["id"], row["sequence"]) for row in read(path, piece_bytes)]
        assert found == [(line, header.split()[0], sequence) for line, header, sequence in plain_fasta(text)]


def test_record_start_is_the_first_header_at_or_after_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text("; c >\n>a >b\nAC\n>c\nAC\n")
    starts = [6, 15]
    assert [fasta.record_start(path, at) for at in range(24)] == [min((s for s in starts if s >= at), default=21) for at in range(24)]
    path.write_text(">a\n" + "A" * 200_000 + "\n>b\nC")
    assert [fasta.record_start(path, at) for at in (0, 1, 200_004, 200_005)] == [0, 200_004, 200_004, 200_008]


def test_every_byte_range_gives_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(fasta_text(np.random.default_rng(1), 6, "\n"))
    whole = read(path)
    for size in range(1, path.stat().st_size + 1):
        assert read(path, size) == whole


def test_awkward_files(shared_data: Path) -> None:
    awkward = shared_data / "awkward"
    sequence = "GGHVNPAVTFGAFVGGNITLLRGIVYIIAQLLGSTVACLLLKFVTNDMAVGVFSLSAGVGVTNALVFEIVMTFGLVYTVYATAIDPKKGSLGTIAPIAIGFIVGANI"
    for name in ("comment_lines", "crlf_lines"):
        (row,) = read(awkward / f"{name}.fasta")
        assert (row["id"], row["sequence"]) == ("gi|3298468|dbj|BAA31520.1|", sequence)
    assert [row["id"] for row in read(awkward / "duplicate_ids.fasta")] == ["alpha", "beta", "gamma", "alpha", "delta"]
    for name in ("lower_case_and_gaps", "dna_not_protein"):
        text = (awkward / f"{name}.fasta").read_text()
        assert [row["sequence"] for row in read(awkward / f"{name}.fasta")] == [s for _, _, s in plain_fasta(text)]


TABLE = {
    "id": ["a", "b", "c"],
    "seq": ["ACD", "", "WY"],
    "family": ["F1", None, "F2"],
    "superfamily": ["C1", "C2", None],
    "taxon": ["9606", "", "562"],
}
EXPECTED = [
    {"id": "a", "sequence": "ACD", "family": "F1", "clan": "C1", "taxon": "9606", "line": 1},
    {"id": "b", "sequence": "", "family": None, "clan": "C2", "taxon": None, "line": 2},
    {"id": "c", "sequence": "WY", "family": "F2", "clan": None, "taxon": "562", "line": 3},
]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"])
def test_tables(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table(TABLE), path, row_group_size=1)
    else:
        between = "," if "csv" in ending else "\t"
        lines = [between.join(TABLE)] + [between.join(value or "" for value in row) for row in zip(*TABLE.values(), strict=True)]
        text = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(text) if ending.endswith(".gz") else text)
    expected = EXPECTED if ending == ".parquet" else [{**row, "line": row["line"] + 1} for row in EXPECTED]  # rows, or lines
    assert read(path, column="seq") == expected
    assert read(path, piece_bytes=1, column="seq") == expected
    with pytest.raises(InputError, match=rf"{path.name}: no column 'sequense'.*--sequence-column"):
        pieces_of(path, "sequense", 1 << 20)


def test_rows_without_an_id_are_called_after_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("sequence,label\nACD,1\nWY,2\n")
    assert [(row["id"], row["sequence"]) for row in read(tmp_path / "mine.csv")] == [("mine:1", "ACD"), ("mine:2", "WY")]


@pytest.mark.parametrize("block", [15, 16, 17, 18, 19, 1 << 24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_of_a_table_are_found_by_their_lines(tmp_path: Path, end: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines count, wherever blocks end; rows with a wrong number of columns are rejected."""
    monkeypatch.setattr("raypro.data.tables._BLOCK_BYTES", block)
    lines = ["id,sequence", "", "a,AC", "b", "", "", "c,AD,7", "d,AE", "", "e,AF", "f", ""]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    (piece,) = pieces_of(tmp_path / "t.csv", "sequence", 1 << 20)
    tables = list(read_piece(piece, "sequence"))
    assert [(r["id"], r["line"]) for records, _, _ in tables for r in records.to_pylist()] == [("a", 3), ("d", 8), ("e", 10)]
    wrong = [(r["line"], r["cause"]) for _, rejects, _ in tables for r in rejects.to_pylist()]
    assert wrong == [(line, "wrong number of columns") for line in (4, 7, 11)]


def test_bytes_that_are_no_text_are_for_the_record_to_answer(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,sequence,größe\na,ACD,1\nM\xfcller,MK\xe9V,2\n".encode("latin-1"))
    assert [(r["id"], r["sequence"]) for r in read_bytes(tmp_path / "t.csv")] == [("a", b"ACD"), ("M�ller", b"MK\xe9V")]
    table = pa.table({"id": pa.array([b"a", b"\xfc"]), "sequence": pa.array(["ACD", "WY"], pa.large_string()), "taxon": [9606, None]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [(r["id"], r["sequence"], r["taxon"]) for r in read_bytes(tmp_path / "t.parquet")] == [("a", b"ACD", "9606"), ("�", b"WY", None)]
    pq.write_table(pa.table({"sequence": [[1], [2]]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"list\.parquet: cannot be read"):
        read_bytes(tmp_path / "list.parquet")


def test_endings_in_capitals_and_names_with_two(tmp_path: Path) -> None:
    names = {"U.TSV": "\t", "U.Csv": ",", "my.txt.csv": ",", "my.csv.TXT": "\t", "U.TSV.GZ": "\t", "my.tsv.csv.gz": ","}
    for name, between in names.items():
        text = f'"id"{between}"a{between}b"{between}sequence\nx{between}1{between}ACD\n'.encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.lower().endswith(".gz") else text)
        assert [(r["id"], r["sequence"]) for r in read(tmp_path / name)] == [("x", "ACD")]
    (tmp_path / "P.FASTA.GZ").write_bytes(gzip.compress(b">p\nACD\n"))
    assert [(r["id"], r["sequence"]) for r in read(tmp_path / "P.FASTA.GZ", piece_bytes=3)] == [("p", "ACD")]
    (tmp_path / "T.JSON.GZ").write_bytes(gzip.compress(b'[{"primary": "ACD", "id": "t"}]'))
    assert [(r["id"], r["sequence"]) for r in read(tmp_path / "T.JSON.GZ")] == [("t", "ACD")]


def test_a_parquet_file_without_row_groups_has_no_record(tmp_path: Path) -> None:
    pq.ParquetWriter(tmp_path / "e.parquet", pa.schema([("sequence", pa.string())])).close()
    with pytest.raises(InputError, match=r"e\.parquet: no record in it"):
        pieces_of(tmp_path / "e.parquet", "sequence", 1 << 20)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.fasta", b"", "empty.fasta: empty"),
        ("blank.fasta", b"; only a comment\n\n", "no FASTA record"),
        ("text.fasta", b"; c\nhello\n", "line 2: expected a FASTA header that begins with '>', found 'hello'"),
        ("packed.fasta.gz", b"no gzip", "cannot be read"),
        ("cut.fasta.gz", gzip.compress(b">a\n" + bytes(range(65, 91)) * 999, mtime=0)[:60], "cannot be read"),
        ("a.parquet", b"no parquet", "not a readable Parquet file"),
        ("a.csv", b"", "empty"),
        ("a.bin", b"\0", "unknown kind of file"),
    ],
)
def test_files_of_another_form_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_file_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        kind_of(tmp_path / "none.fasta")
    with pytest.raises(InputError, match="a folder; give the files in it"):
        kind_of(tmp_path)
    (tmp_path / "uniref").write_text(">a\nAC\n")
    assert kind_of(tmp_path / "uniref") == "fasta"
