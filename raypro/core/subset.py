"""Relaxed subsets and straight-through choices (McDermott et al. 2020, Algorithms 1 and 3). Nothing here draws random numbers.

Algorithm 1, after Xie and Ermon 2019: a relaxed choice of k of the valid positions of a row, by scores s and Gumbel noise.

    g_1 = s + noise        p_j = softmax(g_j / t)        g_(j+1) = g_j + log(max(1 - p_j, eps))        result = p_1 + ... + p_k

Where p nears 1, 1 - p is all that is left of it: in float32 soon 0, before that mostly rounding. At most one position of a row has
p > 1/2. There 1 - p is taken as the sum of the row's other p, whose digits are right however small it is. What autograd would divide
and cancel is written so that neither happens (:func:`_round_back`).

Legend: B rows (sequences), T positions, n rows that have a round j, k rounds of a row, O options; y = g / t the logits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from raypro.core.compiling import uncompiled

EPS = 1e-18
"""The floor of 1 - p, as published."""

ROWS = {"cpu": 64, "cuda": 4096}
"""Rows of the plain form that go through at once: on a CPU as many as its caches hold a few rounds of."""

Numbers = TypeVar("Numbers", Tensor, NDArray[np.float64])


@uncompiled
def relaxed_subset(scores: Tensor, noise: Tensor, valid: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return how much of each position is chosen [B, T]: the sum of a row's ``counts`` rounds of Algorithm 1.

    Each row stops at its own count and sums to it. A position that is not valid has 0, as have all of a row with a count of 0 or without
    a valid position; what ``scores`` holds there does not matter. As t falls the result tends to the ``counts`` highest of
    scores + noise. As published, a position may be chosen in more than one round: its sum is beyond 1 where
    log(1 - p) takes it less far down than the scores are apart. With equal scores, 26 of 256 positions (8,000 rows), the highest sum of a
    row is 2.6 on average at t = 0.5 and 1.4 at 0.01; the highest of all was 5.1 and 2.8.

    At t = 0.05 and below the formula is chaotic: its true gradient grows with every round, to 1e13 for 51 rounds at t = 0.01, and
    float32 has few right digits of it. It is cut off at :func:`gradient_limit`, so that it stays finite.

    The result has the scores' precision, float32 at the least, autocast or not. There is no gradient of the gradient. On a GPU with
    Triton each direction is one kernel. Neither direction keeps the p: the backward pass computes them again, a few rounds at a time,
    the plain form from logits that the forward pass kept every sqrt(k) rounds.

    Args:
        scores: [B, T] s.
        noise: [B, T] Gumbel noise, see :func:`gumbel`; zeros for the most likely subset.
        valid: [B, T] bool, the positions to choose from.
        counts: [B] int64, k of each row, at most its valid positions. Best on the host: on a device it is waited for.
        temperature: t, above 0, in the unit of the scores.
    """
    exact = torch.promote_types(scores.dtype, torch.float32)
    logits = (scores.to(exact) + noise.to(exact)) / temperature
    relaxed: Tensor = _RelaxedSubset.apply(logits, valid, counts, float(temperature))  # type: ignore[no-untyped-call]
    return relaxed


def hard_subset(relaxed: Tensor, counts: Tensor, valid: Tensor) -> Tensor:
    """Return [B, T] bool: the ``counts`` [B] highest of ``relaxed`` [B, T] among the ``valid`` [B, T] positions of each row.

    Exactly so many (all valid ones where they are fewer); of equals the first.
    """
    order = relaxed.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(relaxed.shape[1], device=relaxed.device)
    chosen = (ranks < counts.to(relaxed.device)[:, None]).expand_as(valid)
    return torch.zeros_like(valid).scatter_(1, order, chosen) & valid


def threshold_subset(relaxed: Tensor, valid: Tensor) -> Tensor:
    """Return [B, T] bool: the ``valid`` [B, T] positions with ``relaxed`` [B, T] > 0.5, as in Algorithm 3.

    Not ``counts`` of them. With equal scores, 26 of 256 positions (256 rows), the threshold takes this share of the budget:

        t                                  2      1      0.5    0.2    0.1    0.05   0.01   0.001
        mean over rows                     0.11   0.38   0.55   0.68   0.76   0.85   0.97   1.00
        least and most of a row       0, 0.31   0.15, 0.62   0.31, 0.73   0.46, 0.96   0.5, 1   0.62, 1.08   0.81, 1.15   0.92, 1
        rows that are exact                0      0      0      0      0.01   0.03   0.19   0.91
    """
    return (relaxed > 0.5) & valid


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return ``hard`` in the precision of ``soft`` (of the same shape, finite), with the gradient of ``soft`` (Algorithm 3)."""
    return hard.to(soft.dtype) + (soft - soft.detach())


def gumbel_softmax(scores: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return softmax((scores + noise) / t) [..., O]: a relaxed choice of one option (Jang et al. 2017), in float32 at the least."""
    exact = torch.promote_types(scores.dtype, torch.float32)
    return ((scores.to(exact) + noise.to(exact)) / temperature).softmax(dim=-1)


def gumbel(uniform: Numbers) -> Numbers:
    """Return Gumbel noise -log(-log(u)) from uniform numbers u in [0, 1), in their precision, float32 at the least; always finite."""
    if isinstance(uniform, Tensor):
        u = uniform.to(torch.promote_types(uniform.dtype, torch.float32))
        limits = torch.finfo(u.dtype)
        return -(-u.clamp(limits.tiny, 1 - limits.eps / 2).log()).log()
    double = np.finfo(np.float64)
    return -np.log(-np.log(np.clip(uniform.astype(np.float64), double.tiny, 1 - double.epsneg)))


def gradient_limit(dtype: torch.dtype) -> float:
    """Return the most that an element of the gradient with respect to the logits can be: 2e15 in float32, so that a norm is finite."""
    return 1e-4 * math.sqrt(torch.finfo(dtype).max)


def _kernels(y: Tensor) -> ModuleType | None:
    """Return the module of kernels for y; None where the plain form is to be taken."""
    return _triton() if y.is_cuda and y.dtype == torch.float32 else None


@cache
def _triton() -> ModuleType | None:
    return import_module("raypro.core.subset_triton") if find_spec("triton") else None


class _RelaxedSubset(torch.autograd.Function):
    """Logits (s + noise) / t to the sum of the rounds."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, valid: Tensor, counts: Tensor, temperature: float) -> Tensor:
        # A finite floor: of a row without a valid position the softmax is a number, which the last line takes away.
        y = logits.masked_fill(~valid, torch.finfo(logits.dtype).min / 4)
        ctx.temperature = temperature
        kernels = _kernels(y)
        if kernels:
            ctx.save_for_backward(y, valid, counts)
            result = kernels.forward(y, counts, temperature, EPS)
        else:
            result, ctx.kept = _forward(y, counts, temperature)
            ctx.save_for_backward(valid, counts)
        return result.masked_fill_(~valid, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_result: Tensor) -> tuple[Tensor | None, ...]:
        *y, valid, counts = ctx.saved_tensors
        d_result = d_result.masked_fill(~valid, 0.0)
        kernels = _kernels(*y) if y else None
        if kernels:
            return kernels.backward(*y, counts, d_result, ctx.temperature, EPS, gradient_limit(d_result.dtype)), None, None, None
        return _backward(ctx.kept, counts, d_result, ctx.temperature), None, None, None


@dataclass(frozen=True)
class _Round:
    """One round of n rows. The position that is apart is the one with p > 1/2, the first where there is none."""

    others: Tensor
    """[n, T] p, but 0 at the position apart."""
    apart: Tensor
    """[n, 1] int64 the position apart."""
    p: Tensor
    """[n, 1] p there."""
    rest: Tensor
    """[n, 1] 1 - p there: the sum of the others."""


def _forward(y: Tensor, counts: Tensor, temperature: float) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the sum of the rounds [B, T] and, for each block, the logits [n, T] before each of its segments."""
    result, kept = torch.zeros_like(y), []
    for rows, segments in _blocks(counts, y.device):
        logits, starts = y[rows], []
        total = torch.zeros_like(logits)
        for sizes in segments:
            starts.append(logits[: sizes[0]].clone())
            for round_ in _rounds(logits, sizes, temperature):
                total[: len(round_.p)].add_(round_.others).scatter_add_(1, round_.apart, round_.p)
        result[rows] = total
        kept.append(starts)
    return result, kept


def _backward(kept: list[list[Tensor]], counts: Tensor, d_result: Tensor, temperature: float) -> Tensor:
    d_y = torch.zeros_like(d_result)
    for (rows, segments), starts in zip(_blocks(counts, d_result.device), kept, strict=True):
        d_total = d_result[rows]
        d = torch.zeros_like(d_total)
        for sizes, start in zip(reversed(segments), reversed(starts), strict=True):
            for round_ in reversed(list(_rounds(start.clone(), sizes, temperature))):
                n = len(round_.p)
                _round_back(round_, d_total[:n], d[:n], temperature)
        d_y[rows] = d
    return d_y


def _blocks(counts: Tensor, device: torch.device) -> Iterator[tuple[Tensor, list[list[int]]]]:
    """Yield rows that go together, those with most rounds first, and how many of them have each round, in segments of sqrt(k) rounds."""
    host = counts.cpu()
    for rows in host.argsort(descending=True, stable=True).split(ROWS.get(device.type, ROWS["cuda"])):
        k = host[rows]
        sizes = (k > torch.arange(int(k[0]))[:, None]).sum(dim=1).tolist()
        length = max(1, math.isqrt(len(sizes)))
        yield rows.to(device), [sizes[i : i + length] for i in range(0, len(sizes), length)]


def _rounds(y: Tensor, sizes: list[int], temperature: float) -> Iterator[_Round]:
    """Yield the rounds of the rows of y [n, T]; ``y`` is used up."""
    places = torch.arange(y.shape[1], device=y.device, dtype=y.dtype)
    for n in sizes:
        others = y[:n].softmax(dim=1)
        apart = _over_half(others, places)
        p = others.gather(1, apart)
        rest = others.scatter_(1, apart, 0.0).sum(dim=1, keepdim=True)
        yield _Round(others, apart, p, rest)
        y[:n].add_((1 - others).log_(), alpha=1 / temperature)
        y[:n].scatter_add_(1, apart, rest.clamp(min=EPS).log_().div_(temperature))


def _over_half(p: Tensor, places: Tensor) -> Tensor:
    """Return the position [n, 1] with p > 1/2 of each row, 0 where there is none: on a CPU in a third of the time of an argmax."""
    over = (p - 0.5).relu_()
    weight = over.sum(dim=1, keepdim=True).clamp_(min=torch.finfo(p.dtype).tiny)
    return (torch.linalg.vecdot(over, places).unsqueeze(1) / weight).round_().long()


def _round_back(round_: _Round, d_total: Tensor, d: Tensor, temperature: float) -> None:
    """Turn ``d`` [n, T], the gradient of a round's next logits, into that of its own, in place; ``d_total`` [n, T] is that of the result.

    With v the gradient of p, from y' = y + log(max(1 - p, eps)) / t and p = softmax(y):

        v_i = d_total_i - d_i m_i / (t (1 - p_i))        d_i += p_i (v_i - sum_k p_k v_k)        m_i = 1 where 1 - p_i > eps, else 0

    At the position a that is apart, v_a may be as large as 1 / eps and all but cancel. With q = 1 - p_a, A = v_a q and R the sum of
    p_k v_k over the others, none of which is large,

        d_a += p_a (A - R)        d_k += p_k v_k - (p_k / q) (q R + p_a A)

    where p_k / q is at most 1.
    """
    others, apart, p, q = round_.others, round_.apart, round_.p, round_.rest
    a = d_total.gather(1, apart) * q - d.gather(1, apart) * (q > EPS) / temperature
    p_v = torch.addcdiv(d_total, d, 1 - others, value=-1 / temperature).mul_(others)
    r = p_v.sum(dim=1, keepdim=True)
    shares = others / q.clamp(min=EPS)
    d.add_(p_v).addcmul_(shares, q * r + p * a, value=-1).scatter_add_(1, apart, p * (a - r))
    limit = gradient_limit(d.dtype)
    d.clamp_(-limit, limit)
