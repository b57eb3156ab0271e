"""A batch of token sequences. Legend: B sequences, T tokens (residues and the two control tokens around them)."""

from dataclasses import dataclass

import torch
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
