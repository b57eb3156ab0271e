"""Tables of sequences: Parquet, and CSV or TSV, plain or gzip, with named columns.

The sequence column is named by the person; ``id``, ``family``, ``clan`` (or SCOP's ``superfamily``, which is its clan) and ``taxon`` are
taken where they are. Without an id, a record is called after its file and row.
"""

import csv
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from raypro.config import InputError, first_line, nearest
from raypro.data.file_kinds import delimiter_of, is_gzip, open_bytes
from raypro.data.records import RECORDS, REJECTS, to_text

_BLOCK_BYTES = 16 << 20
_BATCH_ROWS = 1 << 15
_BLANK = (b"", b"\r")


def delimited_columns(path: Path) -> list[str]:
    """Return the names of the columns of a CSV or TSV file, from its first line.

    Raises:
        InputError: the file is empty or cannot be read.
    """
    try:
        with open_bytes(path) as file:
            first = file.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None
    if not first:
        raise InputError(f"{path}: empty; give a table with a line of column names")
    return next(csv.reader([first], delimiter=delimiter_of(path)))


def parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        InputError: it is no Parquet file.
    """
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def require_column(path: Path, columns: list[str], name: str) -> None:
    """Raise InputError if ``name`` is none of the ``columns`` of the file ``path``."""
    if name not in columns:
        raise InputError(f"{path}: no column {name!r}{nearest(name, columns)} (say which holds the sequences: --sequence-column)")


def read_delimited(path: Path, sequence_column: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read a CSV or TSV file.

    Yields:
        Tables of records (``RECORDS``) and of the rows with a wrong number of columns (``REJECTS``); ``line`` is the line of the file.

    Raises:
        InputError: the file cannot be read as such a table.
    """
    columns = delimited_columns(path)
    require_column(path, columns, sequence_column)
    wanted = _wanted(columns, sequence_column)
    for table, rows, skipped, line_of in delimited_batches(path, list(dict.fromkeys(wanted.values()))):
        yield _records(table, wanted, rows, line_of(rows), path), _wrong_rows(line_of(np.array(skipped, np.int64)))


def delimited_batches(
    path: Path, names: Sequence[str]
) -> Iterator[tuple[pa.Table, np.ndarray, list[int], Callable[[np.ndarray], np.ndarray]]]:
    """Read the columns ``names`` of a CSV or TSV file, as bytes: whether they are text is for the caller to say, record by record.

    Yields:
        Tables, the rows that they are, and the rows met on the way that have a wrong number of columns, both counted from 1 at the
        first one below the column names, without blank lines; and what gives the lines of the file that such rows stand on.

    Raises:
        InputError: the file cannot be read as such a table.
    """
    skipped: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        skipped.append(row.number - 1)  # the line of column names is number 1
        return "skip"

    try:
        lines = _Lines(pa.input_stream(path, compression="gzip" if is_gzip(path) else None))
        reader = pa.csv.open_csv(
            pa.PythonFile(lines, "r"),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=delimited_columns(path), skip_rows=1),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter_of(path), invalid_row_handler=skip, newlines_in_values=False),
            convert_options=pa.csv.ConvertOptions(include_columns=list(names), column_types=dict.fromkeys(names, pa.binary())),
        )
        read = reported = 0
        for batch in reader:
            passed = np.array(skipped, np.int64)
            rows = read + np.arange(batch.num_rows)
            rows = rows + 1 + np.searchsorted(passed - 1 - np.arange(len(passed)), rows, side="right")
            read += batch.num_rows
            yield pa.Table.from_batches([batch]), rows, passed[reported:].tolist(), lines.of_rows
            reported = len(passed)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({first_line(error)})") from None


class _Lines:
    """A file as Arrow reads it, noting its blank lines: Arrow passes over them without counting."""

    closed = False

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._lines, self._begun = 0, b""
        self._blank: list[np.ndarray] = []

    def read(self, size: int) -> bytes:
        """Return the next bytes of the file."""
        data = self._file.read(size)
        letters = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(letters == ord("\n"))
        if len(ends):
            sizes = np.diff(ends, prepend=-1) - 1
            blank = (sizes == 0) | ((sizes == 1) & (letters[ends - 1] == ord("\r")))
            blank[0] = self._begun + data[: ends[0]] in _BLANK
            if blank.any():
                self._blank.append(np.flatnonzero(blank) + self._lines + 1)
            self._lines, self._begun = self._lines + len(ends), b""
        begun = self._begun + data[ends[-1] + 1 if len(ends) else 0 :]
        self._begun = begun if begun in _BLANK else b"."  # all that matters of it: is it blank so far?
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the line of each row; rows are counted without the column names and without blank lines."""
        blank = np.concatenate([np.empty(0, np.int64), *self._blank])
        return rows + 1 + np.searchsorted(blank - 1 - np.arange(len(blank)), rows + 1)


def read_parquet(path: Path, sequence_column: str, first_group: int, last_group: int) -> Iterator[pa.Table]:
    """Read the row groups [first_group, last_group) of a Parquet file.

    Yields:
        Tables of records (``RECORDS``; ``line`` is the row, counted from 1 at the first of these groups).

    Raises:
        InputError: a column is missing or holds no text, or the file is damaged.
    """
    columns = parquet_columns(path)
    require_column(path, columns, sequence_column)
    wanted, row = _wanted(columns, sequence_column), 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, list(range(first_group, last_group)), list(wanted.values())):
                rows = np.arange(row + 1, row + 1 + batch.num_rows)
                row += batch.num_rows
                yield _records(pa.Table.from_batches([batch]), wanted, rows, rows, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None


def _wanted(columns: list[str], sequence_column: str) -> dict[str, str]:
    """Return the column of the file for each column of the records."""
    wanted = {name: name for name in ("id", "family", "clan", "taxon") if name in columns and name != sequence_column}
    if "clan" not in wanted and "superfamily" in columns:
        wanted["clan"] = "superfamily"
    return {**wanted, "sequence": sequence_column}


def _records(table: pa.Table, wanted: dict[str, str], rows: np.ndarray, lines: np.ndarray, path: Path) -> pa.Table:
    sequence = pc.fill_null(_bytes(table[wanted["sequence"]]), b"")
    columns: dict[str, pa.Array] = {"sequence": sequence, "line": pa.array(lines, pa.int64())}
    for name in ("id", "family", "clan", "taxon"):
        columns[name] = to_text(_bytes(table[wanted[name]])) if name in wanted else pa.nulls(len(rows), pa.string())
    if "id" in wanted:
        columns["id"] = pc.fill_null(columns["id"], "")
    else:
        stem = path.name.removesuffix(path.suffix if is_gzip(path) else "").rsplit(".", 1)[0]
        columns["id"] = pa.array([f"{stem}:{row}" for row in rows.tolist()], pa.string())
    for name in ("family", "clan", "taxon"):
        empty = pc.fill_null(pc.equal(columns[name], ""), False)
        columns[name] = pc.replace_with_mask(columns[name], empty, pa.scalar(None, pa.string()))
    return pa.table({name: columns[name] for name in RECORDS.names}, schema=RECORDS)


def _bytes(column: pa.ChunkedArray) -> pa.BinaryArray:
    """Return a column of text, bytes or numbers as bytes."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array if array.type == pa.binary() else array.cast(pa.string()).view(pa.binary())


def _wrong_rows(lines: np.ndarray) -> pa.Table:
    cause = pa.array(["wrong number of columns"] * len(lines), pa.string())
    return pa.table([pa.array(lines, pa.int64()), pa.array([""] * len(lines), pa.string()), cause], schema=REJECTS)
