"""A corpus on disk: a folder of Parquet files and the ``manifest.json`` that makes it whole.

The manifest is written last and by renaming, so a folder without one is an unfinished build, never a corpus.
Within a split the rows are globally shuffled once, at building; row ``r`` of a split is its r-th row over the
split's files in the manifest's order. Every row group holds ``row_group_rows`` rows but the last one of a file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypro.config import InputError, first_line, from_plain, to_plain
from raypro.data.statistics import Statistics

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid", "test")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("family", pa.string()),
        pa.field("clan", pa.string()),
        pa.field("taxon", pa.string()),
    ]
)
"""``sequence`` holds upper-case letters of the alphabet only; ``length`` is its number of residues."""


@dataclass(frozen=True)
class CorpusFile:
    """One Parquet file of a corpus."""

    name: str
    split: str
    rows: int
    residues: int
    sha256: str


@dataclass(frozen=True)
class Overlap:
    """What a corpus and an evaluation set have in common, in rows of that set."""

    task: str
    """The evaluation set's folder of labelled data."""
    split: str
    """Which split of them."""
    sha256: str
    """Of that split's file, so that other data of the same name are not taken for it."""
    rows: int
    identical: int
    """Rows whose sequence is in the corpus."""
    near: int
    """Rows whose sequence is not, but a near duplicate of it is."""
    by_corpus_split: str
    """Both numbers for each split of the corpus alone, as JSON ``{split: {"identical": rows, "near": rows}}``."""
    measure: str
    """How near duplicates were found."""
    measured: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Manifest:
    """What a corpus is: its files, how it was split, and where it came from."""

    version: int
    created: str
    """UTC, ISO 8601."""
    row_group_rows: int
    files: tuple[CorpusFile, ...]
    split_rule: str
    """How the splits were made, as a sentence with its numbers and its seed."""
    sources: tuple[str, ...]
    """What the corpus was built from: a file's name and size in bytes, or the recipe of a synthetic one."""
    options: str
    """The options of the build, as JSON."""
    rejected: str
    """Number of rejected records by cause, as JSON."""
    residue_counts: str
    """Number of each letter by split, as JSON ``{split: {letter: count}}``: the unigram floor comes from it."""
    length_histogram: str
    """Number of sequences by split and by length in bins of 16 residues, as JSON ``{split: {first length of the bin: count}}``."""
    contacts: str = ""
    """File with the known contacts of each family (columns family, length, contact_i, contact_j; 0-based, i < j), if any."""
    contacts_sha256: str = ""
    overlaps: tuple[Overlap, ...] = ()
    """What is known of overlaps with evaluation sets (``raypro corpus overlap``); no part of the checksum."""

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the files' names and checksums: equal for equal data, whenever it was built."""
        lines = [f"{f.sha256}  {f.name}\n" for f in self.files] + [f"{self.contacts_sha256}  {self.contacts}\n"]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class RowGroup:
    """One row group of a split: where it is and which rows of the split it holds."""

    file: str
    index: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class Corpus:
    """An opened corpus."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open the corpus in the folder ``path``.

        Raises:
            InputError: there is no corpus there, an unfinished one, or one of another format version.
        """
        folder = Path(path).expanduser().absolute()
        file = folder / MANIFEST
        if not folder.is_dir():
            raise InputError(f"{path}: no such corpus folder; build one with 'raypro corpus build' or 'raypro corpus synthetic'")
        if not file.is_file():
            raise InputError(f"{path}: no {MANIFEST} in it: not a corpus, or an unfinished build; run 'raypro corpus build' again")
        try:
            plain = json.loads(file.read_text())
        except ValueError:
            raise InputError(f"{file}: not valid JSON; build the corpus again") from None
        version = plain.get("version") if isinstance(plain, dict) else None
        if version != FORMAT_VERSION:
            raise InputError(f"{file}: corpus of format version {version}, this raypro reads {FORMAT_VERSION}; build the corpus again")
        return cls(folder, from_plain(Manifest, plain, str(file)))

    def files(self, split: str) -> list[CorpusFile]:
        """Return the files of a split, in order."""
        return [f for f in self.manifest.files if f.split == split]

    def rows(self, split: str) -> int:
        """Return the number of sequences of a split."""
        return sum(f.rows for f in self.files(split))

    def residues(self, split: str) -> int:
        """Return the number of residues of a split."""
        return sum(f.residues for f in self.files(split))

    def length_range(self, split: str) -> tuple[int, int]:
        """Return the lengths of the shortest and of the longest sequence of a split that is not empty, from the files' statistics."""
        ranges = []
        for file in self.files(split):
            with open_parquet(self.path / file.name) as parquet:
                for group in range(parquet.num_row_groups):
                    statistics = parquet.metadata.row_group(group).column(SCHEMA.get_field_index("length")).statistics
                    ranges.append((statistics.min, statistics.max))
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def row_groups(self, split: str) -> list[RowGroup]:
        """Return the row groups of a split, in order: from the manifest alone, no file is read."""
        size, first, groups = self.manifest.row_group_rows, 0, []
        for file in self.files(split):
            for index, start in enumerate(range(0, file.rows, size)):
                rows = min(size, file.rows - start)
                groups.append(RowGroup(file.name, index, first, rows))
                first += rows
        return groups

    def read(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> pa.Table:
        """Return the given columns of the given row groups, in order, as one table."""
        tables = []
        for name in dict.fromkeys(g.file for g in groups):
            with open_parquet(self.path / name) as file:
                tables.append(file.read_row_groups([g.index for g in groups if g.file == name], columns=list(columns)))
        return pa.concat_tables(tables)

    def check_files(self) -> None:
        """Verify that every file is there, ends as it should and has its rows in row groups: in no time, whatever the corpus' size.

        Raises:
            InputError: a file is missing, cut off, or the manifest says something else; names the file.
        """
        for file in self.manifest.files:
            path = self.path / file.name
            with open_parquet(path) as parquet:
                self._check_footer(path, file, parquet)
        if self.manifest.contacts and not (self.path / self.manifest.contacts).is_file():
            raise InputError(f"{self.path / self.manifest.contacts}: missing; build the corpus again")

    def check_sums(self) -> None:
        """Verify every checksum: reads each file once, as bytes.

        Raises:
            InputError: a file is missing, or was changed or damaged; names it.
        """
        for file in self.manifest.files:
            _require_checksum(self.path / file.name, file.sha256)
        if self.manifest.contacts:
            _require_checksum(self.path / self.manifest.contacts, self.manifest.contacts_sha256)

    def check(self) -> None:
        """Verify every checksum and count, reading all of the corpus but its list of rejected records (:mod:`raypro.data.rejects`).

        Raises:
            InputError: a file is missing, or the manifest says something else; names the file.
        """
        self.check_sums()
        self.check_files()
        counted = Statistics()
        for file in self.manifest.files:
            path = self.path / file.name
            with open_parquet(path) as parquet:
                residues = _count(path, file.split, parquet, counted)
            if residues != file.residues:
                raise InputError(f"{path}: {residues} residues, the manifest says {file.residues}; build the corpus again")
        for split in SPLITS:
            if counted.letters(split) != self.residues(split):
                raise InputError(f"{self.path}: letters in its {split} split that are no residues; build the corpus again")
        self.require_said("residue_counts", json.loads(counted.residue_counts()))
        self.require_said("length_histogram", json.loads(counted.length_histogram()))

    def require_said(self, field: str, counted: dict[str, object]) -> None:
        """Raise InputError if a field of the manifest, as JSON, says something else than was ``counted``; what is left out counts as 0."""
        try:
            said = {name: count for name, count in json.loads(getattr(self.manifest, field)).items() if count}
        except (ValueError, AttributeError):
            said = None
        if said != {name: count for name, count in counted.items() if count}:
            raise InputError(f"{self.path / MANIFEST}: its {field} are not those of the files; build the corpus again")

    def _check_footer(self, path: Path, file: CorpusFile, parquet: pq.ParquetFile) -> None:
        if not parquet.schema_arrow.equals(SCHEMA):
            raise InputError(f"{path}: its columns are not those of a corpus; build the corpus again")
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        if sum(groups) != file.rows:
            raise InputError(f"{path}: {sum(groups)} rows, the manifest says {file.rows}; build the corpus again")
        size = self.manifest.row_group_rows
        if any(rows != size for rows in groups[:-1]) or (groups and groups[-1] > size):
            raise InputError(f"{path}: row groups of other than {size} rows, as the manifest says; build the corpus again")


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a corpus, to be read inside.

    Raises:
        InputError: it is missing or damaged; names it.
    """
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: missing; build the corpus again") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}): changed or damaged; build the corpus again") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a corpus: to a temporary name, then renamed."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(to_plain(manifest), indent=1) + "\n")
    os.replace(temporary, folder / MANIFEST)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_checksum(path: Path, expected: str) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing; build the corpus again")
    if sha256_of(path) != expected:
        raise InputError(f"{path}: its checksum differs from the manifest's: the file was changed or damaged; build the corpus again")


def _count(path: Path, split: str, parquet: pq.ParquetFile, counted: Statistics) -> int:
    """Count the sequences of a file to ``counted``; return their residues."""
    residues = 0
    for batch in parquet.iter_batches(1 << 15, columns=["sequence", "length"]):
        if not pc.equal(pc.binary_length(batch["sequence"]), batch["length"]).to_numpy(zero_copy_only=False).all():
            raise InputError(f"{path}: a length that is not its sequence's; build the corpus again")
        counted.add(split, pa.Table.from_batches([batch]))
        residues += int(pc.sum(batch["length"]).as_py() or 0)
    return residues
