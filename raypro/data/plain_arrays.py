"""Arrays made from what a pickle says of them: numbers and text only, and only where type, shape and bytes agree."""

import math
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,8}")
"""Of arrays: booleans, whole numbers, numbers and text. Objects, which would be addresses, structures and dates are not read."""
_LAST_CHARACTER = 0x10FFFF
_MOST_AXES = 32
NEITHER = "which is neither a plain value nor a numpy array"


class ArrayType:
    """The type of an array's numbers, one of ``_TYPE``; the pickle can change its byte order only."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it wants an array of type {name!r:.40}, {NEITHER}")
        self.dtype = np.dtype(name)


def array_of(data: Any, type_: Any, shape: Any, order: Any = "C", axes: Any = None) -> NDArray[Any]:
    """Return an array of ``data``'s bytes; one without any is of shape [0], since lists of nothing can be of any length."""
    if not (isinstance(data, bytes) and isinstance(type_, ArrayType) and isinstance(shape, tuple) and len(shape) <= _MOST_AXES):
        raise pickle.UnpicklingError("damaged: an array without bytes, type or shape")
    dtype = type_.dtype
    if not all(isinstance(n, int) and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"damaged: an array whose shape does not fit its {len(data)} bytes")
    if not data:
        return np.empty(0, dtype)
    flat = np.frombuffer(data, dtype)
    if dtype.kind == "b":
        flat = flat.view(np.uint8) != 0  # numpy counts on nothing but 0 and 1 in them
    if dtype.kind == "U" and (flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > _LAST_CHARACTER).any():
        raise pickle.UnpicklingError("damaged: text of characters that do not exist")
    array = flat.reshape(shape, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)
