"""Relaxed subsets on a GPU: one Triton kernel for each direction (:mod:`raypro.core.subset` has the formulas and the plain form).

A program has one row, all of it in registers, and goes through its rounds there. The backward kernel keeps the logits of every
``SEGMENT``-th round, then goes back segment by segment: it computes a segment's p again, keeps them, and goes through them backward.
Nothing is kept between the two kernels but the logits of the first round.

Legend: B rows, T positions, W positions of a program (T rounded up to a power of 2), k rounds of a row, S rounds of a segment.
"""

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

SEGMENT = 8
"""Rounds whose p are in memory at once; about the root of the number of rounds is least."""


def forward(y: Tensor, counts: Tensor, temperature: float, eps: float) -> Tensor:
    """Return the sums of p [B, T] for the logits y [B, T] of the first round; at positions that are not valid they are very low."""
    y = y.contiguous()  # the kernels go from row to row by the width
    result = torch.empty_like(y)
    width = triton.next_power_of_2(y.shape[1])
    on_device = counts.to(y.device, non_blocking=True)
    _forward[(len(y),)](y, on_device, result, y.shape[1], 1 / temperature, eps, W=width, num_warps=_warps(width))
    return result


def backward(y: Tensor, counts: Tensor, d_result: Tensor, temperature: float, eps: float, limit: float) -> Tensor:
    """Return the gradient [B, T] with respect to y, within +- ``limit``, given that with respect to the result."""
    y = y.contiguous()
    d_y = torch.empty_like(y)
    b, t = y.shape
    width = triton.next_power_of_2(t)
    segments = -(-int(counts.max()) // SEGMENT)
    starts = y.new_empty(b, max(1, segments), t)
    p = y.new_empty(b, SEGMENT, t)
    on_device, d_result = counts.to(y.device, non_blocking=True), d_result.contiguous()
    arguments = (y, on_device, d_result, d_y, starts, p, t, starts.shape[1], 1 / temperature, eps, limit)
    _backward[(b,)](*arguments, W=width, S=SEGMENT, num_warps=_warps(width))
    return d_y


def _warps(width: int) -> int:
    """Return a number of warps with which each thread has a few positions."""
    return min(max(width // 256, 1), 16)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _softmax(y):  # type: ignore[no-untyped-def]
    """Return p, where it is above 1/2 (one position at most), and the sum of the others."""
    e = tl.exp(y - tl.max(y, axis=0))
    p = e / tl.sum(e, axis=0)
    top = p > 0.5
    return p, top, tl.sum(tl.where(top, 0.0, p), axis=0)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _log_rest(p, top, rest, eps):  # type: ignore[no-untyped-def]
    """Return log(max(1 - p, eps))."""
    return tl.log(tl.where(top, tl.maximum(rest, eps), 1.0 - p))


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _forward(y_ptr, counts_ptr, result_ptr, width, scale, eps, W: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, W)
    inside = place < width
    y = tl.load(y_ptr + row * width + place, mask=inside, other=float("-inf"))
    total = tl.zeros_like(y)
    for _ in range(tl.load(counts_ptr + row)):
        p, top, rest = _softmax(y)
        total += p
        y += _log_rest(p, top, rest, eps) * scale
    tl.store(result_ptr + row * width + place, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _round_back(p, d_result, d, scale, eps, limit):  # type: ignore[no-untyped-def]
    """Return the gradient of a round's logits from d, that of the next ones; formulas as in the plain form."""
    top = p > 0.5
    rest = tl.sum(tl.where(top, 0.0, p), axis=0)
    p_top = tl.sum(tl.where(top, p, 0.0), axis=0)
    d_top = tl.sum(tl.where(top, d, 0.0), axis=0)
    d_result_top = tl.sum(tl.where(top, d_result, 0.0), axis=0)
    a = d_result_top * rest - tl.where(rest > eps, d_top * scale, 0.0)
    p_v = tl.where(top, 0.0, p * (d_result - d * scale / tl.where(top, 1.0, 1.0 - p)))
    r = tl.sum(p_v, axis=0)
    d += tl.where(top, p_top * (a - r), p_v - p / tl.maximum(rest, eps) * (rest * r + p_top * a))
    return tl.minimum(tl.maximum(d, -limit), limit)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _backward(  # type: ignore[no-untyped-def]
    y_ptr, counts_ptr, d_result_ptr, d_y_ptr, starts_ptr, p_ptr, width, segments, scale, eps, limit, W: tl.constexpr, S: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, W)
    inside = place < width
    count = tl.load(counts_ptr + row)
    starts_ptr += row * segments * width + place
    p_ptr += row * S * width + place
    y = tl.load(y_ptr + row * width + place, mask=inside, other=float("-inf"))
    for j in range(count):
        if j % S == 0:
            tl.store(starts_ptr + j // S * width, y, mask=inside)
        p, top, rest = _softmax(y)
        y += _log_rest(p, top, rest, eps) * scale

    tl.debug_barrier()  # what one thread has stored another may load
    d_result = tl.load(d_result_ptr + row * width + place, mask=inside, other=0.0)
    d = tl.zeros_like(y)
    used = (count + S - 1) // S
    for back in range(used):
        segment = used - 1 - back
        rounds = tl.minimum(count - segment * S, S)
        y = tl.load(starts_ptr + segment * width, mask=inside, other=float("-inf"))
        for j in range(rounds):
            p, top, rest = _softmax(y)
            tl.store(p_ptr + j * width, p, mask=inside)
            y += _log_rest(p, top, rest, eps) * scale
        tl.debug_barrier()
        for j in range(rounds):
            p = tl.load(p_ptr + (rounds - 1 - j) * width, mask=inside, other=0.0)
            d = _round_back(p, d_result, d, scale, eps, limit)
        tl.debug_barrier()
    tl.store(d_y_ptr + row * width + place, d, mask=inside)
