"""Labelled data on disk: a folder with one Parquet file a split and the ``manifest.json`` that makes it whole.

The manifest is written last and by renaming, so a folder without one is an unfinished import.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypro.config import InputError, from_plain
from raypro.data.corpus import MANIFEST, sha256_of
from raypro.data.label_arrays import KINDS, Examples, examples_of, schema_of

FORMAT_VERSION = 1
__all__ = ["FORMAT_VERSION", "KINDS", "Examples", "LabelledData", "LabelledManifest", "SplitFile"]


@dataclass(frozen=True)
class SplitFile:
    """The Parquet file of one split."""

    split: str
    file: str
    rows: int
    residues: int
    sha256: str


@dataclass(frozen=True)
class LabelledManifest:
    """What labelled data are, and where they came from."""

    version: int
    created: str
    """UTC, ISO 8601."""
    labels: str
    """One of :data:`KINDS`."""
    label: str
    """What the labels were called in the sources."""
    classes: tuple[str, ...]
    """The names of the classes, in the order of their numbers; none for numbers and contacts."""
    files: tuple[SplitFile, ...]
    """The splits: train, valid, then the test sets."""
    split_rule: str
    """How the splits were made, as a sentence."""
    sources: str
    """The files it was imported from, as JSON ``[{file, bytes, sha256}]``."""
    options: str
    """The options of the import, as JSON."""
    rejected: str
    """Number of rejected records by split and cause, as JSON ``{split: {cause: count}}``."""
    notes: tuple[str, ...]
    """What a person should know of the data, one sentence each."""

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the kind of labels, the classes and the splits' checksums: equal for equal data, whenever they were imported."""
        what = [self.labels, list(self.classes), [(f.split, f.sha256) for f in self.files]]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@dataclass(frozen=True)
class LabelledData:
    """An opened folder of labelled data."""

    path: Path
    manifest: LabelledManifest

    @classmethod
    def open(cls, path: str | Path) -> "LabelledData":
        """Open the labelled data in the folder ``path``.

        Raises:
            InputError: there are none, an unfinished import, or one of another format version.
        """
        folder = Path(path).expanduser().absolute()
        file = folder / MANIFEST
        if not folder.is_dir():
            raise InputError(f"{path}: no such folder of labelled data; make one with 'raypro task import'")
        if not file.is_file():
            raise InputError(f"{path}: no {MANIFEST} in it: no labelled data, or an unfinished import; run 'raypro task import' again")
        try:
            plain = json.loads(file.read_text())
        except ValueError:
            raise InputError(f"{file}: not valid JSON; import the data again") from None
        if not isinstance(plain, dict) or plain.get("kind") != LabelledManifest.__name__:
            raise InputError(f"{path}: holds no labelled data (a corpus?); give a folder that 'raypro task import' made")
        if plain.get("version") != FORMAT_VERSION:
            raise InputError(f"{file}: format version {plain.get('version')}, this raypro reads {FORMAT_VERSION}; import the data again")
        manifest = from_plain(LabelledManifest, plain, str(file))
        if manifest.labels not in KINDS:
            raise InputError(f"{file}: labels: {manifest.labels!r} is none of {', '.join(KINDS)}; import the data again")
        return cls(folder, manifest)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: train, valid, then the test sets."""
        return tuple(file.split for file in self.manifest.files)

    @property
    def kind(self) -> str:
        """The kind of the labels, one of :data:`KINDS`."""
        return self.manifest.labels

    @property
    def task(self) -> str:
        """What they were imported as: a task's name; empty where only a kind of labels was given."""
        try:
            return str(json.loads(self.manifest.options).get("task") or "")
        except (ValueError, AttributeError):  # written by hand
            return ""

    def read(self, split: str) -> Examples:
        """Return a split in memory.

        Raises:
            InputError: there is no such split, or its file is missing or not what the manifest says.
        """
        file = next((file for file in self.manifest.files if file.split == split), None)
        if file is None:
            raise InputError(f"{self.path}: no split {split!r}; it has {', '.join(self.splits)}")
        path = self.path / file.file
        schema = schema_of(self.kind)
        try:
            table = pq.read_table(path, partitioning=None).select(schema.names).cast(schema)
            examples = examples_of(table, self.kind, self.manifest.classes)
        except FileNotFoundError:
            raise InputError(f"{path}: missing; import the data again") from None
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(f"{path}: not as it was imported ({str(error).splitlines()[0]}); import the data again") from None
        if (len(examples), len(examples.tokens)) != (file.rows, file.residues):
            said = f"the manifest says {file.rows} and {file.residues}"
            raise InputError(f"{path}: {len(examples)} rows and {len(examples.tokens)} residues, {said}; import the data again")
        return examples

    def check(self) -> None:
        """Verify every checksum and count, and that every label fits its sequence.

        Raises:
            InputError: a file is missing, or differs from the manifest; names the file.
        """
        for file in self.manifest.files:
            path = self.path / file.file
            if path.is_file() and sha256_of(path) != file.sha256:
                raise InputError(f"{path}: its checksum differs from the manifest's: it was changed or damaged; import the data again")
            self.read(file.split)
