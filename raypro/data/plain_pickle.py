"""Pickles read as data: plain values and numpy arrays come out, whatever is in them, and nothing that they name is ever called.

A pickle is a program for a stack machine (PEP 307, 3154 and 574), and Python's own machine imports what it names and calls it. The one
here knows only the instructions that plain values and arrays need, in protocols 3 to 5, and plain values in protocol 2. numpy's names
are words to it, not objects: arrays are made from their bytes here, of numbers and text only and only where type, shape and bytes
agree. A list, a mapping, or a tuple of more than a few scalars stands in one place, and nothing is repeated without end, so
that what comes out is a tree, some tens of times as large as its pickle at the most.
"""

import pickle
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from raypro.data.plain_arrays import NEITHER, ArrayType, array_of

_MOST_REPEATED = 64
"""Bytes of what stands in several places, for each byte of the pickle: names of fields are repeated, whole sequences rarely."""
_DEEPEST = 32
_PLAIN = (str, int, float, type(None), bytes, np.ndarray, np.generic)
_SCALARS = (str, int, float, type(None), bytes)
_IN_ONE_PLACE = (list, dict)
_FEW = 16


class _Word(Enum):
    """What a name of numpy's stands for."""

    ARRAY = "ndarray"
    DTYPE = "dtype"
    UNFILLED = "_reconstruct"
    SCALAR = "scalar"
    FROM_BUFFER = "_frombuffer"
    NOT_YET_FILLED = "an array whose bytes are still to come"


_NAMES = {("numpy", "ndarray"): _Word.ARRAY, ("numpy", "dtype"): _Word.DTYPE} | {
    (f"numpy.{core}.{module}", word.value): word  # numpy 1 and 2 call the package differently
    for core in ("core", "_core")
    for module, word in (("multiarray", _Word.UNFILLED), ("multiarray", _Word.SCALAR), ("numeric", _Word.FROM_BUFFER))
}


def load_pickle(data: bytes) -> Any:
    """Return the plain value or numpy array that ``data`` holds: numbers, text, bytes, lists, tuples, mappings and arrays of such.

    Raises:
        pickle.UnpicklingError: it asks for anything else, or is damaged.
    """
    try:
        value = _Machine(data).run()
        _require_plain(value)
        return value
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # whatever damaged bytes make the machine run into
        raise pickle.UnpicklingError(f"damaged: {error}") from None


def _require_plain(value: Any) -> None:
    """Raise UnpicklingError for a name that was left where a value should be, and for what is nested so deep that nothing can show it."""
    level = [value]
    for _ in range(_DEEPEST):
        within: list[Any] = []
        for item in level:
            if isinstance(item, _PLAIN):
                continue
            if isinstance(item, dict):
                within += item.keys()
                within += item.values()
            elif isinstance(item, list | tuple):
                within += item
            else:
                raise pickle.UnpicklingError(f"it holds a name of numpy's, {NEITHER}")
        if not within:
            return
        level = within
    raise pickle.UnpicklingError(f"its values are nested more than {_DEEPEST} deep")


def _is_small(items: tuple[Any, ...]) -> bool:
    """Return whether a tuple holds a few scalars only."""
    return len(items) <= _FEW and all(isinstance(item, _SCALARS) for item in items)


class _Machine:
    """The stack machine: each method but :meth:`run` is one instruction, or what several have in common."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        """The stacks beneath the marks."""
        self.memo: dict[int, Any] = {}
        self.unfilled: list[int] = []
        """Places of the memo that hold the array whose bytes are still to come."""
        self.repeated = 0

    def run(self) -> Any:
        """Return what the program leaves on the stack."""
        data, instructions = self.data, _INSTRUCTIONS
        while (code := data[self.at]) != _STOP:
            self.at += 1
            if code not in instructions:
                raise pickle.UnpicklingError(f"it has the instruction {bytes([code])!r}, {NEITHER}")
            instructions[code](self)
        (value,) = self.stack
        if self.outer:
            raise pickle.UnpicklingError("damaged: a mark without its end")
        return value

    def take(self, count: int) -> bytes:
        """Return the next bytes of the program."""
        begin = self.at
        self.at = end = begin + count
        if end > len(self.data):
            raise pickle.UnpicklingError("damaged: it ends too early")
        return self.data[begin:end]

    def byte(self) -> int:
        """Return the number of one byte that comes next."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self, form: struct.Struct) -> Any:
        """Return the number that comes next."""
        begin = self.at
        self.at = begin + form.size
        return form.unpack_from(self.data, begin)[0]

    def text(self, length: int) -> None:
        self.stack.append(str(self.take(length), "utf-8", "surrogatepass"))

    def ascii(self, length: int) -> None:
        """Text of Python 2."""
        self.stack.append(str(self.take(length), "ascii"))

    def line(self) -> str:
        """Return the text up to the end of the line."""
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    def since_mark(self) -> list[Any]:
        """Return what lies above the latest mark, and go back to the stack beneath it."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def tuple(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def last(self, count: int) -> None:
        """Make a tuple of so many values."""
        if len(self.stack) < count:
            raise pickle.UnpicklingError("damaged: a tuple of values that are not there")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise pickle.UnpicklingError("damaged: values for a list that is none")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise pickle.UnpicklingError("damaged: fields for a mapping that is none")
        if not all(isinstance(key, str | bytes) for key in items[::2]):  # to look for others, tuples in tuples, can end the process
            raise pickle.UnpicklingError("it has a mapping whose fields have no names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]
        if self.stack[-1] is _Word.NOT_YET_FILLED:
            self.unfilled.append(place)

    def memoize(self) -> None:
        self.put(len(self.memo))

    def get(self, place: int) -> None:
        value = self.memo[place]
        if isinstance(value, _IN_ONE_PLACE) or (isinstance(value, tuple) and not _is_small(value)):
            raise pickle.UnpicklingError("one of its lists, mappings or larger tuples stands in two places")
        if isinstance(value, tuple):
            self.repeated += sum(1 + (len(item) if isinstance(item, str | bytes) else 0) for item in value)
        elif isinstance(value, str | bytes | np.ndarray):
            self.repeated += value.nbytes if isinstance(value, np.ndarray) else len(value)
        if self.repeated > _MOST_REPEATED * len(self.data):
            raise pickle.UnpicklingError("it repeats its values too often")
        self.stack.append(value)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("damaged: a name that is no text")
        word = _NAMES.get((module, name))
        if word is None:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, {NEITHER}")
        self.stack.append(word)

    def reduce(self) -> None:
        """Do what would be a call."""
        given, word = self.stack.pop(), self.stack.pop()
        value: Any
        if not isinstance(given, tuple):
            raise pickle.UnpicklingError("damaged: a call with what is no tuple")
        if word is _Word.DTYPE:
            value = ArrayType(given[0])
        elif word is _Word.UNFILLED and given[0] is _Word.ARRAY:
            value = _Word.NOT_YET_FILLED
        elif word is _Word.SCALAR:
            type_, number = given
            value = array_of(number, type_, ())[()]
        elif word is _Word.FROM_BUFFER:
            value = array_of(*given)
        else:
            raise pickle.UnpicklingError(f"it calls {word.value if isinstance(word, _Word) else type(word).__name__}, {NEITHER}")
        self.stack.append(value)

    def build(self) -> None:
        """Give the last value its state: a type its byte order, an array its bytes."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ArrayType):
            _, order, *structure = state
            if structure[:3] != [None, None, None]:
                raise pickle.UnpicklingError(f"it wants an array of structures, {NEITHER}")
            target.dtype = target.dtype.newbyteorder(order)
        elif target is _Word.NOT_YET_FILLED:
            _, shape, type_, by_columns, data = state
            self.stack[-1] = array = array_of(data, type_, shape, "F" if by_columns else "C")
            self.memo.update(dict.fromkeys(self.unfilled, array))
            self.unfilled.clear()
        else:
            raise pickle.UnpicklingError(f"it changes {type(target).__name__}, {NEITHER}")


_STOP = pickle.STOP[0]
_SHORT, _INT, _SIGNED, _LONG, _FLOAT = (struct.Struct(form) for form in ("<H", "<I", "<i", "<Q", ">d"))


_BY_NAME: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.NONE: lambda m: m.stack.append(None),
    pickle.NEWTRUE: lambda m: m.stack.append(True),
    pickle.NEWFALSE: lambda m: m.stack.append(False),
    pickle.BININT: lambda m: m.stack.append(m.number(_SIGNED)),
    pickle.BININT1: lambda m: m.stack.append(m.byte()),
    pickle.BININT2: lambda m: m.stack.append(m.number(_SHORT)),
    pickle.LONG1: lambda m: m.stack.append(int.from_bytes(m.take(m.byte()), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.stack.append(m.number(_FLOAT)),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.byte()),
    pickle.BINUNICODE: lambda m: m.text(m.number(_INT)),
    pickle.BINUNICODE8: lambda m: m.text(m.number(_LONG)),
    pickle.SHORT_BINSTRING: lambda m: m.ascii(m.byte()),
    pickle.BINSTRING: lambda m: m.ascii(m.number(_INT)),
    pickle.SHORT_BINBYTES: lambda m: m.stack.append(m.take(m.byte())),
    pickle.BINBYTES: lambda m: m.stack.append(m.take(m.number(_INT))),
    pickle.BINBYTES8: lambda m: m.stack.append(m.take(m.number(_LONG))),
    pickle.BYTEARRAY8: lambda m: m.stack.append(m.take(m.number(_LONG))),
    pickle.EMPTY_LIST: lambda m: m.stack.append([]),
    pickle.EMPTY_DICT: lambda m: m.stack.append({}),
    pickle.EMPTY_TUPLE: lambda m: m.stack.append(()),
    pickle.MARK: _Machine.mark,
    pickle.TUPLE: _Machine.tuple,
    pickle.TUPLE1: lambda m: m.last(1),
    pickle.TUPLE2: lambda m: m.last(2),
    pickle.TUPLE3: lambda m: m.last(3),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.SETITEM: lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.name(m.stack.pop(-2), m.stack.pop()),
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPUT: lambda m: m.put(m.byte()),
    pickle.LONG_BINPUT: lambda m: m.put(m.number(_INT)),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.BINGET: lambda m: m.get(m.byte()),
    pickle.LONG_BINGET: lambda m: m.get(m.number(_INT)),
}
_INSTRUCTIONS = {code[0]: instruction for code, instruction in _BY_NAME.items()}
