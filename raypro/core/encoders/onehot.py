"""Residues as they are: the baseline "one-hot", an encoder without parameters. Legend: B sequences, T tokens, D = 21 width."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raypro.core.alphabet import CLS, PAD, SEP, STANDARD, TOKEN_TO_CLASS
from raypro.core.residues import residue_mean


@dataclass(frozen=True)
class OneHotShape:
    """One-hot residues: the 20 standard amino acids in the order of their letters, then one place for every other residue."""

    def build(self) -> "OneHot":
        """Return the encoder."""
        return OneHot(self)


class OneHot(nn.Module):
    """Token ids to one-hot vectors. It has no parameters and nothing that a checkpoint would keep."""

    weight: Tensor
    """[SIZE, 21] the vector of each token, where an embedding has its matrix."""

    def __init__(self, shape: OneHotShape) -> None:
        super().__init__()
        self.shape = shape
        table = torch.eye(self.width)[torch.from_numpy(TOKEN_TO_CLASS)]  # -1, no standard amino acid, is the last place
        table[[PAD, CLS, SEP]] = 0.0
        self.register_buffer("weight", table, persistent=False)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors: 21."""
        return len(STANDARD) + 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors [B, T, 21] for tokens [B, T] int64; those at padding and control tokens are zero.

        Place 20 is for what is no standard amino acid: B, O, U, X, Z, unknown and masked residues.
        """
        return self.weight[tokens]

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean [B, 21] of the residues' vectors h [B, T, 21]: the composition of the sequence."""
        return residue_mean(h, tokens)
