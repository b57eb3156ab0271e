"""A table written piece by piece, as Parquet, CSV or TSV by its name; the file takes its place only when it is whole."""

import csv
import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypro.config import InputError, first_line
from raypro.data.file_kinds import delimiter_of, is_gzip

ENDINGS = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def require_place(path: Path, overwrite: bool, endings: tuple[str, ...] = ENDINGS) -> None:
    """Raise InputError if no table can be written to ``path``: an unknown ending, no such folder, or a file that is to stay."""
    if not path.name.endswith(endings):
        raise InputError(f"{path}: unknown kind of table; end its name in {', '.join(endings)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it, or give another place")
    if path.is_dir():
        raise InputError(f"{path}: a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: there already; give another name, or --overwrite")


class TableWriter:
    """Writes a table; a context manager: leaving it without an error gives the file its name, with one it removes what was written.

    Parquet keeps lists as lists; in CSV and TSV their values stand one behind the other with blanks between them, and numbers have nine
    digits, which is what a 32-bit number has.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Begin a table with the columns of ``schema`` that will be ``path``; see :func:`require_place`."""
        self.path, self.schema = path, schema
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self._one_line():
            if path.name.endswith(".parquet"):
                self._file: Any = pq.ParquetWriter(self._temporary, schema, compression="zstd")
            else:
                opened = gzip.open if is_gzip(path) else open
                self._file = opened(self._temporary, "wt", encoding="utf-8", newline="")
                self._rows = csv.writer(self._file, delimiter=delimiter_of(path), lineterminator="\n")
                self._rows.writerow(schema.names)

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Write rows, given as columns of equal lengths in any order.

        Raises:
            InputError: the file cannot be written (a full disk).
        """
        table = pa.table({name: columns[name] for name in self.schema.names}, schema=self.schema)
        with self._one_line():
            if isinstance(self._file, pq.ParquetWriter):
                self._file.write_table(table)
            else:
                self._rows.writerows(zip(*(map(_text, column.to_pylist()) for column in table.columns), strict=True))

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._one_line():
                self._file.close()
                if kind is None:
                    os.replace(self._temporary, self.path)
        finally:
            with suppress(FileNotFoundError):
                self._temporary.unlink()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or first_line(error)})") from None


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(str(_text(item)) for item in value)
    return value
