"""The encoder of CPCProt (Lu et al. 2020): convolutions over patches of residues, and a recurrent network over the patches.

    z_t = g_enc(x_t)              one vector for patch t of 11 residues; patches do not overlap
    c_t = g_ar(z_0, ..., z_t)     the context: one vector for all patches so far

A remainder shorter than a patch is discarded. The recurrent network starts from a state of zero (the authors' public code starts
an LSTM from a random one, so that no two runs embed a protein alike).

Legend: B sequences, T tokens, P patches of the longest sequence, M patches of all sequences, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, relu
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint

from raypro.config import InputError
from raypro.core.alphabet import PAD, SIZE
from raypro.core.gru import packed_gru
from raypro.core.residues import only_residues, residue_mask

KEPT = 8192
"""Most patches whose activations are kept for the backward pass; of more, they are computed again, so many patches at a time."""


@dataclass(frozen=True)
class CPCProtShape:
    """A patch encoder and a recurrent network. The default is the paper's CPCProt of 1.7 M parameters."""

    embedding: int = 32
    """Dimension of a residue's embedding."""
    filters: tuple[int, ...] = (64, 64, 512)
    """Filters of each convolution; those of the last are the width D of z and of c."""
    kernels: tuple[int, ...] = (4, 6, 3)
    """Residues that the filters of each convolution span; together they turn one patch into one vector."""
    recurrent: Literal["gru", "lstm"] = "gru"
    """The recurrent network, with D units."""
    recurrent_layers: int = 1
    """Its layers."""

    def __post_init__(self) -> None:
        if not self.filters or len(self.filters) != len(self.kernels):
            raise InputError(f"encoder.filters: {len(self.filters)} for {len(self.kernels)} kernels; give one each, at least one")
        for name, values in (("embedding", (self.embedding,)), ("filters", self.filters), ("kernels", self.kernels)):
            if min(values) < 1:
                raise InputError(f"encoder.{name}: {min(values)} must be 1 or more")
        if self.recurrent_layers < 1:
            raise InputError(f"encoder.recurrent_layers: {self.recurrent_layers} must be 1 or more")

    @property
    def patch_length(self) -> int:
        """Residues of a patch: what the convolutions, one after the other, turn into one vector."""
        return 1 + sum(kernel - 1 for kernel in self.kernels)

    def build(self) -> "CPCProt":
        """Return the encoder, initialised from torch's global generator."""
        return CPCProt(self)


CPCPROT = CPCProtShape()
"""CPCProt of the paper: 1.7 M parameters."""
GRU_LARGE = CPCProtShape(embedding=64, filters=(128, 256, 512, 1024), kernels=(4, 4, 3, 3))
"""CPCProt GRU large of the paper: 8.4 M parameters."""
LSTM = CPCProtShape(embedding=64, filters=(128, 256, 512, 2048), kernels=(4, 4, 3, 3), recurrent="lstm", recurrent_layers=2)
"""CPCProt LSTM of the paper: 71 M parameters."""


class CPCProt(nn.Module):
    """Token ids to z and c, or to one vector a token. A sequence's vectors do not depend on its neighbours in the batch."""

    def __init__(self, shape: CPCProtShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_encoder = PatchEncoder(shape)
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[shape.recurrent]
        self.autoregressor = network(self.width, self.width, shape.recurrent_layers, batch_first=True)

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return self.shape.filters[-1]

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the patch encoder, by torch.compile: every way to z goes through it, but only some through :meth:`forward`.

        The recurrent network is left as it is: its steps are products and elementwise passes, one after the other.
        """
        self.patch_encoder.compile(*args, **options)

    def latents(self, patches: Tensor) -> Tensor:
        """Return z [M, D] of patches [M, patch length] of tokens, all in one batch."""
        if len(patches) <= KEPT or not torch.is_grad_enabled():
            return self.patch_encoder(patches)
        return torch.cat([checkpoint(self.patch_encoder, part, use_reentrant=False) for part in patches.split(KEPT)])

    def contexts(self, z: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return c [M, D] for z [M, D], both packed.

        Args:
            z: the vectors of the first patches of all sequences, longest sequence first, then of the second patches, and so on.
            sizes: how many sequences have a first patch, a second and so on; never rising.
        """
        if isinstance(self.autoregressor, nn.GRU) and z.device.type == "cpu":
            return packed_gru(self.autoregressor, z, sizes)
        c: Tensor = self.autoregressor(PackedSequence(z, torch.tensor(sizes)))[0].data
        return c

    def vectors(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and c [B, P, D] for tokens [B, T] int64, and how many patches [B] of each sequence are whole.

        What stands beyond a sequence's own patches is meaningless. P is 1 or more, also where no sequence fills a patch.
        """
        b = len(tokens)
        patches = cut(tokens, self.shape.patch_length)
        z = self.latents(patches.transpose(0, 1).flatten(0, 1))
        c = self.contexts(z, [b] * patches.shape[1])
        whole = residue_mask(tokens).sum(dim=1) // self.shape.patch_length
        return z.view(-1, b, self.width).transpose(0, 1), c.view(-1, b, self.width).transpose(0, 1), whole

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64; those at padding and control tokens are zero.

        A residue's vector is the context c of its patch: what is known of the sequence up to there. The residues of a remainder,
        which is in no patch, have the last context. All residues of a sequence shorter than one patch have zero.
        """
        _, c, whole = self.vectors(tokens)
        place = (torch.arange(tokens.shape[1], device=tokens.device) - 1).clamp(min=0) // self.shape.patch_length  # CLS is first
        patch = torch.minimum(place, (whole[:, None] - 1).clamp(min=0))
        h = c.gather(1, patch[:, :, None].expand(-1, -1, self.width))
        return only_residues(h, residue_mask(tokens) & (whole[:, None] > 0))

    @staticmethod
    def summary(h: Tensor, tokens: Tensor) -> Tensor:
        """Return c_final [B, D], the context of the last patch, for h [B, T, D]; zero for a sequence shorter than one patch."""
        last = residue_mask(tokens).sum(dim=1)  # with CLS before them, the last residue's place
        return h.gather(1, last[:, None, None].expand(-1, 1, h.shape[2])).squeeze(1)


class PatchEncoder(nn.Module):
    """Embedding, then convolutions without padding, each with a channel norm and a ReLU: one patch becomes one vector."""

    def __init__(self, shape: CPCProtShape) -> None:
        super().__init__()
        # PAD has a vector like any token: the paper's code sees it where it takes padding for a sample.
        self.embedding = nn.Embedding(SIZE, shape.embedding)
        inputs = (shape.embedding, *shape.filters)
        self.convolutions = nn.ModuleList(nn.Conv1d(inputs[i], inputs[i + 1], kernel) for i, kernel in enumerate(shape.kernels))
        self.norms = nn.ModuleList(ChannelNorm(filters) for filters in shape.filters)

    def forward(self, patches: Tensor) -> Tensor:
        """Return z [M, D] for patches [M, patch length] of tokens."""
        x = self.embedding(patches)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = relu(norm(convolve_within(cast(nn.Conv1d, convolution), x)))
        return x.squeeze(1)


class ChannelNorm(nn.Module):
    """Normalises each position over its channels, with the unbiased variance, then scales and shifts each channel.

    A layer norm (x - mean) / sqrt(v + e) whose v divides by C becomes this one, which divides by C - 1, times sqrt((C - 1) / C)
    with e = eps (C - 1) / C.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.share = (channels - 1) / channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., C] for x [..., C]."""
        return layer_norm(x, self.weight.shape, self.weight * self.share**0.5, self.bias, self.eps * self.share)


def convolve_within(convolution: nn.Conv1d, x: Tensor) -> Tensor:
    """Return [M, L - kernel + 1, C'] for x [M, L, C]: the convolution of each of many short sequences, as one matrix product."""
    kernel, channels = convolution.kernel_size[0], x.shape[2]
    windows = x.flatten(1).unfold(1, kernel * channels, channels)  # [M, L - kernel + 1, kernel C]
    # Copied: on a CPU a product of windows that overlap in memory takes three to four times as long as the copy and the product.
    return linear(windows.contiguous(), convolution.weight.transpose(1, 2).flatten(1), convolution.bias)


def cut(tokens: Tensor, patch_length: int, max_length: int | None = None) -> Tensor:
    """Return the patches [B, P, patch length] of tokens [B, T] (CLS first): P, at least 1, fit the longest sequence or ``max_length``.

    What is no residue is PAD. A remainder stands where a longer neighbour has a patch; it is for the caller to leave out.
    """
    residues = tokens[:, 1:].masked_fill(~residue_mask(tokens[:, 1:]), PAD)
    longest = tokens.shape[1] - 2 if max_length is None else min(max_length, tokens.shape[1] - 2)
    length = max(1, longest // patch_length) * patch_length
    if residues.shape[1] < length:
        residues = nn.functional.pad(residues, (0, length - residues.shape[1]), value=PAD)
    return residues[:, :length].unflatten(1, (-1, patch_length))
