"""The multiplicative LSTM (Krause et al. 2016) as UniRep has it (Alley et al. 2019): it reads a sequence from its first residue on.

    m  = (W_mx x) * (W_mh h)              each residue has a transition of its own from one state to the next
    i  = sigmoid(W_ix x + W_im m + b_i)   f = sigmoid(W_fx x + W_fm m + b_f)   o = sigmoid(W_ox x + W_om m + b_o)
    c' = f * c + i * tanh(W_ux x + W_um m + b_u)                               h' = o * tanh(c')

The weights of each unit are a length times a direction (Salimans and Kingma 2016), both learned, as in UniRep's public code.
Training goes through whole sequences; UniRep's was cut off after 128 residues.

Legend: B sequences, T tokens, E width of the embedding, H units, which are the width D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import weight_norm

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE
from raypro.core.compiling import uncompiled
from raypro.core.residues import embed, only_residues, residue_mean


@dataclass(frozen=True)
class MultiplicativeLSTMShape:
    """A multiplicative LSTM. The default is UniRep's: 18.2 M parameters."""

    units: int = 1900
    """H: units of the one layer."""
    embedding: int = 10
    """E: dimension of a token's embedding."""

    def __post_init__(self) -> None:
        for name in ("units", "embedding"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")

    def build(self) -> "MultiplicativeLSTM":
        """Return the encoder, initialised from torch's global generator."""
        return MultiplicativeLSTM(self)


UNIREP = MultiplicativeLSTMShape()
"""UniRep: 18.2 M parameters."""


class MultiplicativeLSTM(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    directions = ("forward",)

    def __init__(self, shape: MultiplicativeLSTMShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(SIZE, shape.embedding, padding_idx=PAD)
        self.cell = Cell(shape.embedding, shape.units)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.units

    def directional(self, tokens: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return what :meth:`forward` does: the states [B, T, D] of the one direction."""
        return (self(tokens, inputs),)

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the states [B, T, D] after each of the tokens [B, T] int64; those at padding are zero.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.
        """
        h: Tensor = self.cell(embed(self.embedding, tokens, inputs))
        return only_residues(h, tokens != PAD)  # padding comes last: no state before it has seen it

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean [B, D] of the residues' vectors h [B, T, D], which is UniRep's average state."""
        return residue_mean(h, tokens)


class Cell(nn.Module):
    """The recurrence. The gates' weights are in the order i, f, o, u."""

    def __init__(self, embedding: int, units: int) -> None:
        super().__init__()
        self.mx, self.mh = _normalised(embedding, units), _normalised(units, units)
        self.x, self.m = _normalised(embedding, 4 * units), _normalised(units, 4 * units)
        self.bias = nn.Parameter(torch.zeros(4 * units))

    @uncompiled
    def forward(self, x: Tensor) -> Tensor:
        """Return the states [B, T, H] after each step of x [B, T, E], from states of zero."""
        from_x, factors = linear(x, self.x.weight, self.bias), self.mx(x)
        mh, m = (layer.weight.to(from_x.dtype) for layer in (self.mh, self.m))  # normalised, and under autocast rounded, once
        h = c = x.new_zeros(len(x), mh.shape[0])
        states = []
        for factor, gates in zip(factors.unbind(1), from_x.unbind(1), strict=True):
            i, f, o, u = (gates + linear(factor * linear(h, mh), m)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * u.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, dim=1)


def _normalised(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without a bias, whose weights of each output are a length, at first 1, times a random direction."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight)
    weight_norm(layer, dim=0)
    nn.init.ones_(layer.parametrizations.weight.original0)  # type: ignore[union-attr, arg-type]
    return layer
