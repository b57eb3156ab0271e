"""What a manifest says of a corpus' content: how often each letter occurs, and the lengths."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypro.core.alphabet import LETTERS

LENGTH_BIN = 16
"""Width of a bin of the length histogram, in residues."""


class Statistics:
    """Residue counts and length histogram by split, as the manifest holds them."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._letters: dict[str, NDArray[np.int64]] = {}
        self._lengths: dict[str, Counter[int]] = {}

    def add(self, split: str, table: pa.Table) -> None:
        """Count the rows of ``table`` (columns ``sequence`` and ``length``) to ``split``."""
        letters = self._letters.setdefault(split, np.zeros(256, np.int64))
        lengths = self._lengths.setdefault(split, Counter())
        for chunk in table["sequence"].chunks:
            letters += count_bytes(string_bytes(chunk))
        bins, rows = np.unique(table["length"].to_numpy() // LENGTH_BIN * LENGTH_BIN, return_counts=True)
        lengths.update(dict(zip(bins.tolist(), rows.tolist(), strict=True)))

    def letters(self, split: str) -> int:
        """Return the number of letters counted that are of the alphabet."""
        counts = self._letters.get(split, np.zeros(256, np.int64))
        return int(counts[np.frombuffer(LETTERS.encode(), np.uint8)].sum())

    def update(self, other: "Statistics") -> None:
        """Add what ``other`` has counted."""
        for split, letters in other._letters.items():
            self._letters[split] = self._letters.get(split, 0) + letters
            self._lengths.setdefault(split, Counter()).update(other._lengths[split])

    def residue_counts(self) -> str:
        """Return ``{split: {letter: count}}`` as JSON; letters that never occur are left out."""
        return json.dumps({s: {a: int(n[ord(a)]) for a in LETTERS if n[ord(a)]} for s, n in self._letters.items()})

    def length_histogram(self) -> str:
        """Return ``{split: {first length of the bin: sequences}}`` as JSON, bins in order."""
        return json.dumps({split: {str(bin): n[bin] for bin in sorted(n)} for split, n in self._lengths.items()})


def string_bytes(array: pa.StringArray) -> NDArray[np.uint8]:
    """Return the bytes of all strings of ``array`` joined, as a view, not a copy."""
    offsets, values = string_buffers(array)
    return values[offsets[0] : offsets[-1]]


def string_buffers(array: pa.StringArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the offsets [rows + 1] of the strings of ``array`` and the bytes that they point into, as views."""
    _, offsets, values = array.buffers()
    if not len(array):
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    first = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return first, np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)


def count_bytes(letters: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each of the 256 byte values occurs in ``letters`` [n]."""
    pairs = np.zeros(1 << 16, np.int64)
    even = len(letters) // 2 * 2  # two letters at a time: half the steps
    modes = pc.mode(pa.array(letters[:even].view(np.uint16)), n=len(pairs))  # np.bincount would make a copy of four times the size
    pairs[modes.field("mode").to_numpy()] = modes.field("count").to_numpy()
    counts = pairs.reshape(256, 256).sum(0) + pairs.reshape(256, 256).sum(1)
    counts[letters[even:]] += 1
    return counts
