"""The noiser of McDermott et al. 2020: it scores where a sequence is to be masked, and how.

A token's scores come from one linear layer on its state: one for being masked at all, and 22 for the options that it has if it is.
The paper gives "embedding 1024, 3-layer GRU, output 512"; the last is read as the recurrent width. Dropout is not used.

Legend: B sequences, T tokens, D width of the states, O = 22 options.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE, STANDARD, TOKEN_TO_CLASS
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.gru import packed_gru

HIDE, KEEP, REPLACE = range(3)
"""The options: show MASK, keep what is there, and the first of the replacements."""
OPTIONS = REPLACE + len(STANDARD)
"""O: after MASK and keep a replacement by each of the standard residues, in the order of STANDARD."""

EXCLUDED = -1e9
"""The score of an option that a token has not: with any noise and temperature its probability is 0, and so is its gradient."""


@dataclass(frozen=True)
class GRUNoiserShape:
    """A recurrent noiser. The default is the paper's: 5.6 M parameters."""

    embedding: int = 1024
    """Dimension of a token's embedding."""
    width: int = 512
    """Units of each layer, and in each direction."""
    layers: int = 3
    """Number of layers."""
    bidirectional: bool = False
    """Read the sequence from its end as well; else a residue's scores depend on what stands before it alone."""

    def __post_init__(self) -> None:
        _require_positive(embedding=self.embedding, width=self.width, layers=self.layers)

    def build(self) -> "Noiser":
        """Return the noiser, initialised from torch's global generator."""
        return Noiser(GRUStates(self))


@dataclass(frozen=True)
class TransformerNoiserShape:
    """A noiser that attends to the whole sequence. The default has the depth and width of the paper's recurrent one."""

    layers: int = 3
    """Number of blocks."""
    width: int = 512
    """Model dimension D."""
    heads: int = 8
    """Attention heads; they divide the width."""
    hidden: int = 2048
    """Width of the feed-forward layer."""

    def __post_init__(self) -> None:
        _require_positive(layers=self.layers, width=self.width, heads=self.heads, hidden=self.hidden)
        if self.width % (2 * self.heads):
            raise InputError(f"noiser.heads: {self.heads} heads do not divide the width {self.width} into even parts; change either")

    def build(self) -> "Noiser":
        """Return the noiser, initialised from torch's global generator."""
        return Noiser(TransformerShape(self.layers, self.width, self.heads, self.hidden, dropout=0.0).build())


class Noiser(nn.Module):
    """Token ids to scores. A sequence's scores do not depend on its neighbours in the batch nor on padding."""

    own_class: Tensor

    def __init__(self, states: nn.Module) -> None:
        super().__init__()
        self.states = states
        self.scores = nn.Linear(int(states.width), 1 + OPTIONS)  # type: ignore[arg-type]
        self.register_buffer("own_class", torch.from_numpy(TOKEN_TO_CLASS), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for tokens [B, T] int64, the score of masking each [B, T] and of its options [B, T, O]; float32 at the least.

        The option to replace a residue by itself is excluded: that is to keep it. Scores at padding are meaningless.
        """
        scores = self.scores(self.states(tokens))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        itself = self.own_class[tokens][:, :, None] == torch.arange(-REPLACE, len(STANDARD), device=tokens.device)
        itself[:, :, :REPLACE] = False  # tokens of no class have -1
        return scores[:, :, 0], scores[:, :, 1:].masked_fill(itself, EXCLUDED)


class GRUStates(nn.Module):
    """Token ids to the last layer's states, from states of zero."""

    def __init__(self, shape: GRUNoiserShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SIZE, shape.embedding)
        self.gru = nn.GRU(shape.embedding, shape.width, shape.layers, batch_first=True, bidirectional=shape.bidirectional)
        self.width = shape.width * (2 if shape.bidirectional else 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return states [B, T, D] for tokens [B, T]; those at padding, which comes last, are meaningless."""
        x: Tensor = self.embedding(tokens)
        if self.gru.bidirectional:  # the way back starts at each sequence's own end; a device is waited for
            lengths = (tokens != PAD).sum(dim=1).cpu()
            packed = self.gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0]
            return pad_packed_sequence(packed, batch_first=True, total_length=tokens.shape[1])[0]
        if x.device.type == "cpu":
            states = packed_gru(self.gru, x.transpose(0, 1).flatten(0, 1), [len(x)] * x.shape[1])
            return states.view(x.shape[1], len(x), self.width).transpose(0, 1)
        h: Tensor = self.gru(x)[0]
        return h


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"noiser.{name}: {size} must be 1 or more")
