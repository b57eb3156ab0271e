"""Heads from the vectors of one protein's residues to its contact map (He et al. 2021, section 4.3).

Both begin with the pair features [h_i * h_j ; h_i - h_j] and, where the encoder was pre-trained on pairs, the first layer of its
pair head with GELU. They return logits of contact less no contact: their sigmoid is the softmax over the two classes.

The features of all pairs would be L^2 2D numbers, 6 GB at L = 1,000 and D = 768. They are never all there: blocks of rows go
through the layers one after another and are computed again in the backward pass. As in :mod:`raypro.core.objectives.pairs`, a
layer W = [Wp Wd] is split, because the product is the same in both orders of a pair and the difference linear:

    W [h_i * h_j ; h_i - h_j] = s_ij + (u_i - u_j),   s_ij = s_ji = Wp (h_i * h_j),   u_i = Wd h_i

so that s is computed once a pair and u once a residue.

Legend: L residues, D width, R x N pairs of a block, H outputs of the pair layer, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, gelu, linear
from torch.utils.checkpoint import checkpoint

PAIRS = {"cpu": 1024, "cuda": 32768}
"""About how many pairs a block of rows has: on a CPU few enough for the cache, on a GPU enough to fill it."""

OfBlock = Callable[..., Tensor]


class LinearContactHead(nn.Module):
    """Dropout and one linear layer on the pair features; the logits are the mean over both orders of a pair.

    Without a pair layer the difference h_i - h_j cancels in that mean: what is predicted depends on h_i * h_j alone. It tells only
    in training, where dropout leaves out other differences in the one order than in the other: as noise of mean zero.

    Training at L = 1,000 and D = 768 takes 0.12 GB, with a pair layer 0.5 GB.
    """

    def __init__(self, width: int, pair_layer: bool, dropout: float = 0.5) -> None:
        """Make a head for vectors of ``width`` D, with a ``pair_layer`` [2D -> D] or without.

        ``dropout`` is the probability of dropping a feature, of each order of a pair for itself, rounded to a 256th.
        """
        super().__init__()
        self.pair_layer = nn.Linear(2 * width, width) if pair_layer else None
        self.dropout = dropout
        self.linear = nn.Linear(width if pair_layer else 2 * width, 2)

    def forward(self, h: Tensor) -> Tensor:
        """Return symmetric logits [L, L] for the vectors h [L, D] of one protein's residues."""
        width = h.shape[1]
        dropped = min(255, round(256 * self.dropout)) if self.training else 0
        weight, bias = _contrast(self.linear)
        if self.pair_layer is None and not dropped:  # no pair's features are needed
            return (h * weight[:, :width]) @ h.t() + bias
        weight = weight * (256 / (256 - dropped))
        if self.pair_layer is None:
            upper = _upper_triangle(partial(_mean_of_features, dropped=dropped), h, h, weight, bias)[0]
        else:
            of_product, of_difference = self.pair_layer.weight.split(width, dim=1)
            layer = (h @ of_difference.t(), of_product, self.pair_layer.bias)
            upper = _upper_triangle(partial(_mean_after_layer, dropped=dropped), h, *layer, weight, bias)[0]
        return upper + upper.triu(1).t()


class ResNetContactHead(nn.Module):
    """Eight undilated residual blocks of 3 x 3 convolutions on the pair features; the logits are the mean over both orders of a pair.

    The features are projected onto the blocks' channels, in both orders of a pair: were they made symmetric here, the difference
    would cancel. Each pair is normalised over its channels, so nothing depends on other proteins. Dropout is before the last layer.
    Blocks are computed again in the backward pass: training at D = 768 takes 1.1 GB for L = 500, 3.9 GB for L = 1,000.
    """

    def __init__(self, width: int, pair_layer: bool, channels: int = 64, blocks: int = 8, dropout: float = 0.5) -> None:
        """Make a head for vectors of ``width`` D, with a ``pair_layer`` [2D -> D] or without."""
        super().__init__()
        self.pair_layer = nn.Linear(2 * width, width) if pair_layer else None
        self.project = nn.Linear(width if pair_layer else 2 * width, channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, 2)

    def forward(self, h: Tensor) -> Tensor:
        """Return symmetric logits [L, L] for the vectors h [L, D] of one protein's residues."""
        x = self.channels(h).permute(1, 2, 0).contiguous()[None]
        for block in self.blocks if len(h) else ():  # a convolution refuses the empty map of a batch's filler
            x = checkpoint(block, x, use_reentrant=False)
        logits = linear(self.dropout(elu(self.norm(x))), *_contrast(self.linear))[0, :, :, 0]
        return (logits + logits.t()) / 2

    def channels(self, h: Tensor) -> Tensor:
        """Return the projected features [C, L, L] of every ordered pair."""
        width = h.shape[1]
        if self.pair_layer is None:
            of_product, of_difference = self.project.weight.split(width, dim=1)
            s = ((of_product[:, None, :] * h).flatten(0, 1) @ h.t()).view(len(of_product), len(h), len(h))
            u = of_difference @ h.t()
            return s + (u[:, :, None] - u[:, None, :]) + self.project.bias[:, None, None]
        of_product, of_difference = self.pair_layer.weight.split(width, dim=1)
        layer = (h @ of_difference.t(), of_product, self.pair_layer.bias)
        forth, back = _upper_triangle(_both_after_layer, h, *layer, self.project.weight, self.project.bias).chunk(2)
        return forth + back.triu(1).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Twice normalisation, ELU and a 3 x 3 convolution, added to what goes in (He et al. 2016, with activations first)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, L, L, C] for x [1, L, L, C]; beyond the map there are zeros."""
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(elu(norm(y)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + y


def _contrast(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the weight [1, D] and bias [1] of the second output of ``layer`` less the first."""
    return layer.weight[1:] - layer.weight[:1], layer.bias[1:] - layer.bias[:1]


def _upper_triangle(of_block: OfBlock, h: Tensor, u: Tensor, *weights: Tensor) -> Tensor:
    """Return [C, L, L] of the pairs i <= j, zero below the diagonal, for h [L, D] and u [L, H].

    ``of_block(h_i, h_j, u_i, u_j, *weights, generator)`` gives [C, R, N] of the pairs of R residues with N.
    """
    seed = int(torch.randint(2**62, ()))  # of what dropout draws: the same in both passes
    triangle: Tensor = _Blocks.apply(of_block, seed, h, u, *weights)  # type: ignore[no-untyped-call]
    return triangle.triu()


class _Blocks(torch.autograd.Function):
    """Blocks of rows one after another, each computed again in the backward pass.

    ``torch.utils.checkpoint`` would do the same, but its graph, small and lasting between large and passing tensors, broke the
    memory into pieces: 2.3 GB with a pair layer at L = 1,000 and D = 768 where this takes 0.5 GB.
    """

    @staticmethod
    def forward(ctx: Any, of_block: OfBlock, seed: int, *inputs: Tensor) -> Tensor:  # noqa: D102
        device = inputs[0].device.type
        ctx.save_for_backward(*inputs)
        ctx.of_block, ctx.seed = of_block, seed
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        length, out = len(inputs[0]), None
        for start, end in _row_blocks(length, inputs[0].device):
            block = of_block(*_of_rows(inputs, start, end), _generator(seed, start, inputs[0].device))
            out = block.new_zeros(len(block), length, length) if out is None else out
            out[:, start:end, start:] = block
        return cast(Tensor, out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        gradients = [torch.zeros_like(x) for x in inputs]
        d_h, d_u, *d_weights = gradients
        for start, end in _row_blocks(len(inputs[0]), inputs[0].device):
            device, dtype, enabled = ctx.autocast
            with torch.enable_grad(), torch.autocast(device, dtype, enabled):
                rows = _of_rows(inputs, start, end)
                block = ctx.of_block(*rows, _generator(ctx.seed, start, inputs[0].device))
            parts = torch.autograd.grad(block, rows, d_out[:, start:end, start:], materialize_grads=True)
            places = (d_h[start:end], d_h[start:], d_u[start:end], d_u[start:], *d_weights)
            for place, part in zip(places, parts, strict=True):
                place += part
        return None, None, *gradients


def _of_rows(inputs: Sequence[Tensor], start: int, end: int) -> tuple[Tensor, ...]:
    """Return h_i, h_j, u_i, u_j and the weights for the pairs i <= j of the rows from ``start`` to ``end``, and a few more."""
    h, u, *weights = inputs
    return h[start:end], h[start:], u[start:end], u[start:], *weights


def _generator(seed: int, start: int, device: torch.device) -> torch.Generator:
    """Return the source of randomness of the block whose first row is ``start``."""
    return torch.Generator(device).manual_seed(seed + start)


def _row_blocks(length: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block and of the next; for L = 0 one empty block, which has a gradient of zeros."""
    end, pairs = 0, PAIRS.get(device.type, PAIRS["cuda"])
    while end < length:
        start, end = end, min(length, end + max(1, pairs // (length - end)))
        yield start, end
    if not length:
        yield 0, 0


def _mean_of_features(
    h_i: Tensor, h_j: Tensor, _u: Tensor, _v: Tensor, weight: Tensor, bias: Tensor, generator: torch.Generator, *, dropped: int
) -> Tensor:
    """Return the mean logits [1, R, N] of both orders of the pairs, for a linear layer on what dropout leaves of the features."""
    of_product, of_difference = weight.split(h_i.shape[1], dim=1)
    product, difference = h_i[:, None] * h_j, h_i[:, None] - h_j  # [R, N, D]
    forth, back, forth_difference, back_difference = (_kept(product, dropped, generator) for _ in range(4))
    logits = linear(product * (forth + back).to(product.dtype), of_product)
    logits = logits + linear(difference * (forth_difference - back_difference).to(product.dtype), of_difference)
    return (logits / 2 + bias).permute(2, 0, 1)


def _mean_after_layer(
    h_i: Tensor,
    h_j: Tensor,
    u_i: Tensor,
    u_j: Tensor,
    of_product: Tensor,
    layer_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    generator: torch.Generator,
    *,
    dropped: int,
) -> Tensor:
    """Return the mean logits [1, R, N] of both orders of the pairs, for a linear layer on what dropout leaves of the pair layer."""
    both = _pair_layer(h_i, h_j, u_i, u_j, of_product, layer_bias)
    forth, back = (x * _kept(x, dropped, generator).to(x.dtype) if dropped else x for x in both)
    return linear((forth + back) / 2, weight, bias).permute(2, 0, 1)


def _both_after_layer(
    h_i: Tensor,
    h_j: Tensor,
    u_i: Tensor,
    u_j: Tensor,
    of_product: Tensor,
    layer_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    _generator: torch.Generator,
) -> Tensor:
    """Return projections of the pair layer: C channels of the pairs (i, j), then C of the pairs (j, i), [2C, R, N]."""
    both = _pair_layer(h_i, h_j, u_i, u_j, of_product, layer_bias)
    return torch.cat([linear(x, weight, bias) for x in both], dim=2).permute(2, 0, 1)


def _pair_layer(h_i: Tensor, h_j: Tensor, u_i: Tensor, u_j: Tensor, of_product: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pair layer with GELU [R, N, H] for the pairs (i, j), and for the pairs (j, i)."""
    s, difference = linear(h_i[:, None] * h_j, of_product, bias), u_i[:, None] - u_j
    return gelu(s + difference), gelu(s - difference)


def _kept(like: Tensor, dropped: int, generator: torch.Generator) -> Tensor:
    """Return int8 of the shape of ``like``: 0 with probability ``dropped`` / 256, else 1.

    One byte a draw, cut from 64-bit random numbers: on a CPU more than ten times as fast as torch's own dropout.
    """
    count = like.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64, device=like.device).random_(-(2**63), None, generator=generator)
    return (words.view(torch.uint8)[:count] >= dropped).view(torch.int8).view(like.shape)
