"""TAPE's ResNet (Rao et al. 2019), as tape-proteins 0.4 has it: residual blocks of two convolutions each, without dilation.

    x <- gelu(x + norm(convolution(gelu(norm(convolution(x))))))

The paper describes 35 blocks with filters of length 9, dilated; this is the model that was released. Positions are counted from the
first token on; there they are counted from the end of the longest sequence of the batch.

Parameters: 47.3 M. With the pooling layer that tape-proteins has on top, 0.3 M, these are the 48 M of the papers' tables.

Legend: B sequences, T tokens, D width.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE
from raypro.core.encoders.transformer import sinusoids
from raypro.core.residues import convolve, embed, only_residues, residue_mean


@dataclass(frozen=True)
class ResNetShape:
    """A residual convolutional network. The default is TAPE's."""

    layers: int = 30
    """Number of blocks."""
    width: int = 512
    """Model dimension D: filters of each convolution; even."""
    kernel: int = 3
    """Residues that a filter spans, an odd number."""
    dropout: float = 0.1
    """Probability of dropping an element of an embedding."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, a third more time."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "kernel"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")
        if self.kernel % 2 == 0:
            raise InputError(f"encoder.kernel: {self.kernel} is even, so that no residue is in its middle; take {self.kernel + 1}")
        if self.width % 2:
            raise InputError(f"encoder.width: {self.width} is odd, and positions are pairs of a sine and a cosine; take {self.width + 1}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout: {self.dropout} must be in [0, 1)")

    def build(self) -> "ResNet":
        """Return the encoder, initialised from torch's global generator."""
        return ResNet(self)


TAPE_RESNET = ResNetShape()
"""TAPE's ResNet: 47.3 M parameters."""


class ResNet(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(SIZE, shape.width, padding_idx=PAD)  # standard normal: of the sinusoids' size
        self.norm = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.width

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64; those at padding are zero.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.
        """
        seen = tokens != PAD
        x = embed(self.embedding, tokens, inputs)
        x = x + sinusoids(tokens.shape[1], self.width, x.device).to(x.dtype)
        x = only_residues(self.dropout(self.norm(x)), seen)
        for block in self.blocks:
            recompute = self.shape.activation_checkpointing and self.training
            x = checkpoint(block, x, seen, use_reentrant=False) if recompute else block(x, seen)
        return x

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean [B, D] of the residues' vectors h [B, T, D]."""
        return residue_mean(h, tokens)


class Block(nn.Module):
    """Two normalised convolutions, added to what goes in."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.first, self.second = _convolution(shape), _convolution(shape)
        self.norm_first, self.norm_second = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D], in either of which the vectors where ``seen`` [B, T] is False are zero."""
        y = only_residues(gelu(self.norm_first(convolve(self.first, x))), seen)
        return only_residues(gelu(x + self.norm_second(convolve(self.second, y))), seen)


def _convolution(shape: ResNetShape) -> nn.Conv1d:
    """Return a convolution without a bias, with random weights that keep the size of gradients (He et al. 2015)."""
    convolution = nn.Conv1d(shape.width, shape.width, shape.kernel, padding=shape.kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
