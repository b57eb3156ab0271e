"""A batch of token sequences. Legend: B sequences, T tokens (residues and the two control tokens around them), L residues, D width."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypro.core.alphabet import CLS, PAD, SEP


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, on the host.

    ``tokens`` [B, T] int64: CLS, residues, SEP, then PAD to the longest. ``keys`` [B] int64: what all randomness about each
    sequence is a function of. ``rows`` [R] int64: the rows of the corpus the sequences are; empty for a filler.
    """

    tokens: Tensor
    keys: Tensor
    rows: Tensor

    @classmethod
    def filler(cls) -> "Batch":
        """Return the batch of a worker that has run out of data: one sequence without residues, which weighs nothing in any loss."""
        return cls(torch.tensor([[CLS, SEP]]), torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Number of tokens that are not padding."""
        return int((self.tokens != PAD).sum())

    @property
    def residues(self) -> int:
        """Number of tokens that are residues: all but padding and the two control tokens of each sequence."""
        return self.filled - 2 * len(self.tokens)


@dataclass(frozen=True)
class ContactLabel:
    """What is known of the contacts within one protein."""

    pairs: NDArray[np.int32]
    """[n, 2] residues in contact, counted from 0, the first below the second."""
    resolved: NDArray[np.bool_]
    """[L] whether a residue's place is known; pairs with one that is not are neither contacts nor none."""


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Sequences with what is to be predicted of them."""

    labels: tuple[Any, ...]
    """One a sequence: a number; a class (int); a class for each residue [L] int64, -1 where it is not scored; or a ContactLabel."""
    vectors: Tensor | None = None
    """[B, T, D] the encoder's vectors, where they were computed before because the encoder is frozen."""
