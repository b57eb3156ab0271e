"""The Transformer encoder of He et al. 2021, section 4.1 (RoBERTa's shape). Legend: B sequences, T tokens, D width, H heads."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from raypro.config import InputError
from raypro.core.alphabet import CONTROL_TOKENS, PAD, SIZE
from raypro.core.residues import embed


def require_even_heads(width: int, heads: int) -> None:
    """Raise InputError where heads do not divide the width into parts whose dimensions are pairs."""
    if width % heads or (width // heads) % 2:
        raise InputError(f"encoder.heads: {heads} heads do not divide the width {width} into even parts; change either")


@dataclass(frozen=True)
class TransformerShape:
    """A Transformer encoder's shape. The default is the paper's base."""

    layers: int = 12
    """Number of blocks."""
    width: int = 768
    """Model dimension D."""
    heads: int = 12
    """Attention heads; they divide the width."""
    hidden: int = 3072
    """Width of the feed-forward layer."""
    dropout: float = 0.1
    """Probability of dropping an embedding, an attention output or a feed-forward output."""
    positions: Literal["sinusoidal", "rotary", "learned"] = "sinusoidal"
    """Fixed sinusoids added to the embedding (the paper's), rotations of queries and keys (Su et al. 2021), or a learned vector of each
    position added to the embedding (BERT's)."""
    longest: int | None = None
    """Most residues of a sequence, where positions are learned: there are two positions more, for the control tokens. None: any number."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation before each sublayer (stable at high rates), or after it (RoBERTa's)."""
    norm_epsilon: float = 1e-5
    """Added to the variance that a layer normalisation divides by; 1e-12 in BERT."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations: less memory, a third more time."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")
        require_even_heads(self.width, self.heads)
        if (self.positions == "learned") != (self.longest is not None):
            raise InputError(f"encoder.longest: {self.longest} with {self.positions} positions; learned ones, and no others, need a number")
        if self.longest is not None and self.longest < 1:
            raise InputError(f"encoder.longest: {self.longest} must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout: {self.dropout} must be in [0, 1)")
        if self.norm_epsilon <= 0:
            raise InputError(f"encoder.norm_epsilon: {self.norm_epsilon} must be above 0")

    def build(self) -> "Transformer":
        """Return the encoder, initialised from torch's global generator."""
        return Transformer(self)


TAPE_TRANSFORMER = TransformerShape(layers=12, width=512, heads=8, hidden=2048)
"""The Transformer of TAPE's paper (Rao et al. 2019), pre-norm with sinusoids as in its code of 2019: 37.8 M parameters. There the
sinusoids stand beside the embedding, and a layer of 0.5 M parameters brings both to D; here they are added. The weights of
tape-proteins 0.4 are another model, 768 wide, post-norm, with learned positions: :mod:`raypro.core.imports_tape` reads it as it is."""


class Transformer(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(SIZE, shape.width, padding_idx=PAD)
        if shape.longest is not None:
            self.places = nn.Embedding(shape.longest + CONTROL_TOKENS, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.apply(_initialise)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.width

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64; those at padding are meaningless.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.

        Post-norm normalises the embedding, pre-norm the output: either way every vector that leaves has been normalised.

        Raises:
            InputError: there are more tokens than learned positions.
        """
        x = embed(self.embedding, tokens, inputs) * math.sqrt(self.width)
        rotations = None
        if self.shape.positions == "sinusoidal":
            x = x + sinusoids(tokens.shape[1], self.width, x.device).to(x.dtype)
        elif self.shape.positions == "learned":
            x = x + self._learned_positions(tokens.shape[1]).to(x.dtype)
        else:
            rotations = rotations_of(tokens.shape[1], self.width // self.shape.heads, x)
        x = self.dropout(self.norm(x) if self.shape.norm == "post" else x)
        visible = (tokens != PAD)[:, None, None, :]
        for block in self.blocks:
            if self.shape.activation_checkpointing and self.training:
                x = checkpoint(block, x, visible, rotations, use_reentrant=False)
            else:
                x = block(x, visible, rotations)
        return self.norm(x) if self.shape.norm == "pre" else x

    def _learned_positions(self, length: int) -> Tensor:
        """Return [T, D] learned positions, of the size of the embedding."""
        if length > len(self.places.weight):
            residues = f"{length - CONTROL_TOKENS} residues, and the encoder has learned positions for {self.shape.longest}"
            raise InputError(f"encoder.longest: a sequence of {residues}; leave such sequences out, or shorten them")
        return self.places.weight[:length] * math.sqrt(self.width)

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the vectors [B, D] at CLS, the first token, for h [B, T, D]."""
        return h[:, 0]


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each added to what goes in."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads, self.post = shape.heads, shape.norm == "post"
        self.norm_attention = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm_feed = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)
        self.feed_in = nn.Linear(shape.width, shape.hidden)
        self.feed_out = nn.Linear(shape.hidden, shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, visible: Tensor, rotations: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return [B, T, D] for x [B, T, D]; ``visible`` [B, 1, 1, T] is False at padding."""
        if self.post:
            x = self.norm_attention(x + self.attention(x, visible, rotations))
            return self.norm_feed(x + self.feed_forward(x))
        x = x + self.attention(self.norm_attention(x), visible, rotations)
        return x + self.feed_forward(self.norm_feed(x))

    def attention(self, x: Tensor, visible: Tensor, rotations: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the attention's output [B, T, D]."""
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # each [B, H, T, D / H]
        if rotations is not None:
            q, k = rotate(q, *rotations), rotate(k, *rotations)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, d)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward layer's output [B, T, D]."""
        return self.dropout(self.feed_out(gelu(self.feed_in(x))))


def _initialise(module: nn.Module) -> None:
    """BERT's initialisation (normal, 0.02; biases zero), but for embeddings, which times sqrt(D) have the sinusoids' size."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _angles(length: int, width: int, device: torch.device) -> Tensor:
    """Return [T, width / 2] float64 angles: position times a geometric series of frequencies (Vaswani et al. 2017, section 3.5)."""
    frequencies = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float64) * (-math.log(10000.0) / width))
    return torch.arange(length, device=device)[:, None] * frequencies


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Return [T, D] fixed positions: sines, then cosines."""
    angles = _angles(length, width, device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def rotations_of(length: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [T, E / 2] of the angles by which heads of a width E rotate; device and type are those of ``like``."""
    angles = _angles(length, width, like.device)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of dimensions of x [B, H, T, E] by angles whose cosines and sines are [T, E / 2] (Su et al. 2021, equation 34)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
