"""A small one-dimensional convolutional encoder, trained from scratch: the baseline that pre-trained Transformers have to beat.

Small convolutional networks match them on mutational landscapes (Shanehsazzadeh et al. 2020). A layer is a residual block with a
dilated convolution, a plain form of ByteNet's as CARP has it (Yang et al. 2022):

    x <- x + dropout(activation(convolution(norm(x))))

Legend: B sequences, T tokens, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE, STANDARD
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.residues import convolve, embed, only_residues, residue_mask, residue_mean

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu": relu}


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolutional encoder's shape."""

    layers: int = 3
    """Number of convolutions."""
    width: int = 256
    """Model dimension D: filters of each convolution."""
    residues: Literal["embedding", "onehot"] = "embedding"
    """What the first convolution sees of a residue: a learned vector, or its one-hot vector, which costs less."""
    kernel: int = 5
    """Residues that a filter spans, an odd number."""
    dilation_growth: int = 1
    """Dilation of a convolution over that of the one before: 1 for none, 2 to see twice as far with each layer."""
    dropout: float = 0.1
    """Probability of dropping an embedding or a filter's output."""
    residual: bool = True
    """Add what goes into a convolution to what comes out."""
    activation: Literal["gelu", "relu"] = "gelu"
    """What follows each convolution."""
    norm: Literal["layer", "none"] = "layer"
    """Normalise each residue's vector before each convolution and at the end, or nowhere."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "kernel", "dilation_growth"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")
        if self.kernel % 2 == 0:
            raise InputError(f"encoder.kernel: {self.kernel} is even, so that no residue is in its middle; take {self.kernel + 1}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout: {self.dropout} must be in [0, 1)")
        if self.residues == "onehot" and (self.residual or self.norm != "none"):
            raise InputError("encoder.residues: one-hot is for plain convolutions; add --encoder.no-residual --encoder.norm none")

    def build(self) -> "Convolution":
        """Return the encoder, initialised from torch's global generator."""
        return Convolution(self)


class Convolution(nn.Module):
    """Token ids to one vector a token. Only residues are seen, so a sequence's output does not depend on its neighbours in the batch."""

    def __init__(self, shape: ConvolutionShape) -> None:
        super().__init__()
        self.shape = shape
        onehot = shape.residues == "onehot"
        self.embedding = OneHotShape().build() if onehot else nn.Embedding(SIZE, shape.width, padding_idx=PAD)
        self.dropout = nn.Dropout(shape.dropout)
        widths = [len(STANDARD) + 1 if onehot else shape.width, *[shape.width] * (shape.layers - 1)]
        self.blocks = nn.ModuleList(Block(shape, width, shape.dilation_growth**layer) for layer, width in enumerate(widths))
        self.norm = _norm(shape)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.width

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64; those at padding and control tokens are zero.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.
        """
        mask = residue_mask(tokens)
        x = self.dropout(embed(self.embedding, tokens, inputs))
        for block in self.blocks:
            x = block(x, mask)
        return only_residues(self.norm(x), mask)

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the mean [B, D] of the residues' vectors h [B, T, D]."""
        return residue_mean(h, tokens)


class Block(nn.Module):
    """A normalised, dilated convolution."""

    def __init__(self, shape: ConvolutionShape, width: int, dilation: int) -> None:
        super().__init__()
        self.residual, self.activation = shape.residual, ACTIVATIONS[shape.activation]
        self.norm = _norm(shape)
        padding = shape.kernel // 2 * dilation
        self.convolution = nn.Conv1d(width, shape.width, shape.kernel, padding=padding, dilation=dilation)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return [B, T, D] for x [B, T, D]; ``mask`` [B, T] is True at residues, which alone are seen."""
        seen = only_residues(self.norm(x), mask)  # in this order, because what normalises zeros has a bias
        y: Tensor = self.dropout(self.activation(convolve(self.convolution, seen)))
        return x + y if self.residual else y


def _norm(shape: ConvolutionShape) -> nn.Module:
    return nn.LayerNorm(shape.width) if shape.norm == "layer" else nn.Identity()
