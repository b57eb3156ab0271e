"""TAPE's files (Rao et al. 2019): records with ``primary`` (the sequence), in pre-training ``id``, ``family``, ``clan``; JSON or LMDB.

The records of an LMDB folder are pickles. They are read by an unpickler that rebuilds plain values and numpy arrays and
refuses every other name, so that no code from the file runs.
"""

import gzip
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypro.config import InputError
from raypro.data.records import RECORDS

_BATCH = 1 << 14
_READ_CHARACTERS = 1 << 20
_ADMITTED = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"numpy.{core}.{module}", name)  # numpy 1 and 2 call the package differently
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


class _PlainUnpickler(pickle.Unpickler):
    """Rebuilds plain values and numpy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is neither a plain value nor a numpy array")
        return super().find_class(module, name)


def load_pickle(data: bytes) -> Any:
    """Return the plain value or numpy array that ``data`` holds, running no code of its own.

    Raises:
        pickle.UnpicklingError: it asks for anything else, or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # whatever a damaged pickle makes the unpickler run into
        raise pickle.UnpicklingError(f"damaged: {error}") from None


def read_tape_json(path: Path) -> Iterator[pa.Table]:
    """Read a JSON list of TAPE records (or one record a line), plain or gzip, without holding it whole in memory.

    Yields:
        Tables of records (``RECORDS``; ``line`` is the record's number, from 1).

    Raises:
        InputError: no JSON, or a record without ``primary``; names the record.
    """
    return _tables(path, json_records(path))


def read_tape_lmdb(path: Path) -> Iterator[pa.Table]:
    """Read a TAPE LMDB folder (or single file).

    Yields:
        Tables of records (``RECORDS``; ``line`` is the record's number, from 1).

    Raises:
        InputError: lmdb is not installed, this is no LMDB, a record is missing, without ``primary``, or a pickle of something else.
    """
    return _tables(path, lmdb_records(path))


def json_records(path: Path) -> Iterator[Any]:
    """Yield the objects of a JSON list (or of lines), plain or gzip, one after the other.

    Raises:
        InputError: this is no such JSON, or it is damaged.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            yield from _json_values(path, file)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None


def lmdb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a TAPE LMDB folder (or single file), one after the other: plain values and numpy arrays.

    Raises:
        InputError: lmdb is not installed, this is no LMDB, a record is missing, or a pickle of something else.
    """
    try:
        import lmdb
    except ImportError:
        raise InputError(f"{path}: reading LMDB needs the lmdb package: pip install 'raypro[lmdb]'") from None
    try:
        with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as environment:
            with environment.begin() as transaction:
                yield from _lmdb_values(path, transaction)
    except lmdb.Error as error:
        raise InputError(f"{path}: cannot be read as LMDB ({error})") from None


def _lmdb_values(path: Path, transaction: Any) -> Iterator[Any]:
    count = transaction.get(b"num_examples")
    if count is None:
        raise InputError(f"{path}: no 'num_examples' in it: not a TAPE file")
    number = -1
    try:
        for number in range(_count_of(path, count)):
            data = transaction.get(str(number).encode())
            if data is None:
                raise InputError(f"{path}: record {number + 1} is missing; is the download complete?")
            yield load_pickle(data)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: record {number + 1} is refused: {error}") from None


def _count_of(path: Path, data: bytes) -> int:
    count = load_pickle(data)
    if not isinstance(count, int | np.integer):
        raise InputError(f"{path}: 'num_examples' is no number: not a TAPE file")
    return int(count)


def _json_values(path: Path, file: Any) -> Iterator[Any]:
    """The values of a JSON list, or values one after the other, read piece by piece."""
    decoder, text, number = json.JSONDecoder(), "", 0
    while more := file.read(_READ_CHARACTERS):
        text = (text + more).lstrip(" \t\r\n[,]")
        at = 0
        while at < len(text) and text[at] == "{":
            try:
                value, end = decoder.raw_decode(text, at)
            except ValueError:
                break  # not whole yet
            number += 1
            yield value
            at = end
            while at < len(text) and text[at] in " \t\r\n,]":
                at += 1
        text = text[at:]
        if text and not text.startswith("{"):
            raise InputError(f"{path}: record {number + 1}: expected an object with the field 'primary', found {text[:20]!r}")
    if text:
        raise InputError(f"{path}: record {number + 1} is not valid JSON; is the download complete?")


def _tables(path: Path, values: Iterable[Any]) -> Iterator[pa.Table]:
    numbered = enumerate(values, start=1)
    while batch := list(islice(numbered, _BATCH)):
        yield pa.table({name: [_field(path, number, value, name) for number, value in batch] for name in RECORDS.names}, schema=RECORDS)


def _field(path: Path, number: int, value: Any, name: str) -> Any:
    if name == "line":
        return number
    if not isinstance(value, Mapping) or "primary" not in value:
        raise InputError(f"{path}: record {number}: no field 'primary', which holds the sequence of a TAPE record")
    if name == "sequence":
        return str(value["primary"]).encode()
    found = value.get(name)
    if name == "id":
        return f"{path.name}:{number}" if found is None else _text(found)
    return None if found is None or name == "taxon" else _text(found)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
