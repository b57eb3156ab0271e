"""The pair head of the pairwise masked language model (He et al. 2021), exact and fast.

    P(x_i, x_j | context) = softmax(W2 gelu(W1 [h_i * h_j ; h_i - h_j] + b1) + b2)      400 classes, label 20 x_i + x_j

The loss sums the cross entropy of all ordered pairs i != j of one sequence's masked residues. Written plainly it keeps every
pair's activations. Here W1 = [Wp Wd] is split, because the difference term is linear and the product term symmetric:

    a_ij = s_ij + (u_i - u_j),   a_ji = s_ij - (u_i - u_j),   s_ij = Wp (h_i * h_j) + b1,   u_i = Wd h_i

so that u costs one product a residue and s one an unordered pair. The unordered pairs of all sequences, one after another, go
through in chunks whose gradient is computed at once, inside the forward pass, in scratch memory used again for each chunk;
backward only scales. So memory grows neither with the pairs nor with the batch, and short sequences share a chunk.

Legend: B sequences, N masked residues of all, m those of one sequence, D width, H hidden, U unordered pairs of a chunk.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raypro.core.compiling import uncompiled
from raypro.core.random import uniform

CLASSES = 20
PAIRS = CLASSES * CLASSES

CHUNK = {"cpu": 1024, "cuda": 16384}
"""Most unordered pairs of a chunk: on a CPU few enough for the cache, on a GPU enough to fill it (0.5 GB at D = H = 768)."""

_FIRST, _SECOND = 3, 4  # streams of randomness per sequence, beside those of masking


def pair_count(counts: Sequence[int], diagonal: bool = False) -> int:
    """Return the number of ordered pairs that :meth:`PairHead.loss` sums over, for sequences with ``counts`` masked residues."""
    return sum(m * m if diagonal else m * (m - 1) for m in counts)


class PairHead(nn.Module):
    """Two layers from [h_i * h_j ; h_i - h_j] onto the 400 ordered pairs of residue classes."""

    def __init__(self, width: int, hidden: int) -> None:
        """Make a head for encoder outputs of ``width`` D with ``hidden`` H units."""
        super().__init__()
        self.first = nn.Linear(2 * width, hidden)
        self.activation = nn.GELU()
        self.second = nn.Linear(hidden, PAIRS)

    def logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return the logits [N, 400] of N pairs of residues with encoder outputs ``h_i`` and ``h_j`` [N, D]."""
        features = torch.cat([h_i * h_j, h_i - h_j], dim=-1)
        logits: Tensor = self.second(self.activation(self.first(features)))
        return logits

    @uncompiled
    def loss(
        self,
        h: Tensor,
        labels: Tensor,
        counts: Sequence[int],
        *,
        diagonal: bool = False,
        max_pairs: int | None = None,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed cross entropy (nats) of :func:`pair_count` ordered pairs and how many were predicted correctly.

        No device is ever waited for. The number correct has no gradient; there is no gradient of the gradient.

        Args:
            h: [N, D] encoder outputs of the masked residues, those of one sequence together.
            labels: [N] class of each, 0..19 (int64).
            counts: masked residues of each sequence; they sum to N. A sequence with fewer than two has no pairs i != j.
            diagonal: sum over the pairs (i, i) as well (the paper's pair-only mode).
            max_pairs: at most so many ordered pairs of a sequence, two or more. Where it has more, max_pairs // 2 times a
                pair is drawn and taken in both orders. Each ordered pair is equally likely, and those drawn stand for all:
                both sums are unbiased estimates of what they are without a cap.
            keys: [B] int64, on the host, with ``max_pairs``: what is drawn for a sequence depends on its key alone.
        """
        if h.shape[0] != sum(counts) or labels.shape != h.shape[:1]:
            raise ValueError(f"h {tuple(h.shape)} and labels {tuple(labels.shape)} need sum(counts) = {sum(counts)} rows")
        if max_pairs is not None and (max_pairs < 2 or keys is None or keys.shape != (len(counts),)):
            raise ValueError("max_pairs needs to be 2 or more, with one key a sequence")
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        device = h.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (h, *weights))
        plan = _Plan.of(counts, diagonal, max_pairs, keys, h.device)
        with torch.autocast(device, enabled=False):
            loss, correct = _PairLoss.apply(h, *weights, labels, plan, dtype, wanted)  # type: ignore[no-untyped-call]
        return loss, correct


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The unordered pairs of a batch, numbered one sequence after another.

    Pair number m k + i of a sequence is that of its places i and i + k + ``offset`` mod m; the residue at place i is row
    start + i of h or, where pairs are drawn, the residue there in a random order: then the first numbers are random pairs.
    """

    total: int
    """Unordered pairs of all sequences."""
    table: Tensor
    """[4, B] first row of h, masked residues, first pair, and whether all pairs are taken (1) or some are drawn (0)."""
    ends: Tensor
    """[B] the number after each sequence's last pair."""
    stands_for: Tensor | None
    """[B] pairs that one of the sequence's stands for, float64; None: 1."""
    offset: int
    """0 where the diagonal is summed, else 1."""
    orders: Tensor | None
    """[2, B, largest m] the residue at each place, for the pairs' first and second residues; None where none are drawn."""

    @classmethod
    def of(cls, counts: Sequence[int], diagonal: bool, max_pairs: int | None, keys: Tensor | None, device: torch.device) -> "_Plan":
        """Lay out the pairs of sequences with ``counts`` masked residues; other arguments as for :meth:`PairHead.loss`."""
        m = np.asarray(counts, dtype=np.int64)
        all_pairs = m * m if diagonal else m * (m - 1)
        whole = all_pairs <= max_pairs if max_pairs is not None else np.ones(len(m), dtype=bool)
        sizes = np.where(whole, (m * (m + 1) if diagonal else all_pairs) // 2, (max_pairs or 0) // 2)
        ends, starts = np.cumsum(sizes), np.cumsum(m) - m
        orders = stands_for = None
        if keys is not None and not whole.all():
            place = np.arange(m.max())
            scores = [np.where(place < m[:, None], uniform(keys.numpy(), len(place), stream), 2.0) for stream in (_FIRST, _SECOND)]
            first, second = (np.argsort(score, axis=1, kind="stable") for score in scores)
            # Drawn with the diagonal, a pair's two residues are independent of each other.
            second = np.where(whole[:, None], first, second) if diagonal else first
            orders = _to_device(np.stack([first, second]), device)
            stands_for = _to_device(np.where(whole, 1.0, all_pairs / (max_pairs // 2 * 2)), device)  # type: ignore[operator]
        table = _to_device(np.stack([starts, m, ends - sizes, whole, ends]), device)
        return cls(int(sizes.sum()), table[:4], table[4], stands_for, 0 if diagonal else 1, orders)

    def pairs(self, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Return the rows [2, U] of h of the pairs numbered ``begin`` to ``end``, and their weights [U] in float64 (None: 1)."""
        number = torch.arange(begin, end, device=self.ends.device)
        sequence = torch.searchsorted(self.ends, number, right=True)
        start, m, first_number, whole = self.table[:, sequence]
        number -= first_number
        k = number.div(m, rounding_mode="floor")
        i = number - k * m
        places = torch.stack([i, (i + k + self.offset) % m])
        if self.orders is not None:
            places = torch.stack([order[sequence, place] for order, place in zip(self.orders, places, strict=True)])
        weights = None if self.stands_for is None else self.stands_for[sequence]
        if self.offset == 0:
            # A whole diagonal is numbered first; (i, i) is its own mirror image and stands here as two halves.
            halves = 1 - 0.5 * ((k == 0) & (whole == 1)).double()
            weights = halves if weights is None else weights * halves
        return places + start, weights


def _to_device(values: Any, device: torch.device) -> Tensor:
    """Return an array on ``device`` without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _PairLoss(torch.autograd.Function):
    """The loss and, where wanted, its gradients, computed together; backward scales them."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        h: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        labels: Tensor,
        plan: _Plan,
        dtype: torch.dtype,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        run = _Run((h, w1, b1, w2, b2), dtype, wanted)
        parts = math.ceil(plan.total / CHUNK.get(h.device.type, CHUNK["cuda"]))
        for part in range(parts):
            rows, weights = plan.pairs(plan.total * part // parts, plan.total * (part + 1) // parts)
            run.add(rows, labels[rows], weights)
        if wanted:
            ctx.save_for_backward(*run.gradients())
        ctx.mark_non_differentiable(run.correct)
        return run.loss, run.correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        return *(gradient * scale.to(gradient.dtype) for gradient in ctx.saved_tensors), None, None, None, None


class _Run:
    """One evaluation of the loss: parameters in the dtype of the matrix products, sums so far in float32 or better."""

    def __init__(self, inputs: tuple[Tensor, ...], dtype: torch.dtype, wanted: bool) -> None:
        self.inputs, self.dtype, self.wanted = inputs, dtype, wanted
        h, self.w1, self.b1, self.w2, self.b2 = (x.detach().to(dtype) for x in inputs)
        self.width, self.hidden = h.shape[1], self.w1.shape[0]
        width = self.width
        self.w_product, self.w_difference = self.w1[:, :width], self.w1[:, width:]
        self.h, self.u = h, h @ self.w_difference.t()
        self.sum_dtype = torch.promote_types(dtype, torch.float32)
        self.loss, self.correct = (torch.zeros((), dtype=self.sum_dtype, device=h.device) for _ in range(2))
        self.buffers: dict[str, Tensor] = {}
        if wanted:
            self.d_h, self.d_u, self.d_w1, self.d_b1, self.d_w2, self.d_b2 = (
                torch.zeros(x.shape, dtype=self.sum_dtype, device=h.device) for x in (self.h, self.u, *inputs[1:])
            )

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Return scratch memory of ``shape``, the same for every chunk."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.h.device)
        return self.buffers[name][:size].view(shape)

    def gathered(self, source: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows [2, U] of ``source`` for the pairs' first and second residues, in scratch memory."""
        found = self.buffer("gathered", rows.numel(), source.shape[1])
        first, second = torch.index_select(source, 0, rows.flatten(), out=found).view(2, rows.shape[1], -1)
        return first, second

    def add(self, rows: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """Add the pairs of residues ``rows`` [2, U] with classes ``labels`` [2, U], in both orders, times ``weights`` [U]."""
        units, width, hidden = rows.shape[1], self.width, self.hidden
        product = torch.mul(*self.gathered(self.h, rows), out=self.buffer("product", units, width))
        symmetric = torch.addmm(self.b1, product, self.w_product.t(), out=self.buffer("symmetric", units, hidden))
        before = self.buffer("before", 2, units, hidden)  # a_ij, then a_ji
        u_i, u_j = self.gathered(self.u, rows)
        u_i -= u_j
        torch.add(symmetric, u_i, out=before[0])
        torch.sub(symmetric, u_i, out=before[1])
        before = before.view(2 * units, hidden)
        after = torch.ops.aten.gelu.out(before, out=self.buffer("after", 2 * units, hidden))
        logits = torch.addmm(self.b2, after, self.w2.t(), out=self.buffer("logits", 2 * units, PAIRS))
        both = CLASSES * labels + labels.flip(0)  # [2, U]
        d_logits = self.cross_entropy(logits, both.flatten(), None if weights is None else weights.repeat(2))
        if not self.wanted:
            return
        _accumulate(self.d_w2, d_logits.t(), after)
        self.d_b2 += d_logits.sum(0, dtype=self.sum_dtype)
        torch.mm(d_logits, self.w2, out=after)
        d_ij, d_ji = torch.ops.aten.gelu_backward.grad_input(after, before, grad_input=after).view(2, units, hidden)
        torch.add(d_ij, d_ji, out=symmetric)
        d_ij -= d_ji
        self.d_u.index_add_(0, rows[0], d_ij.to(self.sum_dtype)).index_add_(0, rows[1], d_ij.to(self.sum_dtype), alpha=-1)
        _accumulate(self.d_w1[:, :width], symmetric.t(), product)
        self.d_b1 += symmetric.sum(0, dtype=self.sum_dtype)
        torch.mm(symmetric, self.w_product, out=product)
        for row, other in zip(rows, reversed(self.gathered(self.h, rows)), strict=True):
            other *= product
            self.d_h.index_add_(0, row, other.to(self.sum_dtype))

    def cross_entropy(self, logits: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
        """Add the cross entropy of ``logits`` [2 U, 400], times ``weights`` [2 U], and return its gradient, which overwrites them."""
        label = label[:, None]
        greatest, best = logits.max(dim=1, keepdim=True)
        behind = (greatest - logits.gather(1, label)).to(self.sum_dtype)
        if logits.dtype == self.sum_dtype:
            p = torch.softmax(logits, dim=1, out=logits)
        else:
            p = torch.softmax(logits, dim=1, dtype=self.sum_dtype)
        loss, hit = behind - p.gather(1, best).log(), (best == label).to(self.sum_dtype)  # log sum exp z = max z - log max p
        if weights is not None:
            weights = weights[:, None].to(self.sum_dtype)
            loss, hit = loss * weights, hit * weights
        self.loss += loss.sum()
        self.correct += hit.sum()
        if self.wanted:
            p.scatter_add_(1, label, p.new_full((1, 1), -1.0).expand(label.shape))
            if weights is not None:
                p *= weights
        return p.to(logits.dtype)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of h, W1, b1, W2 and b2, each in its own dtype."""
        d_u = self.d_u.to(self.dtype)
        d_h = self.d_h + d_u @ self.w_difference
        self.d_w1[:, self.width :] = d_u.t() @ self.h
        found = (d_h, self.d_w1, self.d_b1, self.d_w2, self.d_b2)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(found, self.inputs, strict=True))


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product a b to ``total``, which may be of a higher precision."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
