"""TAPE's files (Rao et al. 2019): records with ``primary`` (the sequence), in pre-training ``id``, ``family``, ``clan``; JSON or LMDB.

The records of an LMDB folder are pickles, which :mod:`raypro.data.plain_pickle` reads as data. The pages they lie in are read by the
LMDB library.
"""

import io
import json
import math
import pickle
import re
import reprlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from raypro.config import InputError
from raypro.data.file_kinds import open_bytes
from raypro.data.plain_pickle import load_pickle
from raypro.data.records import CAUSES, EMPTY, RECORDS, REJECTS

_BATCH = 1 << 14
_READ_CHARACTERS = 1 << 20
_LONGEST_RECORD = 1 << 26
_SHOWN = 40
"""Characters of a broken record that are shown."""
_BLANK = " \t\r\n"
_BETWEEN = _BLANK + ",]"
_NEXT_LINE, _NEXT_IN_LIST = re.compile(r"\n\s*\{"), re.compile(r",\s*\{")
NO_OBJECT, _NO_FIELD, _NO_JSON = "no object with fields", "no field 'primary', which holds the sequence", "not valid JSON"
_NO_TEXT, _REFUSED = "a sequence that is no text", "a pickle that is damaged or asks for more than plain values and numpy arrays"


@dataclass(frozen=True)
class Unreadable:
    """A record that cannot be read."""

    cause: str
    detail: str
    """What is wrong with this one."""


def read_tape_json(path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read a JSON list of TAPE records (or one record a line), plain or gzip, without holding it whole in memory.

    Yields:
        Tables of records (``RECORDS``) and of what is none (``REJECTS``); ``line`` is the record's number, from 1.

    Raises:
        InputError: no JSON, or it ends within a record.
    """
    return _tables(path, json_records(path))


def read_tape_lmdb(path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Read a TAPE LMDB folder (or single file).

    Yields:
        Tables of records (``RECORDS``) and of what is none (``REJECTS``); ``line`` is the record's number, from 1.

    Raises:
        InputError: lmdb is not installed, this is no LMDB, or a record is missing.
    """
    return _tables(path, lmdb_records(path))


def json_records(path: Path) -> Iterator[Any]:
    """Yield the objects of a JSON list (or of lines), plain or gzip, one after the other; :class:`Unreadable` for one that is not JSON.

    Raises:
        InputError: this is no such JSON, or it ends within a record.
    """
    try:
        with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "replace") as file:
            yield from _json_values(path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None


def lmdb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a TAPE LMDB folder (or single file), one after the other: plain values and numpy arrays.

    A pickle of anything else is :class:`Unreadable`.

    Raises:
        InputError: lmdb is not installed, this is no LMDB, or a record is missing.
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
    for number in range(_count_of(path, count)):
        data = transaction.get(str(number).encode())
        if data is None:
            raise InputError(f"{path}: record {number + 1} is missing; is the download complete?")
        try:
            value = load_pickle(data)
        except pickle.UnpicklingError as error:
            value = Unreadable(_REFUSED, str(error))
        yield value


def _count_of(path: Path, data: bytes) -> int:
    try:
        count = load_pickle(data)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: 'num_examples' is refused: {error}") from None
    if not isinstance(count, int | np.integer):
        raise InputError(f"{path}: 'num_examples' is no number: not a TAPE file")
    return int(count)


def _json_values(path: Path, file: TextIO) -> Iterator[Any]:
    """The values of a JSON list, or values one after the other, read piece by piece."""
    decoder, text, number, listed, ended = json.JSONDecoder(), "", 0, False, False
    while not ended:
        more = file.read(_READ_CHARACTERS)
        ended = not more
        text = (text + (more or "\n")).lstrip(_BETWEEN)  # the last value is read like one that others follow
        if number == 0:
            listed = listed or text.startswith("[")
            text = text.lstrip(_BETWEEN + "[")
            if text and not text.startswith("{"):
                raise InputError(f"{path}: record 1: expected an object with the field 'primary', found {text[:20]!r}")
        at = 0
        while at < len(text):
            value, end = _next_value(decoder, text, at, listed, ended)
            if value is None or (end == len(text) and not isinstance(value, dict)):
                break  # not whole yet
            number += 1
            yield value
            at = end
            while at < len(text) and text[at] in _BETWEEN:
                at += 1
        text = text[at:]
        if len(text) > _LONGEST_RECORD:
            raise InputError(f"{path}: record {number + 1} is no JSON, or longer than {_LONGEST_RECORD >> 20} million characters")
    if text:
        if not _ends_whole(text.rstrip(_BLANK + ",")):
            raise InputError(f"{path}: record {number + 1} is not valid JSON; is the download complete?")
        yield _broken(text)


def _next_value(decoder: json.JSONDecoder, text: str, at: int, listed: bool, ended: bool) -> tuple[Any, int]:
    """Return the value at a place of ``text`` and where it ends; None where it is not whole yet."""
    try:
        value, end = decoder.raw_decode(text, at)
        return (Unreadable(NO_OBJECT, "null") if value is None else value), end
    except (ValueError, RecursionError) as error:
        near_end = isinstance(error, json.JSONDecodeError) and (error.pos > len(text) - 16 or error.msg.startswith("Unterminated"))
    found = None if near_end and not ended else _next_record(text, at, listed)
    return (None, at) if found is None else (_broken(text[at:found]), found)


def _broken(text: str) -> Unreadable:
    return Unreadable(_NO_JSON, text.rstrip(_BLANK + ",")[:_SHOWN])


def _next_record(text: str, at: int, listed: bool) -> int | None:
    """Return where the record begins that follows a broken one, None where that is not in sight.

    Outside a list it begins a line. In a list it follows a comma, where as many braces or as many brackets have been closed as were
    opened since the broken record began: an object inside that record follows a comma in a list of its own only.
    """
    if not listed:
        found = _NEXT_LINE.search(text, at + 1)
        return found.end() - 1 if found else None
    braces, brackets, counted = 0, 0, at
    for found in _NEXT_IN_LIST.finditer(text, at + 1):
        part, counted = text[counted : found.start()], found.start()
        braces, brackets = braces + _unclosed(part, "{}"), brackets + _unclosed(part, "[]")
        if braces <= 0 or brackets <= 0:
            return found.end() - 1
    return None


def _ends_whole(text: str) -> bool:
    """Return whether a broken record at the end of a file is there to its end: it closes its braces, or the list of records is closed."""
    return text.endswith(("}", "]")) and (_unclosed(text, "{}") <= 0 or _unclosed(text, "[]") < 0)


def _unclosed(text: str, pair: str) -> int:
    return text.count(pair[0]) - text.count(pair[1])


def _tables(path: Path, values: Iterable[Any]) -> Iterator[tuple[pa.Table, pa.Table]]:
    numbered = enumerate(values, start=1)
    while batch := list(islice(numbered, _BATCH)):
        good: list[tuple[int, Mapping[str, Any]]] = []
        rejects: list[dict[str, Any]] = []
        for number, value in batch:
            if cause := _fault(value):
                rejects.append({"line": number, "id": _id(path, number, value), "cause": cause})
            else:
                good.append((number, value))
        columns = {
            "id": [_id(path, number, value) for number, value in good],
            "sequence": [_bytes(value["primary"]) for _, value in good],
            **{name: [_group(value.get(name)) for _, value in good] for name in ("family", "clan")},
            "taxon": pa.nulls(len(good), pa.string()),
            "line": [number for number, _ in good],
        }
        yield pa.table(columns, schema=RECORDS), pa.Table.from_pylist(rejects, REJECTS)


def _fault(value: Any) -> str:
    """Return why a value is no record, nothing where it is one."""
    if isinstance(value, Unreadable):
        return value.cause
    if not isinstance(value, Mapping):
        return NO_OBJECT
    sequence = value.get("primary", _NO_FIELD)
    if sequence is _NO_FIELD:
        return _NO_FIELD
    if sequence is None or (isinstance(sequence, float) and math.isnan(sequence)):
        return CAUSES[EMPTY]
    return "" if isinstance(sequence, str | bytes) else _NO_TEXT


def _bytes(sequence: str | bytes) -> bytes:
    return sequence if isinstance(sequence, bytes) else sequence.encode("utf-8", "replace")


def _id(path: Path, number: int, value: Any) -> str:
    found = value.get("id") if isinstance(value, Mapping) else None
    return f"{path.name}:{number}" if found is None else text_of(found)


def _group(value: Any) -> str | None:
    return None if value is None else text_of(value)


def text_of(value: Any) -> str:
    """Return text as it is, bytes and numbers as text, and of anything else its beginning, however large or deep it is."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = str(text) if isinstance(text, str | int | float | np.generic) else reprlib.repr(text)
    return text.encode("utf-8", "replace").decode()  # JSON can hold halves of characters, which are no text
