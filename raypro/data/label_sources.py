"""What labelled data are imported from: TAPE's files, tables and folders of them, with the split of each, row by row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypro.config import InputError, first_line, nearest
from raypro.data.file_kinds import kind_of, unpacked_name
from raypro.data.records import to_text
from raypro.data.tables import delimited_batches, delimited_columns, parquet_columns
from raypro.data.tape import NO_OBJECT, Unreadable, json_records, lmdb_records

Row = tuple[int, Mapping[str, Any] | Unreadable]
"""A row's number, from 1, and its fields, or why they cannot be read."""

_BATCH_ROWS = 64
"""Rows of a Parquet file that are Python objects at a time: a row of contacts holds thousands."""
_SYNONYMS = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
_SPLIT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_SPLIT_IN_NAME = re.compile(r"(?:^|[._-])((?:train|valid|val|dev)(?:ing|idation)?|test(?:ing|_[a-z0-9_]+)?|cb513|ts115|casp\d+)$")


@dataclass(frozen=True)
class Source:
    """One file (or LMDB folder) and the split that all of it belongs to, where that is known."""

    path: Path
    split: str | None


def find_sources(names: Sequence[str], prefix: str = "") -> list[Source]:
    """Return the files that ``names`` mean.

    A name is a file, ``SPLIT=FILE``, an LMDB folder, or a folder of files whose names end with their splits. Without ``SPLIT=`` the
    split is the end of the file's name, as in ``stability_train.json`` or ``secondary_structure.cb513.csv.gz``, if it is one.

    Args:
        names: what a person gave.
        prefix: how the names of a task's files begin (TAPE's names): chooses among the files of a folder.

    Raises:
        InputError: there is no such file, a folder holds none that fits, or several for one split.
    """
    sources: list[Source] = []
    for name in names:
        split, equals, rest = name.partition("=")
        if equals and not Path(name).expanduser().exists():
            sources.append(Source(_present(rest), split_name(split, name)))
            continue
        path = _present(name)
        sources += _in_folder(path, prefix) if _is_plain_folder(path) else [Source(path, split_of(path))]
    if not sources:
        raise InputError("sources: none given; name at least one file or folder")
    if len({source.split is None for source in sources}) > 1:
        unknown = next(source.path for source in sources if source.split is None)
        raise InputError(f"{unknown}: which split is it? the names of the others say theirs; give it as SPLIT={unknown}")
    return sources


def split_name(text: str, where: str) -> str:
    """Return the split that ``text`` names: small letters, and train, valid or test for their synonyms.

    Raises:
        InputError: it can be none; ``where`` says where it stands.
    """
    name = text.strip().lower()
    if not _SPLIT_NAME.fullmatch(name):
        raise InputError(f"{where}: {text!r} is no name of a split; use letters, digits, '_', '-' and '.', at most 64")
    return _SYNONYMS.get(name, name)


def split_of(path: Path) -> str | None:
    """Return the split that the end of a file's name says, None where it says none."""
    found = _SPLIT_IN_NAME.search(_stem(path))
    return _SYNONYMS.get(found[1], found[1]) if found else None


def fields_of(path: Path) -> list[str]:
    """Return the names of a file's fields: columns, or those of the first record.

    Raises:
        InputError: the file is empty, cannot be read, or is of another kind.
    """
    kind = kind_of(path)
    if kind == "table":
        return delimited_columns(path)
    if kind == "parquet":
        return parquet_columns(path)
    if kind == "fasta":
        raise InputError(f"{path}: no labels in it: FASTA or empty; give CSV, TSV, Parquet, or TAPE's JSON or LMDB")
    for _, fields in read_rows(path, []):
        if isinstance(fields, Mapping):
            return list(fields)
    raise InputError(f"{path}: no record with fields in it; is it a TAPE file, and the download complete?")


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a file, with ``fields`` at least; a field that is not there is missing or None.

    Raises:
        InputError: the file is damaged.
    """
    kind = kind_of(path)
    if kind == "table":
        for table, rows, skipped, _ in delimited_batches(path, fields):
            text = pa.table({name: to_text(table[name].combine_chunks()) for name in table.column_names})
            yield from ((row, Unreadable("wrong number of columns", "")) for row in skipped)
            yield from zip(rows.tolist(), text.to_pylist(), strict=True)
    elif kind == "parquet":
        yield from enumerate(_parquet_rows(path, fields), start=1)
    else:
        for number, record in enumerate(json_records(path) if kind == "tape json" else lmdb_records(path), start=1):
            yield number, record if isinstance(record, Mapping | Unreadable) else Unreadable(NO_OBJECT, type(record).__name__)


def choose_field(path: Path, fields: Sequence[str], candidates: Sequence[str], what: str, option: str) -> str:
    """Return the first of the ``candidates`` that is among a file's ``fields``.

    Raises:
        InputError: none is; names the field that comes nearest and the ``option`` that names ``what``.
    """
    for name in candidates:
        if name in fields:
            return name
    wanted = " or ".join(map(repr, candidates))
    raise InputError(f"{path}: no field {wanted}{nearest(candidates[-1], list(fields))} (say which holds the {what}: {option})")


def _parquet_rows(path: Path, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(fields)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); is the download complete?") from None


def _present(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: no such file")
    return path


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.lower().endswith(".lmdb") and not (path / "data.mdb").exists()


def _stem(path: Path) -> str:
    return unpacked_name(path).rsplit(".", 1)[0]


def _in_folder(folder: Path, prefix: str) -> list[Source]:
    """Return the files of a folder whose names end with a split; JSON before LMDB, which needs a package of its own."""
    found = [Source(path, split_of(path)) for path in sorted(folder.iterdir()) if split_of(path) and _has_labels(path)]
    if prefix and not found and (folder / prefix).is_dir():
        return _in_folder(folder / prefix, "")
    found = [source for source in found if source.path.name.startswith(prefix)]
    as_json = {_stem(source.path) for source in found if not source.path.name.lower().endswith(".lmdb")}
    found = [source for source in found if not (source.path.name.lower().endswith(".lmdb") and _stem(source.path) in as_json)]
    if not found:
        names = f"named {prefix}_..., " if prefix else ""
        raise InputError(f"{folder}: no file with labels {names}whose name ends with its split (_train, _valid, _test); give the files")
    for source in found:
        other = next(other for other in found if other.split == source.split)
        if other is not source:
            both = f"{other.path.name} and {source.path.name}"
            raise InputError(f"{folder}: {both} are both {source.split}; give the files that belong together, or --task")
    return found


def _has_labels(path: Path) -> bool:
    try:
        return not _is_plain_folder(path) and kind_of(path) != "fasta"
    except InputError:
        return False
