"""Stateless randomness: every random choice about a sequence is a pure function of a key.

A key names one use of one sequence (seed, epoch, row). Nothing depends on batch neighbours, on the number of workers or on
what was drawn before, so a resumed run needs no generator state to make the same choices.
"""

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint64]


def mix(values: UInts) -> UInts:
    """Return a well-mixed 64-bit hash of each value: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def combine(*parts: int | NDArray[np.int64] | UInts) -> UInts:
    """Return one hash of several integers (scalars or arrays that broadcast), order-sensitive, as an array of at least one dimension."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = mix(state ^ np.atleast_1d(np.asarray(part)).astype(np.uint64))
    return state


def seed_of(*parts: int) -> int:
    """Return a non-negative 63-bit seed from several integers."""
    return int(combine(*parts)[0] >> np.uint64(1))


def uniform(keys: NDArray[np.int64], width: int, stream: int) -> NDArray[np.float64]:
    """Return uniform numbers [B, width] in [0, 1) for keys [B]; column t of a row depends on its key, t and ``stream`` only."""
    hashes = combine(keys.reshape(-1, 1), stream, np.arange(width, dtype=np.int64)[None, :])
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
