"""Writing the Parquet files of a corpus.

Every row group of a file holds exactly ``row_group_rows`` rows but the last one. A file is written under a temporary
name and renamed when it is whole, so that a reader never sees half of one.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypro.data.corpus import SCHEMA, CorpusFile, sha256_of
from raypro.data.statistics import Statistics

_COMPRESSION = {"id": "zstd", "sequence": "zstd"}
"""The other columns are numbers or hold few values, coded as a dictionary: a compressor for each row group costs more than it saves."""


def write_split(
    folder: Path,
    split: str,
    tables: Iterable[pa.Table],
    row_group_rows: int,
    rows_per_file: int = 1_000_000,
    statistics: Statistics | None = None,
) -> list[CorpusFile]:
    """Write one split, ``tables`` in order with the columns of ``SCHEMA``, as ``SPLIT-00000.parquet`` and so on.

    Args:
        folder: the corpus folder; it exists.
        split: train, valid or test.
        tables: of any sizes; they are cut and joined into row groups.
        row_group_rows: rows of a row group.
        rows_per_file: rows of a file at most, rounded down to whole row groups (one at least).
        statistics: gathers the residue counts and lengths of what is written, for the manifest.

    Returns:
        The files with their rows, residues and checksums, in order; none for no rows.
    """
    with SplitWriter(folder, split, row_group_rows, rows_per_file, statistics) as writer:
        for table in tables:
            writer.write(table)
    return writer.files


class SplitWriter:
    """Writes one split table by table; a context manager: leaving it without an error completes the last file.

    Attributes:
        files: the files completed so far.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        row_group_rows: int,
        rows_per_file: int = 1_000_000,
        statistics: Statistics | None = None,
        first_number: int = 0,
    ) -> None:
        """Prepare to write; no file is made before the first row.

        The arguments are those of :func:`write_split`; ``first_number`` is the number in the first file's name.
        """
        self.files: list[CorpusFile] = []
        self._folder, self._split, self._statistics, self._first_number = folder, split, statistics, first_number
        self._group_rows = row_group_rows
        self._file_rows = max(rows_per_file // row_group_rows, 1) * row_group_rows
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._rows = self._residues = 0

    def __enter__(self) -> "SplitWriter":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the last file, or remove it when there was an error."""
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary.unlink()

    def write(self, table: pa.Table) -> None:
        """Append the rows of ``table``, which has the columns of ``SCHEMA``."""
        table = table.select(SCHEMA.names).cast(SCHEMA)
        if self._statistics is not None:
            self._statistics.add(self._split, table)
        self._pending.append(table)
        self._pending_rows += table.num_rows
        if self._pending_rows < self._group_rows:
            return
        rows = pa.concat_tables(self._pending)
        whole = self._pending_rows // self._group_rows * self._group_rows
        for start in range(0, whole, self._group_rows):
            self._write_group(rows.slice(start, self._group_rows))
        self._pending, self._pending_rows = [rows.slice(whole)], self._pending_rows - whole

    def close(self) -> None:
        """Write the last, shorter row group and complete the last file."""
        if self._pending_rows:
            self._write_group(pa.concat_tables(self._pending))
            self._pending, self._pending_rows = [], 0
        self._complete_file()

    @property
    def _name(self) -> str:
        return f"{self._split}-{self._first_number + len(self.files):05d}.parquet"

    @property
    def _temporary(self) -> Path:
        return self._folder / f".{self._name}.partial"

    def _write_group(self, rows: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._temporary,
                SCHEMA,
                compression=_COMPRESSION,
                compression_level=dict.fromkeys(_COMPRESSION, 1),  # residues are nearly random: a higher level gains nothing
                use_dictionary=["family", "clan", "taxon"],
                write_statistics=["length"],
            )
        self._writer.write_table(rows, row_group_size=self._group_rows)
        self._rows += rows.num_rows
        self._residues += int(pc.sum(rows["length"]).as_py())
        if self._rows == self._file_rows:
            self._complete_file()

    def _complete_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path = self._folder / self._name
        os.replace(self._temporary, path)
        self.files.append(CorpusFile(path.name, self._split, self._rows, self._residues, sha256_of(path)))
        self._writer, self._rows, self._residues = None, 0, 0
