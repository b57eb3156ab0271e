"""Writing the Parquet files of a corpus, and gathering what its manifest says of their content.

Every row group of a file holds exactly ``row_group_rows`` rows but the last one. A file is written under a temporary
name and renamed when it is whole, so that a reader never sees half of one.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raypro.core.alphabet import LETTERS
from raypro.data.corpus import SCHEMA, CorpusFile, sha256_of

_COMPRESSION = {"id": "zstd", "sequence": "zstd"}
"""The other columns are numbers or hold few values, coded as a dictionary: a compressor for each row group costs more than it saves."""

LENGTH_BIN = 16
"""Width of a bin of the length histogram, in residues."""


def write_split(
    folder: Path,
    split: str,
    tables: Iterable[pa.Table],
    row_group_rows: int,
    rows_per_file: int = 1_000_000,
    statistics: "Statistics | None" = None,
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
        statistics: "Statistics | None" = None,
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


class Statistics:
    """Residue counts and length histogram by split, as the manifest holds them."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._letters: dict[str, NDArray[np.int64]] = {}
        self._lengths: dict[str, Counter[int]] = {}

    def add(self, split: str, table: pa.Table) -> None:
        """Count the rows of ``table`` (columns ``sequence`` and ``length``) to ``split``."""
        letters = self._letters.setdefault(split, np.zeros(256, np.int64))
        lengths = self._lengths.setdefault(split, Counter())
        for chunk in table["sequence"].chunks:
            letters += count_bytes(string_bytes(chunk))
        bins, rows = np.unique(table["length"].to_numpy() // LENGTH_BIN * LENGTH_BIN, return_counts=True)
        lengths.update(dict(zip(bins.tolist(), rows.tolist(), strict=True)))

    def update(self, other: "Statistics") -> None:
        """Add what ``other`` has counted."""
        for split, letters in other._letters.items():
            self._letters[split] = self._letters.get(split, 0) + letters
            self._lengths.setdefault(split, Counter()).update(other._lengths[split])

    def residue_counts(self) -> str:
        """Return ``{split: {letter: count}}`` as JSON; letters that never occur are left out."""
        return json.dumps({s: {a: int(n[ord(a)]) for a in LETTERS if n[ord(a)]} for s, n in self._letters.items()})

    def length_histogram(self) -> str:
        """Return ``{split: {first length of the bin: sequences}}`` as JSON, bins in order."""
        return json.dumps({split: {str(bin): n[bin] for bin in sorted(n)} for split, n in self._lengths.items()})


def string_bytes(array: pa.StringArray) -> NDArray[np.uint8]:
    """Return the bytes of all strings of ``array`` joined, as a view, not a copy."""
    offsets, values = string_buffers(array)
    return values[offsets[0] : offsets[-1]]


def string_buffers(array: pa.StringArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the offsets [rows + 1] of the strings of ``array`` and the bytes that they point into, as views."""
    _, offsets, values = array.buffers()
    if not len(array):
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    first = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return first, np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)


def count_bytes(letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each of the 256 byte values occurs in ``letters`` [n]."""
    pairs = np.zeros(1 << 16, np.int64)
    even = len(letters) // 2 * 2  # two letters at a time: half the steps
    modes = pc.mode(pa.array(letters[:even].view(np.uint16)), n=len(pairs))  # np.bincount would make a copy of four times the size
    pairs[modes.field("mode").to_numpy()] = modes.field("count").to_numpy()
    counts = pairs.reshape(256, 256).sum(0) + pairs.reshape(256, 256).sum(1)
    counts[letters[even:]] += 1
    return counts
