"""What probes look at: an encoder's vectors, and what they have to beat: random weights, one-hot residues, the composition, k-mers.

Legend: n sequences, L residues of one, D width, W = 21 types of residue, M = 20^k k-mers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.core.random import seed_of
from raypro.encoder import LoadedEncoder
from raypro.evaluate.baselines import TYPES, one_hot, residue_types
from raypro.evaluate.probes import Vectors

CHUNK = 1024
"""Sequences that are embedded between two looks at the progress bar."""
WINDOW = 11
"""Residues around one that the baselines of residues see: as many as a patch of CPCProt has."""
STANDARD_TYPES = len(STANDARD)
"""Types of residue that runs are made of."""
MOST_POSITIONS = 512
"""Residues beyond this position are cut off in one-hot vectors."""
MOST_WEIGHTS = 1_000_000
"""One-hot vectors are cut further where a linear probe would have more weights than this: 39 residues for 1,195 classes."""


class Representation(Protocol):
    """A way from sequences to vectors."""

    name: str
    """What it is called in tables."""

    def about(self, residues: bool) -> str:
        """Return how the vectors of sequences, or of residues, are made."""

    def of_sequences(self, sequences: Sequence[str]) -> Vectors:
        """Return one vector [n, D] a sequence."""

    def of_residues(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return one vector [L, D] a residue of each sequence."""


@dataclass(frozen=True)
class Encoded:
    """The vectors of an encoder."""

    name: str
    weights: str
    """Where its weights come from."""
    encoder: LoadedEncoder
    pooling: str
    """How it makes one vector of a sequence; empty where none is asked for."""

    def about(self, residues: bool) -> str:
        """Return how the vectors are made."""
        return self.weights if residues or not self.pooling else f"{self.weights}; {self.pooling}"

    def of_sequences(self, sequences: Sequence[str]) -> Vectors:
        """Return the pooled vectors [n, D], with a progress bar where there are many."""
        starts = range(0, len(sequences), CHUNK)
        shown = track(starts, f"embedding: {self.name}", transient=True, disable=len(starts) < 2, console=Console(stderr=True))
        parts = [self.encoder.embed(sequences[at : at + CHUNK], self.pooling) for at in shown]
        return _finite(np.concatenate([np.zeros((0, self.encoder.width), np.float32), *parts]))

    def of_residues(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the residues' vectors."""
        return [_finite(vectors) for vectors in self.encoder.embed_residues(sequences)]


@dataclass(frozen=True)
class OneHot:
    """Which residue is where, as it is: positions side by side for a sequence, a window of :data:`WINDOW` around a residue."""

    positions: int
    """Residues of a sequence that are looked at; a shorter one has zeros behind its end."""
    name: str = "one-hot"

    def about(self, residues: bool) -> str:
        """Return how the vectors are made."""
        return f"the {WINDOW} residues around one" if residues else f"the first {self.positions} residues, position by position"

    def of_sequences(self, sequences: Sequence[str]) -> Vectors:
        """Return a sparse matrix [n, positions x W]."""
        return one_hot(sequences, self.positions)

    def of_residues(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return [L, WINDOW x W] of each sequence; zeros beyond its ends."""
        return [_windows(sequence).reshape(len(sequence), -1) for sequence in sequences]


@dataclass(frozen=True)
class Composition:
    """How frequent each type of residue is: in a sequence, or in the :data:`WINDOW` residues around one."""

    name: str = "composition"

    def about(self, residues: bool) -> str:
        """Return how the vectors are made."""
        return f"the shares of {TYPES} types of residue in {f'the {WINDOW} around one' if residues else 'the sequence'}"

    def of_sequences(self, sequences: Sequence[str]) -> Vectors:
        """Return the shares [n, W]."""
        counts = [np.bincount(residue_types(sequence), minlength=TYPES) / max(1, len(sequence)) for sequence in sequences]
        return np.array(counts, np.float32).reshape(-1, TYPES)

    def of_residues(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the shares [L, W] in the window around each residue, of those that are within the sequence."""
        sums = (_windows(sequence).sum(axis=1) for sequence in sequences)
        return [counts / counts.sum(axis=1, keepdims=True) for counts in sums]


@dataclass(frozen=True)
class KMers:
    """How frequent each run of k standard residues is: in a sequence, or in the :data:`WINDOW` residues around one."""

    k: int = 2
    """Residues of a run."""
    name: str = "k-mers"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 3:
            raise InputError(f"k: {self.k} is not 1, 2 or 3; there are 20^k columns")

    def about(self, residues: bool) -> str:
        """Return how the vectors are made."""
        where = f"the {WINDOW} residues around one" if residues else "the sequence"
        return f"the shares of the {STANDARD_TYPES**self.k:,} runs of {self.k} standard residues in {where}"

    def of_sequences(self, sequences: Sequence[str]) -> Vectors:
        """Return the shares [n, M], which sum to 1, or are all 0 where there is no such run."""
        shares = np.zeros((len(sequences), STANDARD_TYPES**self.k), np.float32)
        for row, sequence in zip(shares, sequences, strict=True):
            runs = self._runs(sequence)
            runs = runs[runs >= 0]
            row += np.bincount(runs, minlength=len(row)) / max(1, len(runs))
        return shares

    def of_residues(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the shares [L, M] of the runs that lie in the window around each residue."""
        return [self._around(sequence) for sequence in sequences]

    def _runs(self, sequence: str) -> NDArray[np.int64]:
        """Return the number of the run that begins at each residue [max(0, L - k + 1)]; -1 where another letter is in it."""
        if len(sequence) < self.k:
            return np.zeros(0, np.int64)
        types = sliding_window_view(residue_types(sequence), self.k)
        return np.where((types < STANDARD_TYPES).all(axis=1), types @ STANDARD_TYPES ** np.arange(self.k - 1, -1, -1), -1)

    def _around(self, sequence: str) -> NDArray[np.float32]:
        runs, half = self._runs(sequence), WINDOW // 2
        before = np.zeros((len(runs) + 1, STANDARD_TYPES**self.k), np.float32)  # counts of the runs that begin before each residue
        before[1 + np.flatnonzero(runs >= 0), runs[runs >= 0]] = 1
        before = before.cumsum(axis=0)
        places = np.arange(len(sequence))
        first, end = np.clip(places - half, 0, len(runs)), np.clip(places + half + 2 - self.k, 0, len(runs))
        counts = before[end] - before[first]
        return counts / np.maximum(1, counts.sum(axis=1, keepdims=True))


def random_weights(encoder: LoadedEncoder, seed: int = 0) -> LoadedEncoder:
    """Return an encoder of the same shape, on the same device, with weights drawn by ``seed`` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, 0))
        module = encoder.shape.build()
    return LoadedEncoder(module.eval().requires_grad_(False).to(encoder.device), encoder.shape, encoder.device)


def with_baselines(encoder: LoadedEncoder, pooling: str | None, longest: int, outputs: int, seed: int = 0) -> list[Representation]:
    """Return an encoder's representation, the first, and its baselines.

    Args:
        encoder: the encoder that is judged.
        pooling: how it makes one vector of a sequence; None: its default.
        longest: residues of the longest training sequence.
        outputs: classes, or 1 for a number: one-hot vectors are cut at :data:`MOST_WEIGHTS` weights.
        seed: of the random weights.

    Raises:
        InputError: the encoder has no such pooling.
    """
    chosen = encoder.pooling_or_default(pooling)
    random = random_weights(encoder, seed)
    return [
        Encoded("this encoder", "its weights as they are", encoder, chosen),
        Encoded("random weights", f"the same shape, weights drawn with seed {seed}", random, chosen),
        OneHot(min(longest, MOST_POSITIONS, max(1, MOST_WEIGHTS // (TYPES * outputs)))),
        Composition(),
        KMers(),
    ]


def residue_chunks(sequences: Sequence[str], residues: int = 32_768) -> Iterator[slice]:
    """Yield slices of the sequences, in order, of at most ``residues`` residues each, or of one longer sequence."""
    begin = total = 0
    for row, sequence in enumerate(sequences):
        if total and total + len(sequence) > residues:
            yield slice(begin, row)
            begin, total = row, 0
        total += len(sequence)
    if begin < len(sequences):
        yield slice(begin, len(sequences))


def map_residues(
    representation: Representation, sequences: Sequence[str], function: Callable[[int, NDArray[np.float32]], Any]
) -> list[Any]:
    """Return ``function(row, vectors [L, D])`` of every sequence, the vectors of few of them in memory at a time."""
    found = []
    for part in residue_chunks(sequences):
        vectors = representation.of_residues(sequences[part])
        found += [function(part.start + i, of_one) for i, of_one in enumerate(vectors)]
    return found


def _windows(sequence: str) -> NDArray[np.float32]:
    """Return [L, WINDOW, W]: the one-hot types of the residues around each."""
    half = WINDOW // 2
    table = np.eye(TYPES + 1, TYPES, dtype=np.float32)  # the last row, all zero, is what lies beyond the ends
    return table[sliding_window_view(np.pad(residue_types(sequence), half, constant_values=TYPES), WINDOW)]


def _finite(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise InputError("the encoder gives vectors that are not finite numbers: its weights are damaged; take another checkpoint")
    return vectors
