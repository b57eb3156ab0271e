"""InfoNCE over many steps t and distances k at once: batched products, in chunks over t that keep no logits.

The gradient of each chunk is computed with its loss, inside the forward pass; backward only scales. So memory does not grow with
the number of logits, T K N C.

Legend: N samples of this worker, C candidates (those of all workers, where they are gathered), T steps t, K distances k, D width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from raypro.core.compiling import uncompiled
from raypro.core.distributed import gather_ints, rank, world_size

LOGITS = {"cpu": 2**18, "cuda": 2**25}
"""Most logits of a chunk, unless one t alone has more: on a CPU few enough for the cache."""


@dataclass(frozen=True)
class Terms:
    """Which terms there are. At t, the positive of sample i is candidate ``first + i`` and the terms are its first ``rows[t]`` samples."""

    rows: tuple[int, ...]
    """[T] samples whose terms count; never rising but from 0."""
    candidates: Tensor
    """[W, T] how many of the candidates of each of W workers are there, each having C / W places; on the host."""
    weights: tuple[float, ...]
    """[T] what each term at t counts for."""
    first: int = 0
    """Place of this worker's own first candidate."""

    def sums_of_n(self) -> tuple[float, float]:
        """Return the weighted sums of log N and of 1 / N over the terms of one k, N being the candidates at the term's t."""
        n = self.candidates.sum(dim=0).clamp(min=1).tolist()
        counted = [(rows * weight, many) for rows, weight, many in zip(self.rows, self.weights, n, strict=True)]
        return sum(count * math.log(many) for count, many in counted), sum(count / many for count, many in counted)


@uncompiled
def info_nce(z: Tensor, c: Tensor, terms: Terms, distances: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum of -log softmax over j of z_{t+k}^i . c_t^j at j = i, and two sums without gradient.

    Args:
        z: [T + K, N, D] what is to be told apart.
        c: [T, C, D] candidates.
        terms: which count; N must be ``rows``' largest or more.
        distances: K.

    Returns:
        the loss [], in nats; for each k the loss and the number correct [K], where of equal candidates the first is taken.
    """
    wanted = torch.is_grad_enabled() and (z.requires_grad or c.requires_grad)
    with torch.autocast(z.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(z.dtype, c.dtype), torch.float32)
        loss, losses, correct = _InfoNCE.apply(z.to(dtype), c.to(dtype), terms, distances, wanted)  # type: ignore[no-untyped-call]
    return loss, losses, correct


class _InfoNCE(torch.autograd.Function):
    """The loss and, where wanted, its gradients, computed together; backward scales them."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, c: Tensor, terms: Terms, distances: int, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        samples, places = z.shape[1], c.shape[1]
        weights, absent = _masks(terms, samples, places, z)
        losses, correct = z.new_zeros(distances), z.new_zeros(distances)
        d_z, d_c = (torch.zeros_like(x) if wanted else x.new_zeros(()) for x in (z, c))
        columns = terms.first + torch.arange(samples, device=z.device)
        for steps, n, m in _chunks(terms, places, distances, LOGITS.get(z.device.type, LOGITS["cuda"])):
            s = steps.stop - steps.start
            # The K rows of z after t stand one behind the other: windows of the same memory, none of it copied.
            block = z[steps.start + 1 : steps.stop + distances, :n].contiguous()
            ahead = block.as_strided((s, distances * n, block.shape[2]), (n * block.shape[2], block.shape[2], 1))
            candidates, weight = c[steps, :m], weights[steps, None, :n]
            logits = torch.bmm(ahead, candidates.mT)
            if terms.candidates.shape[0] > 1 or terms.rows[steps.start] != terms.rows[steps.stop - 1]:
                logits.masked_fill_(absent[steps, None, :m], -torch.inf)
            by_distance = logits.view(s, distances, n, m)
            correct += ((by_distance.argmax(dim=3) == columns[:n]) * weight).sum(dim=(0, 2))
            logits -= logits.logsumexp(dim=2, keepdim=True)
            positive = by_distance.diagonal(terms.first, 2, 3)
            losses -= (positive.masked_fill(weight == 0, 0.0) * weight).sum(dim=(0, 2))
            if wanted:
                logits.exp_()
                positive -= 1
                by_distance *= weight[..., None]
                d_c[steps, :m] += torch.bmm(logits.mT, ahead)
                d_ahead = torch.bmm(logits, candidates).view(s, distances, n, -1)
                for k in range(distances):
                    d_z[steps.start + 1 + k : steps.stop + 1 + k, :n] += d_ahead[:, k]
        ctx.save_for_backward(d_z, d_c)
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *(gradient * found for found in ctx.saved_tensors), None, None, None


def _masks(terms: Terms, samples: int, places: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each sample counts for [T, N], and [T, C] which candidates are not there."""
    weights = torch.tensor(terms.weights, dtype=torch.float64)[:, None] * (torch.arange(samples) < torch.tensor(terms.rows)[:, None])
    there = terms.candidates[:, :, None] > torch.arange(places // len(terms.candidates))  # [W, T, C / W]
    absent = ~there.transpose(0, 1).flatten(1)
    return weights.to(like.device, like.dtype, non_blocking=True), absent.to(like.device, non_blocking=True)


def _chunks(terms: Terms, places: int, distances: int, most: int) -> Iterator[tuple[slice, int, int]]:
    """Yield steps t with terms, one chunk after another, how many samples they have at most, and how many candidates' places."""
    t = next((t for t, rows in enumerate(terms.rows) if rows), len(terms.rows))
    while t < len(terms.rows) and terms.rows[t]:
        n = terms.rows[t]
        m = n if len(terms.candidates) == 1 else places
        end = min(t + max(1, most // (distances * n * m)), len(terms.rows))
        end = next((stop for stop in range(t, end) if terms.rows[stop] == 0), end)
        yield slice(t, end), n, m
        t = end


def gather_candidates(c: Tensor, counts: Sequence[int], limit: int) -> tuple[Tensor, Tensor, int]:
    """Return the candidates [T, W N, D] of all W workers, how many of each are there [W, T], and the place of this worker's first.

    Gradients flow back to the worker that a candidate came from, summed over the workers' losses. Every worker must call it, in the
    same order; each waits for the others' numbers.

    Args:
        c: [T', N', D] this worker's candidates.
        counts: [T'] how many there are at each step.
        limit: steps, at most, on any worker.
    """
    numbers = torch.tensor(gather_ints([*counts, *[0] * (limit - len(counts)), *c.shape[:2]], c.device))
    steps, places = numbers[:, limit:].amax(dim=0).tolist()
    padded = torch.nn.functional.pad(c, (0, 0, 0, places - c.shape[1], 0, steps - c.shape[0]))
    return _Gather.apply(padded), numbers[:, :steps], rank() * places  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """[T, N, D] of each worker to [T, W N, D] on all, in the workers' order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        every = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(every, x.contiguous())
        return torch.cat(every, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size(), dim=1)[rank()]
