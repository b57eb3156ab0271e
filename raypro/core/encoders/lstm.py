"""LSTMs that read a sequence from both ends: TAPE's LSTM (Rao et al. 2019), and the language model of Bepler and Berger 2019.

Each direction has layers of its own, one upon the other, and sees nothing of the other: their states meet only in the output. So the
state before a residue knows what stands before it alone, that behind it what stands behind it, and both can be asked what the residue is.

    i = sigmoid(W_i x + U_i h + b_i)      f = sigmoid(W_f x + U_f h + b_f)      o = sigmoid(W_o x + U_o h + b_o)
    c' = f * c + i * tanh(W_g x + U_g h + b_g)                                  h' = o * tanh(c')

Parameters: TAPE's has 43.0 M here. The 44 M of the papers' tables are those and a pooling layer of 1.05 M, which tape-proteins 0.4 has
on top and language modelling does not train. Bepler and Berger's has 12.7 M, because both directions share their weights, as in their
public code; the network that they train on structures has its output for an input, and is no part of this.

Legend: B sequences, T tokens, E width of the embedding, H units of one direction, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE
from raypro.core.residues import embed, only_residues, residue_mean


@dataclass(frozen=True)
class LSTMShape:
    """Stacked LSTMs. The default is TAPE's."""

    layers: int = 3
    """Layers of each direction."""
    units: int = 1024
    """H: units of each layer, in each direction."""
    embedding: int = 128
    """E: dimension of a token's embedding."""
    directions: Literal["both", "forward"] = "both"
    """Read from both ends, the states side by side (D = 2 H), or from the first residue on alone (D = H)."""
    tied: bool = False
    """Both directions have the same weights."""
    dropout: float = 0.1
    """Probability of dropping what goes from one layer to the next."""

    def __post_init__(self) -> None:
        for name in ("layers", "units", "embedding"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout: {self.dropout} must be in [0, 1)")
        if self.tied and self.directions != "both":
            raise InputError("encoder.tied: there is but one direction; add --encoder.directions both")

    def build(self) -> "LSTM":
        """Return the encoder, initialised from torch's global generator."""
        return LSTM(self)


TAPE_LSTM = LSTMShape()
"""TAPE's LSTM: 43.0 M parameters."""
BEPLER = LSTMShape(layers=2, units=1024, embedding=21, tied=True, dropout=0.0)
"""Bepler and Berger's language model: 12.7 M parameters."""


class LSTM(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    def __init__(self, shape: LSTMShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(SIZE, shape.embedding, padding_idx=PAD)
        stacks = len(self.directions) if not shape.tied else 1
        self.stacks = nn.ModuleList(Stack(shape) for _ in range(stacks))

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.units * len(self.directions)

    @property
    def directions(self) -> tuple[str, ...]:
        """From where the sequence is read: "forward", from its first residue on, and perhaps "backward"."""
        return ("forward", "backward") if self.shape.directions == "both" else ("forward",)

    def directional(self, tokens: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the states [B, T, H] of each of :attr:`directions` for tokens [B, T] int64; those at padding are zero.

        The state at a token is that after it was read, in its own direction: of what lies further on it knows nothing.
        """
        seen = tokens != PAD
        x = embed(self.embedding, tokens, inputs)
        states = [self.stacks[0](x)]
        if "backward" in self.directions:
            places = reversed_places(seen)
            states.append(_at(self.stacks[-1](_at(x, places)), places))
        return tuple(only_residues(h, seen) for h in states)  # padding comes last in either direction: no state before it has seen it

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64: the states of both directions side by side; those at padding are zero.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.
        """
        return torch.cat(self.directional(tokens, inputs), dim=-1)

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean [B, D] of the residues' vectors h [B, T, D]."""
        return residue_mean(h, tokens)


class Stack(nn.Module):
    """The layers of one direction. Dropout is apart, because that within cuDNN's LSTM has a generator that a resumed run cannot set."""

    def __init__(self, shape: LSTMShape) -> None:
        super().__init__()
        widths = [shape.embedding, *[shape.units] * (shape.layers - 1)]
        self.layers = nn.ModuleList(nn.LSTM(width, shape.units, batch_first=True) for width in widths)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's states [B, T, H] after each step of x [B, T, E], from states of zero."""
        for depth, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if depth else x)[0]
        return x


def reversed_places(seen: Tensor) -> Tensor:
    """Return [B, T]: which token comes t-th when each sequence is read from its own end; padding, where ``seen`` is False, stays."""
    length, place = seen.sum(dim=1, keepdim=True), torch.arange(seen.shape[1], device=seen.device)
    return torch.where(seen, length - 1 - place, place)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """Return x [B, T, C] with the vectors at ``places`` [B, T] in each sequence's order."""
    return x.gather(1, places[:, :, None].expand_as(x))
