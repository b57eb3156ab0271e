"""Typed, frozen, strict configuration: frozen dataclasses to JSON and back, and the error a person gets for bad input.

This is the lowest floor: it imports nothing of raypro.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """What a person gave is wrong. The message is one line: what is wrong, where, and what to do. Commands exit with 2."""


class RunFailed(RuntimeError):
    """A run was started and did not end well. The message is one line: why, and how to go on. Commands exit with 1."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to what a person reads, or the error's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


NAMED = 10
"""Most names that a message lists."""


def nearest(name: str, known: list[str]) -> str:
    """Return ``"; did you mean X?"`` for the known name closest to ``name``; where none is close, the known names.

    Of many names those most like ``name`` are listed, and the others counted.
    """
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    if len(known) <= NAMED:
        return f"; known: {', '.join(known)}"
    return f"; known: {', '.join(difflib.get_close_matches(name, known, n=NAMED, cutoff=0))} and {len(known) - NAMED} more"


def require_finite(value: Any, where: str = "") -> None:
    """Check every float in ``value``: dataclasses, lists, tuples and mappings, however deep.

    Raises:
        InputError: one is not a number or infinite; names its field, below ``where``.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where or 'value'}: {value} is no finite number; give one")
    parts: Mapping[Any, Any] = {}
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        parts = value
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    for name, part in parts.items():
        require_finite(part, f"{where}.{name}" if where else str(name))


def to_plain(value: Any) -> Any:
    """Return ``value`` (dataclasses, tuples, scalars) as JSON-able plain values; a dataclass carries its class name as ``kind``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(hint: Any, value: Any, where: str = "") -> Any:
    """Return ``value`` (as :func:`to_plain` made it) as an instance of the type ``hint``; strict.

    A missing field gets its default: what an older version saved, before there was that field, can still be read.

    Raises:
        InputError: an unknown field, a missing one without a default, a value of another type than its field's; names the field.
    """
    origin, args = get_origin(hint), get_args(hint)
    place = where or "configuration"
    if origin in (Union, types.UnionType):
        return _from_union(args, value, where)
    if dataclasses.is_dataclass(hint):
        return _from_mapping(hint, value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{place}: {value!r} is none of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{place}: expected a list, got {value!r}")
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(hints) != len(value):
            raise InputError(f"{place}: expected {len(hints)} values, got {len(value)}")
        return tuple(from_plain(h, v, f"{place}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) and value is None:
        return None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{place}: expected {hint.__name__}, got {value!r}")
    return value


def _from_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        by_name = {o.__name__: o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)}
        kind = str(value.get("kind"))
        if kind not in by_name:
            raise InputError(f"{where or 'configuration'}: unknown kind {kind!r}{nearest(kind, list(by_name))}")
        return _from_mapping(by_name[kind], value, where)
    errors = []
    for option in options:
        try:
            return from_plain(option, value, where)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _from_mapping(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{where or cls.__name__}: expected the fields of {cls.__name__}, got {value!r}")
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    unknown = [name for name in value if name not in names and name != "kind"]
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in value and _has_no_default(f)]
    prefix = f"{where}." if where else ""
    if unknown:
        raise InputError(f"{prefix}{unknown[0]}: no such field of {cls.__name__}{nearest(unknown[0], names)}")
    if value.get("kind", cls.__name__) != cls.__name__:
        raise InputError(f"{where or 'configuration'}: expected {cls.__name__}, got {value['kind']}")
    if missing:
        raise InputError(f"{prefix}{missing[0]}: missing field of {cls.__name__}")
    return cls(**{name: from_plain(hints[name], value[name], f"{prefix}{name}") for name in names if name in value})


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
