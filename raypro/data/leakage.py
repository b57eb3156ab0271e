"""Evaluation sequences, and which of them other sequences repeat or nearly repeat: for the report on a corpus, and for leaving them out.

Needs numpy and pyarrow only: it runs in the processes that read a corpus. Legend: n sequences, U evaluation sequences, H hits.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypro.data.minhash import Near, Sketches

IDENTICAL = "identical to a sequence of an evaluation set"
NEAR = "near duplicate of a sequence of an evaluation set"
"""Why a sequence is left out of a corpus."""


@dataclass(frozen=True)
class Hits:
    """Pairs of a sequence and an evaluation sequence."""

    rows: NDArray[np.int64]
    """[H] which sequence."""
    targets: NDArray[np.int64]
    """[H] which evaluation sequence."""
    identical: NDArray[np.bool_]
    """[H] whether they are equal; near duplicates otherwise."""
    similarity: NDArray[np.float64]
    """[H] 1 for identical ones, the containment of the evaluation sequence in the other one for near duplicates."""


@dataclass(frozen=True)
class Targets:
    """The distinct sequences of evaluation sets, made ready to be looked for."""

    sequences: pa.BinaryArray
    """[U] cleaned, each once."""
    sketches: Sketches | None
    """To find near duplicates by; None: only identical sequences are looked for."""

    @classmethod
    def of(cls, sequences: pa.BinaryArray, near: Near | None) -> "Targets":
        """Return the targets; near duplicates are found where ``near`` says what they are."""
        return cls(sequences, None if near is None else Sketches.of(sequences, near))

    def hits(self, sequences: pa.BinaryArray) -> Hits:
        """Return what ``sequences`` [n], cleaned, repeat. An identical pair is not also a near one."""
        rows, targets = self._identical(sequences)
        same, ones = np.ones(len(rows), np.bool_), np.ones(len(rows))
        if self.sketches is None:
            return Hits(rows, targets, same, ones)
        near = self.sketches.matches(sequences)
        other = ~np.isin(near.rows * len(self.sequences) + near.owners, rows * len(self.sequences) + targets)
        return Hits(
            np.concatenate([rows, near.rows[other]]),
            np.concatenate([targets, near.owners[other]]),
            np.concatenate([same, np.zeros(other.sum(), np.bool_)]),
            np.concatenate([ones, near.containment[other]]),
        )

    def causes(self, sequences: pa.BinaryArray) -> pa.StringArray:
        """Return for each of ``sequences`` [n] why it has to be left out of a corpus; null where it has not."""
        hits, causes = self.hits(sequences), np.zeros(len(sequences), np.int8)
        causes[hits.rows[~hits.identical]] = 2
        causes[hits.rows[hits.identical]] = 1
        return pa.array([None, IDENTICAL, NEAR], pa.string()).take(pa.array(causes))

    def _identical(self, sequences: pa.BinaryArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = pc.index_in(sequences, value_set=self.sequences)
        rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        return rows, found.drop_null().to_numpy().astype(np.int64)
