"""Records as they come from a file, and what makes them sequences of a corpus: cleaning, and the causes of rejection.

Everything works on whole tables (numpy on the Arrow buffers): there is no Python step per record.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypro.core.alphabet import LETTERS

RECORDS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("sequence", pa.binary()),
        pa.field("family", pa.string()),
        pa.field("clan", pa.string()),
        pa.field("taxon", pa.string()),
        pa.field("line", pa.int64()),
    ]
)
"""Raw records of one piece of an input; ``line`` counts from 1 at the piece's beginning (rows, in files without lines)."""

REJECTS = pa.schema([pa.field("line", pa.int64()), pa.field("id", pa.string()), pa.field("cause", pa.string())])
"""Rejected records of one piece."""

DUPLICATE = "duplicate of an earlier sequence"
CAUSES = (
    "",
    "another character that is no residue",
    "gap (- or .): an alignment, not a sequence",
    "stop (*) inside the sequence",
    "digit in the sequence",
    "letter J (leucine or isoleucine): not in the alphabet",
    "no sequence",
    "shorter than the minimum",
    "longer than the maximum",
)
_OTHER, _GAP, _STOP, _DIGIT, _J, EMPTY, SHORT, LONG = range(1, len(CAUSES))

_CAUSE_OF_BYTE = np.full(256, _OTHER, np.uint8)
_CAUSE_OF_BYTE[np.frombuffer(LETTERS.encode(), np.uint8)] = 0
for _characters, _cause in ((b"-.", _GAP), (b"*", _STOP), (b"0123456789", _DIGIT), (b"J", _J)):
    _CAUSE_OF_BYTE[np.frombuffer(_characters, np.uint8)] = _cause


@dataclass(frozen=True)
class Limits:
    """Which lengths are accepted, in residues, both ends included."""

    min_length: int = 1
    max_length: int | None = None
    too_short: str = CAUSES[SHORT]
    """The cause that is given for one that is shorter."""
    too_long: str = CAUSES[LONG]
    """The cause that is given for one that is longer."""

    @property
    def said(self) -> str:
        """The lengths in words."""
        return f"{self.min_length} residues or more" if self.max_length is None else f"{self.min_length} to {self.max_length} residues"

    def allow(self, length: int) -> bool:
        """Return whether a length is accepted."""
        return self.min_length <= length and (self.max_length is None or length <= self.max_length)

    def at_most(self, max_length: int | None) -> "Limits":
        """Return the same limits with that maximum, unless theirs is lower already; None: as they are."""
        if max_length is None or (self.max_length is not None and self.max_length <= max_length):
            return self
        return replace(self, max_length=max_length, too_long=CAUSES[LONG])


ANY_LENGTH = Limits()


def clean(records: pa.Table, limits: Limits) -> tuple[pa.Table, pa.Table]:
    """Return the accepted ``records``, their sequences upper-case letters of the alphabet, and the rejected ones (``REJECTS``).

    White space and one terminal ``*`` are dropped from a sequence, small letters become capitals. A record with several
    faults is rejected for the first offending character, else for its length.
    """
    records = records.combine_chunks()
    if not records.num_rows:
        return records, REJECTS.empty_table()
    offsets, letters = binary_buffers(_only_chunk(records["sequence"]))
    causes = np.zeros(records.num_rows, np.uint8)
    if _any_fault(letters):
        offsets, letters = _mend(offsets, letters)
        causes = _first_fault(offsets, letters)
    lengths = np.diff(offsets)
    by_length = np.zeros_like(causes)
    if limits.max_length is not None:
        by_length[lengths > limits.max_length] = LONG
    by_length[lengths < limits.min_length] = SHORT
    by_length[lengths == 0] = EMPTY
    causes = np.where(causes > 0, causes, by_length)
    sequences = pa.BinaryArray.from_buffers(pa.binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(letters)])
    records = records.set_column(records.schema.get_field_index("sequence"), "sequence", sequences)
    if not causes.any():
        return records, REJECTS.empty_table()
    rejected = records.filter(pa.array(causes > 0))
    names = pa.array([*CAUSES[:SHORT], limits.too_short, limits.too_long]).take(pa.array(causes[causes > 0]))
    return records.filter(pa.array(causes == 0)).combine_chunks(), pa.table([rejected["line"], rejected["id"], names], schema=REJECTS)


def binary_buffers(array: pa.BinaryArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the offsets [rows + 1], from 0, and the bytes [offsets[-1]] of ``array`` (binary or string, no nulls)."""
    _, offsets, values = array.buffers()
    at = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)
    return (at if at[0] == 0 else at - at[0]), data[at[0] : at[-1]]


def spans(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.BinaryArray:
    """Return the strings ``data[starts[i]:ends[i]]``; the spans are in order and do not overlap; data is shorter than 2 GiB.

    Arrow strings must touch each other; so every second string of an array over the same bytes is taken.
    """
    offsets = np.empty(2 * len(starts) + 1, np.int32)
    offsets[0:-1:2], offsets[1::2] = starts, ends
    offsets[-1] = ends[-1] if len(ends) else 0
    touching = pa.BinaryArray.from_buffers(pa.binary(), 2 * len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    return touching.take(pa.array(np.arange(0, 2 * len(starts), 2, dtype=np.int32)))


def to_text(array: pa.BinaryArray) -> pa.StringArray:
    """Return ``array`` as text; bytes that are no UTF-8 become the replacement character."""
    if array.null_count == 0 and (not len(array) or binary_buffers(array)[1].max(initial=0) < 128):
        return array.view(pa.string())
    return pa.array([None if b is None else b.decode("utf-8", "replace") for b in array.to_pylist()], pa.string())


def _any_fault(letters: NDArray[np.uint8]) -> bool:
    for start in range(0, len(letters), 1 << 18):  # pieces that stay in the cache
        piece = letters[start : start + (1 << 18)]
        if piece.min() < ord("A") or piece.max() > ord("Z") or (piece == ord("J")).any():
            return True
    return False


def _mend(offsets: NDArray[np.int32], letters: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Capitals for small letters; drop white space, then one terminal stop."""
    letters = np.frombuffer(letters.tobytes().upper(), np.uint8)
    offsets, letters = _drop(offsets, letters, np.flatnonzero((letters == ord(" ")) | ((letters >= 9) & (letters <= 13))))
    last = offsets[1:][np.diff(offsets) > 0] - 1
    return _drop(offsets, letters, last[letters[last] == ord("*")])


def _drop(
    offsets: NDArray[np.int32], letters: NDArray[np.uint8], positions: NDArray[np.intp] | NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    if not len(positions):
        return offsets, letters
    return offsets - np.searchsorted(positions, offsets).astype(np.int32), np.delete(letters, positions)


def _first_fault(offsets: NDArray[np.int32], letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return for each record the cause of its first character that is no residue, 0 where all are residues."""
    causes = np.zeros(len(offsets) - 1, np.uint8)
    faults = np.flatnonzero(_CAUSE_OF_BYTE[letters])
    rows, first = np.unique(np.searchsorted(offsets, faults, side="right") - 1, return_index=True)
    causes[rows] = _CAUSE_OF_BYTE[letters[faults[first]]]
    return causes


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
