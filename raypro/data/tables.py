"""Tables of sequences: Parquet, and CSV or TSV, plain or gzip, with named columns.

The sequence column is named by the person; ``id``, ``family``, ``clan`` (or SCOP's ``superfamily``, which is its clan) and ``taxon`` are
taken where they are. Without an id, a record is called after its file and row.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raypro.config import InputError, nearest
from raypro.data.records import RECORDS, REJECTS

_BLOCK_BYTES = 16 << 20
_BATCH_ROWS = 1 << 15


def delimited_columns(path: Path) -> list[str]:
    """Return the names of the columns of a CSV or TSV file, from its first line.

    Raises:
        InputError: the file is empty or cannot be read.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            first = file.readline().lstrip("\ufeff").rstrip("\r\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None
    if not first:
        raise InputError(f"{path}: empty; give a table with a line of column names")
    return [name.strip('"') for name in first.split(_delimiter(path))]


def parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        InputError: it is no Parquet file.
    """
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({_one_line(error)})") from None


def require_column(path: Path, columns: list[str], name: str) -> None:
    """Raise InputError if ``name`` is none of the ``columns`` of the file ``path``."""
    if name not in columns:
        raise InputError(f"{path}: no column {name!r}{nearest(name, columns)} (say which holds the sequences: --sequence-column)")


def read_delimited(path: Path, sequence_column: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read a CSV or TSV file.

    Yields:
        Tables of records (``RECORDS``; ``line`` is the row, counted from 1 at the first one below the column names) and
        of the rows with a wrong number of columns (``REJECTS``).

    Raises:
        InputError: the file cannot be read as such a table.
    """
    columns = delimited_columns(path)
    require_column(path, columns, sequence_column)
    wanted = _wanted(columns, sequence_column)
    types = {name: pa.binary() if name == sequence_column else pa.string() for name in wanted.values()}
    for table, rows, skipped in delimited_batches(path, types):
        yield _records(table, wanted, rows, path), _wrong_rows(pa.array(skipped, pa.int64()))


def delimited_batches(path: Path, types: dict[str, pa.DataType]) -> Iterator[tuple[pa.Table, np.ndarray, list[int]]]:
    """Read some columns, with their types, of a CSV or TSV file.

    Yields:
        Tables, the rows that they are, and the rows met on the way that have a wrong number of columns; both counted from 1 at the
        first one below the column names.

    Raises:
        InputError: the file cannot be read as such a table.
    """
    skipped: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        skipped.append(row.number - 1)  # the line of column names is number 1
        return "skip"

    try:
        reader = pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(delimiter=_delimiter(path), invalid_row_handler=skip, newlines_in_values=False),
            convert_options=pa.csv.ConvertOptions(include_columns=list(types), column_types=types),
        )
        read = reported = 0
        for batch in reader:
            passed = np.array(skipped, np.int64)
            rows = read + np.arange(batch.num_rows)
            rows = rows + 1 + np.searchsorted(passed - 1 - np.arange(len(passed)), rows, side="right")
            read += batch.num_rows
            yield pa.Table.from_batches([batch]), rows, passed[reported:].tolist()
            reported = len(passed)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({_one_line(error)})") from None


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
                yield _records(pa.Table.from_batches([batch]), wanted, rows, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)})") from None


def _wanted(columns: list[str], sequence_column: str) -> dict[str, str]:
    """Return the column of the file for each column of the records."""
    wanted = {name: name for name in ("id", "family", "clan", "taxon") if name in columns and name != sequence_column}
    if "clan" not in wanted and "superfamily" in columns:
        wanted["clan"] = "superfamily"
    return {**wanted, "sequence": sequence_column}


def _records(table: pa.Table, wanted: dict[str, str], rows: np.ndarray, path: Path) -> pa.Table:
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"line": pa.array(rows, pa.int64())}
    for name in ("id", "sequence", "family", "clan", "taxon"):
        columns[name] = table[wanted[name]].cast(pa.string()) if name in wanted else pa.nulls(len(rows), pa.string())
    if "id" not in wanted:
        stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        columns["id"] = pa.array([f"{stem}:{row}" for row in rows.tolist()])
    empty = {name: pa.compute.fill_null(columns[name], "") for name in ("id", "sequence")}
    columns = {**columns, **empty}
    for name in ("family", "clan", "taxon"):
        columns[name] = pa.compute.replace_with_mask(
            _one(columns[name]), pa.compute.fill_null(pa.compute.equal(_one(columns[name]), ""), False), pa.scalar(None, pa.string())
        )
    return pa.table({name: columns[name] for name in RECORDS.names}).cast(RECORDS)


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _wrong_rows(rows: pa.Array) -> pa.Table:
    cause = pa.array(["wrong number of columns"] * len(rows), pa.string())
    return pa.table([rows, pa.array([""] * len(rows), pa.string()), cause], schema=REJECTS)


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.name or ".txt" in path.name else ","


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
