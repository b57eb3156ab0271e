"""The Transformer of AMPLIFY (Fournier et al. 2024, "Protein language models: is scaling necessary?"), as its public code has it.

    x <- x + O attention(rotated Q y, rotated K y, V y)     x <- x + W_3 (silu(W_1 y) * W_2 y)     y = g * x / sqrt(mean(x^2) + epsilon)

Nothing has a bias, the norm takes no mean away, and positions are rotations of queries and keys alone. There the weights come with code
that the hub would run; here :mod:`raypro.core.imports_amplify` reads them.

Legend: B sequences, T tokens, D width, H heads, E = D / H.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE
from raypro.core.encoders.transformer import require_even_heads, rotate, rotations_of
from raypro.core.residues import embed


@dataclass(frozen=True)
class AmplifyShape:
    """An AMPLIFY's shape. The default is that of AMPLIFY 120M."""

    layers: int = 24
    """Number of blocks."""
    width: int = 640
    """Model dimension D."""
    heads: int = 10
    """Attention heads; they divide the width."""
    hidden: int = 1712
    """Width of the feed-forward layer behind its gate: W_1 and W_2 have as many rows each."""
    norm_epsilon: float = 1e-5
    """Added to the mean square that a norm divides by."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"encoder.{name}: {getattr(self, name)} must be 1 or more")
        require_even_heads(self.width, self.heads)
        if self.norm_epsilon <= 0:
            raise InputError(f"encoder.norm_epsilon: {self.norm_epsilon} must be above 0")

    def build(self) -> "Amplify":
        """Return the encoder, initialised from torch's global generator."""
        return Amplify(self)


class Amplify(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    def __init__(self, shape: AmplifyShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(SIZE, shape.width, padding_idx=PAD)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.uniform_(module.weight, -0.02, 0.02)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.width

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return normalised vectors [B, T, D] for tokens [B, T] int64, what AMPLIFY's token head sees; those at padding are meaningless.

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.
        """
        x = embed(self.embedding, tokens, inputs)
        rotations = rotations_of(tokens.shape[1], self.width // self.shape.heads, x)
        visible = (tokens != PAD)[:, None, None, :]
        for block in self.blocks:
            x = block(x, visible, rotations)
        return self.norm(x)

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return the vectors [B, D] at CLS, the first token, for h [B, T, D]."""
        return h[:, 0]


class Block(nn.Module):
    """Self-attention and a gated feed-forward layer, each of normalised vectors and added to what goes in."""

    def __init__(self, shape: AmplifyShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_attention, self.norm_feed = (nn.RMSNorm(shape.width, eps=shape.norm_epsilon) for _ in range(2))
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.feed_in = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.feed_out = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, visible: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """Return [B, T, D] for x [B, T, D]; ``visible`` [B, 1, 1, T] is False at padding."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # each [B, H, T, E]
        mixed = scaled_dot_product_attention(rotate(q, *rotations), rotate(k, *rotations), v, attn_mask=visible)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        gate, up = self.feed_in(self.norm_feed(x)).chunk(2, dim=-1)
        return x + self.feed_out(silu(gate) * up)
