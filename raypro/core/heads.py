"""Heads on an encoder's vectors: one output a protein or one a residue (Rao et al. 2019, as tape-proteins 0.4 has them).

Nothing depends on padding or on neighbours in the batch. Legend: B sequences, T tokens, D width, C classes.
"""

from collections.abc import Callable
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import weight_norm

from raypro.core.residues import convolve, only_residues, residue_mask, residue_mean

PoolingKind = Literal["mean", "attention", "max", "summary"]
"""How the vectors of a protein become one."""

Layer = TypeVar("Layer", bound=nn.Module)


class Pooling(nn.Module):
    """The vectors of a protein to one vector, over its residues.

    mean, max: of each dimension. summary: the encoder's own; CPCProt's is c_final, one of the two that its authors fine-tune with. Their
    other, z_mean, no head can have: an encoder gives a head the contexts c alone. attention: the mean with learned weights,

        sum over residues i of a_i h_i,   a = softmax over residues of (w . h_i)

    which is the ResNet's pooling of tape-proteins 0.4 but for three things. The softmax runs over the residues; there it runs over
    an axis of one, so that every weight is 1. The scores have no bias, which no softmax would show. And no dense layer with tanh
    follows, because a head with a hidden layer does.
    """

    def __init__(self, kind: PoolingKind, encoder: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        # A module's static method: the encoder does not become a part of the head.
        self.summary = cast(Callable[[Tensor, Tensor], Tensor], encoder.summary)
        self.score = nn.Linear(int(encoder.width), 1, bias=False) if kind == "attention" else None  # type: ignore[arg-type]

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """Return [B, D] for h [B, T, D] and tokens [B, T]; zero for a sequence without residues, its summary excepted."""
        if self.kind == "summary":
            return self.summary(h, tokens)
        if self.kind == "mean":
            return residue_mean(h, tokens)
        mask = residue_mask(tokens)
        if self.score is not None:
            scores = self.score(h)
            weights = scores.masked_fill(~mask[:, :, None], torch.finfo(scores.dtype).min).softmax(dim=1)  # [B, T, 1]
            return (weights * only_residues(h, mask)).sum(dim=1)
        highest = h.masked_fill(~mask[:, :, None], torch.finfo(h.dtype).min).amax(dim=1)
        return highest.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


class ValueHead(nn.Module):
    """One hidden layer, both layers' weights normalised as a whole (Salimans and Kingma 2016): TAPE's for values and classes."""

    def __init__(self, width: int, outputs: int, hidden: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = _normalised(nn.Linear(width, hidden))
        self.dropout = nn.Dropout(dropout)
        self.out = _normalised(nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] for x [..., D]."""
        outputs: Tensor = self.out(self.dropout(relu(self.hidden(x))))
        return outputs


class PooledHead(nn.Module):
    """Pooling, then a :class:`ValueHead`."""

    def __init__(self, kind: PoolingKind, encoder: nn.Module, outputs: int, hidden: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.pooling = Pooling(kind, encoder)
        self.value = ValueHead(int(encoder.width), outputs, hidden, dropout)  # type: ignore[arg-type]

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """Return [B, outputs] for h [B, T, D] and tokens [B, T]."""
        values: Tensor = self.value(self.pooling(h, tokens))
        return values


class ResidueHead(nn.Module):
    """Two convolutions, over 5 and over 3 residues, with weights normalised as a whole: TAPE's for secondary structure.

    tape-proteins 0.4 first normalises each dimension over the batch, padding included. Here each residue is normalised over its
    dimensions instead, which takes as many parameters and no statistics of its neighbours.
    """

    def __init__(self, width: int, classes: int, filters: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = _normalised(nn.Conv1d(width, filters, 5, padding=2))
        self.dropout = nn.Dropout(dropout)
        self.second = _normalised(nn.Conv1d(filters, classes, 3, padding=1))

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """Return logits [B, T, C] for h [B, T, D] and tokens [B, T]; those at padding and control tokens are meaningless."""
        mask = residue_mask(tokens)
        x = self.dropout(relu(convolve(self.first, only_residues(self.norm(h), mask))))
        return convolve(self.second, only_residues(x, mask))


def _normalised(layer: Layer) -> Layer:
    """Return a layer whose weight is a length, which is learned, times a direction: one length for the whole weight."""
    return cast(Layer, weight_norm(layer, dim=None))  # type: ignore[arg-type]
