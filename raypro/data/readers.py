"""What a corpus is built from: files of every kind raypro reads, cut into pieces that are read on their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypro.config import InputError
from raypro.data.fasta import read_fasta, require_fasta
from raypro.data.file_kinds import Kind, is_gzip, kind_of
from raypro.data.records import REJECTS
from raypro.data.tables import delimited_columns, parquet_columns, read_delimited, read_parquet, require_column
from raypro.data.tape import read_tape_json, read_tape_lmdb

_EXPANSION = {"fasta": 3, "table": 3, "tape json": 4, "parquet": 3, "tape lmdb": 1}
"""Uncompressed text over bytes on disk, of a compressed file: a guess, to size the buckets with."""


@dataclass(frozen=True)
class Piece:
    """A part of one input that is read on its own.

    ``start`` and ``end`` are bytes of a plain FASTA file and row groups of a Parquet file; every other file is one piece.
    """

    path: Path
    kind: Kind
    start: int = 0
    end: int | None = None

    @property
    def has_lines(self) -> bool:
        """Whether records are found again by their lines; else by their number in the file."""
        return self.kind in ("fasta", "table")


def pieces_of(path: Path, sequence_column: str, piece_bytes: int) -> list[Piece]:
    """Return the pieces of an input, in order, after a look at its beginning.

    Args:
        path: the input.
        sequence_column: where the sequences of a table are.
        piece_bytes: about how many bytes a piece has, where a file can be cut.

    Raises:
        InputError: no such file, an empty one, one of another form, or a table without that column.
    """
    kind = kind_of(path)
    if kind == "fasta":
        require_fasta(path)
        if not is_gzip(path):
            size = path.stat().st_size
            return [Piece(path, kind, at, min(at + piece_bytes, size)) for at in range(0, size, piece_bytes)]
    elif kind == "table":
        require_column(path, delimited_columns(path), sequence_column)
    elif kind == "parquet":
        require_column(path, parquet_columns(path), sequence_column)
        groups = pq.read_metadata(path).num_row_groups
        if not groups:
            raise InputError(f"{path}: no record in it; give a table with sequences")
        step = max(groups * piece_bytes // max(text_bytes(path), 1), 1)
        return [Piece(path, kind, at, min(at + step, groups)) for at in range(0, groups, step)]
    return [Piece(path, kind)]


def read_piece(piece: Piece, sequence_column: str) -> Iterator[tuple[pa.Table, pa.Table, int]]:
    """Read a piece.

    Yields:
        Records (``RECORDS``), rows that are no records (``REJECTS``), and the number of lines (or rows) that both take up;
        lines are counted from the piece's beginning.

    Raises:
        InputError: the file turns out to be damaged.
    """
    none = REJECTS.empty_table()
    if piece.kind == "fasta":
        for records, lines in read_fasta(piece.path, piece.start, piece.end):
            yield records, none, lines
    elif piece.kind == "table":
        for records, rejects in read_delimited(piece.path, sequence_column):
            yield records, rejects, records.num_rows + rejects.num_rows
    elif piece.kind == "parquet":
        for records in read_parquet(piece.path, sequence_column, piece.start, piece.end or 0):
            yield records, none, records.num_rows
    else:
        for records, rejects in read_tape_json(piece.path) if piece.kind == "tape json" else read_tape_lmdb(piece.path):
            yield records, rejects, records.num_rows + rejects.num_rows


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of the files in a folder, in bytes."""
    return sum(f.stat().st_size for f in path.iterdir() if f.is_file()) if path.is_dir() else path.stat().st_size


def text_bytes(path: Path) -> int:
    """Return about how many bytes of uncompressed text an input holds."""
    kind = kind_of(path)
    compressed = is_gzip(path) or kind == "parquet"
    return bytes_of(path) * (_EXPANSION[kind] if compressed else 1)
