"""Near duplicates by shared k-mers: how much of a sequence another one contains, estimated from a MinHash sketch.

Containment of A in B is |K(A) & K(B)| / |K(A)| for the sets K of distinct k-mers. A is sketched by those of its k-mers whose hashes
are smallest, a random sample (Broder 1997), and the estimate is the share of the sketch that B holds (Koslicki and Zabeti 2019).
B is never sketched: a domain within a long protein is found as well as one alone.

Needs numpy and pyarrow only. Legend: n sequences, U sketched sequences, R residues of all sequences, H hits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core.alphabet import BYTE_TO_TOKEN, FIRST_LETTER
from raypro.core.random import mix
from raypro.data.records import binary_buffers

_BITS = 5
_CODE_OF_BYTE = np.where(BYTE_TO_TOKEN >= FIRST_LETTER, BYTE_TO_TOKEN - (FIRST_LETTER - 1), 0).astype(np.uint8)
_CODE_OF_BYTE[np.frombuffer(b"BXZbxz", np.uint8)] = 0  # unknown or ambiguous: runs of X would make strangers alike
_BLOCK_RESIDUES = 1 << 21
"""Residues that are looked up at a time."""
_PAIRS = 1 << 22
"""Pairs of a k-mer and a sketch that are counted at a time; the k-mers of one sequence are never parted."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Near:
    """What a near duplicate is: a sequence that holds enough of the k-mers of another."""

    k: int = 6
    """Residues of a k-mer, 1 to 12. Shorter ones find more distant duplicates; longer ones are faster and match less by chance."""
    sketch: int = 128
    """Most k-mers that stand for a sequence. The standard error of a containment c is at most sqrt(c (1 - c) / sketch); a sequence
    that has no more distinct k-mers is measured exactly."""
    threshold: float = 0.33
    """Containment from which a sequence is a near duplicate. Of L - k + 1 distinct k-mers e substitutions leave L - k + 1 - e k at least,
    so 0.33 at k = 6 finds every sequence of 50 residues or more at 90 % identity without gaps, but for the error of the sketch."""
    fewest: int = 12
    """Sequences with fewer distinct k-mers are only compared as a whole: a few k-mers are shared by chance."""

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be."""
        if not 1 <= self.k <= 12:
            raise InputError(f"near.k: {self.k}; give a number of residues from 1 to 12")
        if self.sketch < 1 or self.fewest < 1:
            raise InputError(f"near: sketch {self.sketch} and fewest {self.fewest} must be 1 or more")
        if not 0 < self.threshold <= 1:
            raise InputError(f"near.threshold: {self.threshold}; give a containment above 0, 1 at most")

    def __str__(self) -> str:
        return f"containment of {self.threshold:g} or more of the {self.k}-mers, MinHash sketches of {self.sketch}"


@dataclass(frozen=True)
class Matches:
    """Pairs of a looked-up sequence and a sketched one, ordered by both."""

    rows: NDArray[np.int64]
    """[H] which of the looked-up sequences."""
    owners: NDArray[np.int64]
    """[H] which of the sketched sequences."""
    containment: NDArray[np.float64]
    """[H] estimated share of the sketched sequence's k-mers that the other one holds."""


@dataclass(frozen=True)
class Sketches:
    """The sketches of U sequences, by k-mer; flat arrays, which processes share without copying."""

    near: Near
    sizes: NDArray[np.int64]
    """[U] k-mers in each sketch; 0 for a sequence that is too short for one."""
    keys: NDArray[np.unsignedinteger]
    """Every k-mer of a sketch, sorted."""
    starts: NDArray[np.int64]
    """[len(keys) + 1] where the owners of each k-mer begin."""
    owners: NDArray[np.int32]
    """The sequences in whose sketch a k-mer is."""
    slots: NDArray[np.bool_]
    """A table of a power of two that most k-mers of other sequences miss: looked at first."""

    @classmethod
    def of(cls, sequences: pa.BinaryArray, near: Near) -> "Sketches":
        """Sketch every sequence."""
        codes, owners, sizes = [], [], []
        for part in blocks(sequences):
            its_codes, its_owners, its_sizes = _sketch(part, near)
            codes.append(its_codes)
            owners.append(its_owners + sum(map(len, sizes)))
            sizes.append(its_sizes)
        all_codes = np.concatenate([np.empty(0, _type_of(near.k)), *codes])
        all_owners = np.concatenate([np.empty(0, np.int64), *owners])
        order = np.argsort(all_codes, kind="stable")
        keys, starts = np.unique(all_codes[order], return_index=True)
        slots = np.zeros(1 << int(np.clip(np.ceil(np.log2(16 * len(keys) + 1)), 10, 26)), np.bool_)
        slots[_slot(keys, len(slots))] = True
        sizes_of_all = np.concatenate([np.empty(0, np.int64), *sizes])
        return cls(near, sizes_of_all, keys, np.append(starts, len(order)), all_owners[order].astype(np.int32), slots)

    def matches(self, sequences: pa.BinaryArray) -> Matches:
        """Return the near duplicates among ``sequences``: which of them holds enough of which sketch."""
        found, before = [Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))], 0
        for part in blocks(sequences):
            rows, keys = self._shared(part)
            for some in _slices(rows, np.diff(self.starts)[keys]):
                found.append(self._counted(rows[some], keys[some], before))
            before += len(part)
        return Matches(*(np.concatenate([getattr(m, name) for m in found]) for name in ("rows", "owners", "containment")))

    def _shared(self, sequences: pa.BinaryArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return [H] rows of ``sequences`` and [H] numbers of the keys that they hold, each pair once, ordered by both."""
        offsets, letters = binary_buffers(sequences)
        codes = kmer_codes(letters, self.near.k)
        if not (len(codes) and len(self.keys)):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.flatnonzero(self.slots[_slot(codes, len(self.slots))])
        keys = np.minimum(np.searchsorted(self.keys, codes[at]), len(self.keys) - 1)
        known = self.keys[keys] == codes[at]
        at, keys = at[known], keys[known]
        rows = np.searchsorted(offsets, at, side="right") - 1
        inside = at + self.near.k <= offsets[rows + 1]
        return np.divmod(np.unique(rows[inside] * len(self.keys) + keys[inside]), len(self.keys))

    def _counted(self, rows: NDArray[np.int64], keys: NDArray[np.int64], before: int) -> Matches:
        """Return the matches of sequences by the pairs of :meth:`_shared`; ``before`` is added to the rows."""
        counts = self.starts[keys + 1] - self.starts[keys]
        places = np.repeat(self.starts[keys] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        pairs, shared = np.unique(np.repeat(rows, counts) * len(self.sizes) + self.owners[places], return_counts=True)
        found, owners = np.divmod(pairs, len(self.sizes))
        containment = shared / self.sizes[owners]
        near = containment >= self.near.threshold - 1e-9
        return Matches(found[near] + before, owners[near], containment[near])


def kmer_codes(letters: NDArray[np.uint8], k: int) -> NDArray[np.unsignedinteger]:
    """Return a number for the k-mer that begins at each of the ``letters`` [R] but the last k - 1: [R - k + 1], equal for equal k-mers.

    Each residue is 5 bits of it; unknown and ambiguous ones are 0.
    """
    residues = _CODE_OF_BYTE[letters].astype(_type_of(k))
    count = max(len(letters) - k + 1, 0)
    codes = residues[:count].copy()
    for offset in range(1, k):
        codes <<= _BITS
        codes |= residues[offset : offset + count]
    return codes


def blocks(sequences: pa.BinaryArray) -> Iterator[pa.BinaryArray]:
    """Yield the sequences in parts of about ``_BLOCK_RESIDUES`` residues, as views."""
    if not len(sequences):
        return
    offsets, _ = binary_buffers(sequences)
    cuts = np.searchsorted(offsets, np.arange(0, offsets[-1] + _BLOCK_RESIDUES, _BLOCK_RESIDUES))
    cuts = np.unique(np.minimum(np.append(cuts, len(sequences)), len(sequences)))
    for begin, end in zip(cuts, cuts[1:], strict=False):
        yield sequences.slice(begin, end - begin)


def _sketch(sequences: pa.BinaryArray, near: Near) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], NDArray[np.int64]]:
    """Return the k-mers of all sketches of ``sequences`` [n], the sequence of each, and the size of each sketch [n]."""
    offsets, letters = binary_buffers(sequences)
    codes = kmer_codes(letters, near.k)
    unknown = np.concatenate([[0], np.cumsum(_CODE_OF_BYTE[letters] == 0)])
    at = np.arange(len(codes))
    rows = np.searchsorted(offsets, at, side="right") - 1
    whole = (at + near.k <= offsets[rows + 1]) & (unknown[at + near.k] == unknown[at])
    codes, rows = codes[whole], rows[whole]
    hashes = mix(codes.astype(np.uint64))  # a bijection: equal hashes are equal k-mers
    order = np.lexsort((hashes, rows))
    codes, rows, hashes = codes[order], rows[order], hashes[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1])
    codes, rows = codes[new], rows[new]
    distinct = np.bincount(rows, minlength=len(sequences))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(distinct) - distinct, distinct)
    kept = (rank < near.sketch) & (distinct[rows] >= near.fewest)
    return codes[kept], rows[kept], np.where(distinct >= near.fewest, np.minimum(distinct, near.sketch), 0)


def _slices(rows: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices of pairs, ordered by row, whose ``counts`` add up to about ``_PAIRS``; those of one row stay together."""
    if not len(rows):
        return
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    before = (np.cumsum(counts) - counts)[firsts]
    begins = firsts[np.diff(before // _PAIRS, prepend=-1) != 0]
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        yield slice(begin, end)


def _slot(codes: NDArray[np.unsignedinteger], slots: int) -> NDArray[np.uint64]:
    return (codes.astype(np.uint64) * _SPREAD) >> np.uint64(65 - slots.bit_length())


def _type_of(k: int) -> type[np.unsignedinteger]:
    return np.uint32 if _BITS * k <= 32 else np.uint64
