"""Importing labelled data: every record is checked, and what is not used is counted and named.

All is written to a folder beside the data's, which takes their name when it is whole.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from raypro.config import InputError
from raypro.data.corpus import sha256_of, write_manifest
from raypro.data.label_arrays import schema_of
from raypro.data.label_checks import (
    NO_SPLIT,
    Record,
    Rejects,
    classes_in,
    in_order,
    notes_on,
    of_known_classes,
    without_leaks,
    write_shared,
)
from raypro.data.label_options import ImportOptions
from raypro.data.label_records import Form, Rejected, label_of
from raypro.data.label_sources import Row, Source, choose_field, fields_of, find_sources, read_rows, split_name
from raypro.data.labelled import FORMAT_VERSION, LabelledData, LabelledManifest, SplitFile
from raypro.data.place import building_folder, require_free, take_place
from raypro.data.readers import bytes_of
from raypro.data.records import RECORDS, Limits, clean
from raypro.data.tape import Unreadable, text_of

REJECTS_FILE = "rejects.tsv"
SHARED_FILE = "shared.tsv"
"""Lists the sequences that are kept in several splits."""

_CHUNK = 256  # rows at a time: one of ProteinNet is a megabyte of Python objects
_SPLIT_COLUMN = "split"


@dataclass(frozen=True)
class ImportReport:
    """What an import did, for the summary."""

    data: LabelledData
    read: dict[str, int]
    """Records read, by split."""
    rejected: dict[str, Counter[str]]
    """Records left out, by split and cause."""


@dataclass(frozen=True)
class Fields:
    """The names of the fields of one file."""

    sequence: str
    label: str
    mask: str | None
    id: str | None
    split: str | None

    @property
    def all(self) -> list[str]:
        """Every field that is read, each once."""
        pair = "contact_j" if self.label == "contact_i" else None
        return list(dict.fromkeys(name for name in (self.sequence, self.label, pair, self.mask, self.id, self.split) if name))


def import_labelled(
    names: Sequence[str], out: Path, options: ImportOptions, overwrite: bool = False, begin: Callable[[Path], None] | None = None
) -> ImportReport:
    """Import labelled data.

    Args:
        names: files, ``SPLIT=FILE`` or folders (:func:`raypro.data.label_sources.find_sources`).
        out: the folder to make.
        options: what their fields are.
        overwrite: replace labelled data that are at ``out``; they stay until the new ones are whole.
        begin: is called with each file before it is read.

    Raises:
        InputError: a file is missing or damaged, lacks a field, or nothing is left.
    """
    out = out.expanduser().absolute()
    require_free(out, overwrite, LabelledManifest)
    form, rejects = options.form, Rejects()
    sources = _sources(names, options)
    records: list[Record] = []
    for source, fields in sources.items():
        if begin is not None:
            begin(source.path)
        records += _records(source, fields, options, rejects)
    read = Counter(record.split for record in records)
    read.update({split: causes.total() for split, causes in rejects.counts.items()})
    records = records if options.keep_overlaps else without_leaks(records, rejects)
    classes = form.classes or classes_in(records, form.kind)
    if records and form.kind.endswith("classification") and not classes:
        raise InputError(f"{_nothing_left(sources, rejects, ' of train')}; the classes are those that train has: import its file too")
    records = of_known_classes(records, form.kind, classes, rejects)
    if not records:
        raise InputError(f"{_nothing_left(sources, rejects)}; check the files and the options")
    with building_folder(out) as folder:
        require_free(out, overwrite, LabelledManifest)  # again: another import may have ended meanwhile
        new = folder / "data"
        new.mkdir()
        files = [_write_split(new, split, form.kind, records) for split in in_order(record.split for record in records)]
        rejects.write(new / REJECTS_FILE)
        write_shared(records, new / SHARED_FILE)
        notes = tuple(notes_on(records, form.kind, classes))
        write_manifest(new, _manifest(form, classes, files, sources, options, rejects, notes))
        take_place(new, out)
    return ImportReport(LabelledData.open(out), dict(read), dict(rejects.counts))


def _sources(names: Sequence[str], options: ImportOptions) -> dict[Source, Fields]:
    """Return the files with their fields; either each says its splits, or none does."""
    sources = {source: _fields(source, options) for source in find_sources(names, options.form.prefix)}
    silent = [source.path for source, fields in sources.items() if not (source.split or fields.split)]
    if 0 < len(silent) < len(sources):
        raise InputError(f"{silent[0]}: no field {_SPLIT_COLUMN!r}, which other files have; give it as SPLIT={silent[0]}")
    return sources


def _fields(source: Source, options: ImportOptions) -> Fields:
    """Return the names of a file's fields.

    Raises:
        InputError: one that is needed, or that a person named, is not there.
    """
    path, form, found = source.path, options.form, fields_of(source.path)
    for name, option in (("mask", "--mask-column"), ("id", "--id-column"), ("split", "--split-column")):
        if column := getattr(options, f"{name}_column"):
            choose_field(path, found, (column,), name, option)
    if options.split_column and source.split:
        raise InputError(f"{path}: its name says split {source.split}, --split-column {options.split_column}; rename it or leave that out")
    split = None if source.split else options.split_column or (_SPLIT_COLUMN if _SPLIT_COLUMN in found else None)
    label = choose_field(path, found, form.label, "labels", "--label-column")
    if label == "contact_i":
        choose_field(path, found, ("contact_j",), "second residues of the contacts", "--label-column tertiary takes coordinates")
    return Fields(
        sequence=choose_field(path, found, form.sequence, "sequences", "--sequence-column"),
        label=label,
        mask=next((name for name in form.mask if name in found), None),
        id=options.id_column or ("id" if "id" in found else None),
        split=split,
    )


def _records(source: Source, fields: Fields, options: ImportOptions, rejects: Rejects) -> Iterator[Record]:
    """Yield the records of a file that can be used; the others go to ``rejects``."""
    rows, name, form = read_rows(source.path, fields.all), source.path.name, options.form
    while chunk := list(islice(rows, _CHUNK)):
        sequences = _sequences(chunk, fields.sequence)
        for (number, row), sequence in zip(chunk, sequences, strict=True):
            split, id_ = source.split, f"{name}:{number}"
            try:
                if isinstance(row, Unreadable):
                    raise Rejected(row.cause, row.detail)
                id_ = _id(row.get(fields.id) if fields.id else None) or id_
                if fields.split:
                    split = _split(row.get(fields.split))
                if isinstance(sequence, Rejected):
                    raise sequence
                split = split or _hashed_split(sequence, options)
                yield Record(name, number, id_, split, sequence, label_of(form, row, fields.label, fields.mask, len(sequence)))
            except Rejected as rejected:
                rejects.add(name, number, split or NO_SPLIT, id_, rejected.cause, rejected.detail)


def _sequences(chunk: Sequence[Row], field: str) -> list[str | Rejected]:
    """Return the cleaned sequences (:func:`raypro.data.records.clean`), or why there is none."""
    raw = [None if isinstance(row, Unreadable) else row.get(field) for _, row in chunk]
    data = [value.encode("utf-8", "replace") if isinstance(value, str) else value if isinstance(value, bytes) else b"" for value in raw]
    empty = [None] * len(data)
    columns = {"id": empty, "sequence": data, "family": empty, "clan": empty, "taxon": empty, "line": range(len(data))}
    accepted, rejected = clean(pa.table({name: list(values) for name, values in columns.items()}, schema=RECORDS), Limits())
    found: list[str | Rejected] = [Rejected("no sequence")] * len(data)
    for line, sequence in zip(accepted["line"].to_pylist(), accepted["sequence"].to_pylist(), strict=True):
        found[line] = sequence.decode()
    for line, cause in zip(rejected["line"].to_pylist(), rejected["cause"].to_pylist(), strict=True):
        found[line] = Rejected(cause)
    return found


def _id(value: object) -> str:
    return "" if value is None else text_of(value).strip()


def _split(value: object) -> str:
    try:
        return split_name(_id(value), "")
    except InputError:
        raise Rejected("no name of a split", _id(value)[:40]) from None


def _hashed_split(sequence: str, options: ImportOptions) -> str:
    place = xxh3_64_intdigest(sequence.encode(), options.seed) / 2**64
    return "test" if place < options.test_share else "valid" if place < options.test_share + options.valid_share else "train"


def _write_split(folder: Path, split: str, kind: str, records: Sequence[Record]) -> SplitFile:
    its = [record for record in records if record.split == split]
    columns = {"id": [record.id for record in its], "sequence": [record.sequence for record in its]}
    if kind == "contacts":
        columns |= {"contact_i": [r.label.pairs[:, 0] for r in its], "contact_j": [r.label.pairs[:, 1] for r in its]}
        columns |= {"resolved": [r.label.resolved for r in its]}
    else:
        columns |= {"label": [record.label for record in its]}
    path = folder / f"{split}.parquet"
    pq.write_table(pa.table(columns, schema=schema_of(kind)), path, compression="zstd")
    return SplitFile(split, path.name, len(its), sum(len(record.sequence) for record in its), sha256_of(path))


def _manifest(
    form: Form,
    classes: tuple[str, ...],
    files: Sequence[SplitFile],
    sources: dict[Source, Fields],
    options: ImportOptions,
    rejects: Rejects,
    notes: tuple[str, ...],
) -> LabelledManifest:
    return LabelledManifest(
        version=FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=form.kind,
        label=", ".join(dict.fromkeys(fields.label for fields in sources.values())),
        classes=classes,
        files=tuple(files),
        split_rule=_split_rule(sources, options),
        sources=json.dumps([_described(source.path) for source in sources]),
        options=json.dumps(dataclasses.asdict(options)),
        rejected=json.dumps({split: dict(causes.most_common()) for split, causes in rejects.counts.items()}),
        notes=notes,
    )


def _split_rule(sources: dict[Source, Fields], options: ImportOptions) -> str:
    if all(source.split for source in sources):
        return "by the names of the files, as published"
    columns = [fields.split for fields in sources.values() if fields.split]
    if columns:
        return f"by the field {columns[0]}, as published"
    shares = f"{100 * options.test_share:g} % test, {100 * options.valid_share:g} % valid"
    return f"{shares}, the rest train, by a seeded hash of the sequence (XXH3, seed {options.seed})"


def _described(path: Path) -> dict[str, str | int]:
    content = path / "data.mdb" if path.is_dir() else path
    return {"file": path.name, "bytes": bytes_of(path), "sha256": sha256_of(content)}


def _nothing_left(sources: Iterable[Source], rejects: Rejects, of_which: str = "") -> str:
    causes = sum(rejects.counts.values(), Counter[str]())
    said = ", ".join(f"{count:,} {cause}" for cause, count in causes.most_common()) or "none in them"
    return f"{', '.join(str(source.path) for source in sources)}: no labelled sequence{of_which} is left ({said})"
