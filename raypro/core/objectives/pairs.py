"""The pair head of the pairwise masked language model (He et al. 2021), exact and fast.

    P(x_i, x_j | context) = softmax(W2 gelu(W1 [h_i * h_j ; h_i - h_j] + b1) + b2)      400 classes, label 20 x_i + x_j

The loss sums the cross entropy of all ordered pairs i != j of one sequence's masked residues. Written plainly it keeps every
pair's activations. Here W1 = [Wp Wd] is split, because the difference term is linear and the product term symmetric:

    a_ij = s_ij + (u_i - u_j),   a_ji = s_ij - (u_i - u_j),   s_ij = Wp (h_i * h_j) + b1,   u_i = Wd h_i

so that u costs one product a residue and s one an unordered pair. Unordered pairs are taken as (i, i + d mod m): for a fixed
offset d they are a window of the residues repeated cyclically, a view where others gather. Pairs go through in chunks whose
gradient is computed at once, inside the forward pass; backward only scales, so memory grows neither with m^2 nor with the batch.

Legend: B sequences, N masked residues of all, m those of one sequence, D width, H hidden; in a group of sequences handled
together: S sequences, M the longest m, R residues repeated cyclically, n offsets of a chunk, U = S n M unordered pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 20
PAIRS = CLASSES * CLASSES

CHUNK = {"cpu": 2048}
"""Unordered pairs of a chunk: on a CPU few enough for the cache, ..."""
CHUNK_ELSEWHERE = 16384
"""... on an accelerator enough to fill it (some 400 MB of scratch memory at D = H = 768)."""

FREE_FLOPS = {"cpu": 2e7}
"""Work that takes no longer than a chunk's fixed costs: padding up to this much is cheaper than another chunk."""
FREE_FLOPS_ELSEWHERE = 5e9


def pair_count(counts: Sequence[int], diagonal: bool = False, max_pairs: int | None = None) -> int:
    """Return the number of ordered pairs that :meth:`PairHead.loss` sums over, for sequences with ``counts`` masked residues."""
    return sum(_sequence_pairs(m, diagonal, max_pairs) for m in counts)


class PairHead(nn.Module):
    """Two layers from [h_i * h_j ; h_i - h_j] onto the 400 ordered pairs of residue classes."""

    def __init__(self, width: int, hidden: int) -> None:
        """Make a head for encoder outputs of ``width`` D with ``hidden`` H units."""
        super().__init__()
        self.first = nn.Linear(2 * width, hidden)
        self.activation = nn.GELU()
        self.second = nn.Linear(hidden, PAIRS)

    def logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return the logits [..., 400] of pairs of residues with encoder outputs ``h_i`` and ``h_j`` [..., D]."""
        features = torch.cat([h_i * h_j, h_i - h_j], dim=-1)
        logits: Tensor = self.second(self.activation(self.first(features)))
        return logits

    @torch.compiler.disable  # type: ignore[untyped-decorator]
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

        No device is ever waited for. The number correct (int64) has no gradient; there is no gradient of the gradient.

        Args:
            h: [N, D] encoder outputs of the masked residues, those of one sequence together.
            labels: [N] class of each, 0..19 (int64).
            counts: masked residues of each sequence; they sum to N. A sequence with fewer than two has no pairs i != j.
            diagonal: sum over the pairs (i, i) as well (the paper's pair-only mode).
            max_pairs: at most so many ordered pairs of a sequence (two at least; an even number is drawn), each equally
                likely, so that the loss divided by :func:`pair_count` estimates the mean without bias for each sequence.
            keys: [B] int64, what is drawn for each sequence when ``max_pairs`` is given: equal keys, equal pairs.
        """
        if h.shape[0] != sum(counts) or labels.shape != h.shape[:1]:
            raise ValueError(f"h {tuple(h.shape)} and labels {tuple(labels.shape)} need sum(counts) = {sum(counts)} rows")
        if max_pairs is not None and (max_pairs < 2 or keys is None or keys.shape != (len(counts),)):
            raise ValueError("max_pairs needs to be 2 or more, with one key a sequence")
        weights = (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        device = h.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (h, *weights))
        groups = list(_groups(counts, diagonal, max_pairs, _free_pairs(device, self.first), _chunk_pairs(device)))
        with torch.autocast(device, enabled=False):
            loss, correct = _PairLoss.apply(h, *weights, labels, keys, groups, dtype, wanted)  # type: ignore[no-untyped-call]
        return loss, correct


def _sequence_pairs(m: int, diagonal: bool, max_pairs: int | None) -> int:
    every = m * m if diagonal else m * (m - 1)
    return every if max_pairs is None or every <= max_pairs else max_pairs // 2 * 2


def _chunk_pairs(device: str) -> int:
    return CHUNK.get(device, CHUNK_ELSEWHERE)


def _free_pairs(device: str, first: nn.Linear) -> float:
    """Return how many unordered pairs cost as much as another chunk: 2 (3 D H + 6 H 400) operations each."""
    flops = 6 * first.out_features * (first.in_features // 2 + 2 * PAIRS)
    return FREE_FLOPS.get(device, FREE_FLOPS_ELSEWHERE) / flops


@dataclasses.dataclass(frozen=True)
class _Group:
    """Sequences of similar counts, handled together as if each had the longest's M masked residues.

    Slot (k, i) of a sequence is its unordered pair (i, i + first + k mod m); the first ``slots`` with i < m are used, k before i.
    """

    rows: list[int]
    """[S] which sequences of the batch."""
    starts: list[int]
    """[S] first row of each in h."""
    counts: list[int]
    """[S] masked residues of each."""
    slots: list[int]
    """[S] slots of each that are used."""
    first: int
    """The first offset: 0 where the diagonal is summed, else 1."""
    sampled: bool
    """Whether the pairs are drawn: residues go in random order, so that the slots used are random pairs."""

    @property
    def longest(self) -> int:
        return max(self.counts)

    @property
    def offsets(self) -> int:
        return max(math.ceil(slots / m) for slots, m in zip(self.slots, self.counts, strict=True))

    @property
    def full(self) -> bool:
        """Whether every slot is used, with weight 1."""
        size = self.longest * self.offsets
        return all(m == self.longest and slots == size for m, slots in zip(self.counts, self.slots, strict=True)) and (
            self.sampled or self.first == 1
        )


def _groups(counts: Sequence[int], diagonal: bool, max_pairs: int | None, free: float, chunk: int) -> Iterator[_Group]:
    """Yield groups of sequences: the longest first, the next joining while a chunk has room and padding stays cheap."""
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    first = 0 if diagonal else 1
    rows: list[int] = []
    slots: list[int] = []
    sampled = False

    def group() -> _Group:
        return _Group(rows, [starts[b] for b in rows], [counts[b] for b in rows], slots, first, sampled)

    for b in sorted(range(len(counts)), key=lambda b: -counts[b]):
        m = counts[b]
        if m < 1 + first:
            break
        pairs = _sequence_pairs(m, diagonal, max_pairs)
        drawn = pairs < (m * m if diagonal else m * (m - 1))
        used = pairs // 2 if drawn else m * (m - 1) // 2 + (m if diagonal else 0)
        if rows:
            height = max(math.ceil(used / m), *(math.ceil(s / counts[r]) for s, r in zip(slots, rows, strict=True)))
            size = (len(rows) + 1) * counts[rows[0]] * height
            waste = size - sum(slots) - used
            if drawn != sampled or size > chunk or waste > max(free, 0.1 * size):
                yield group()
                rows, slots = [], []
        rows, slots, sampled = [*rows, b], [*slots, used], drawn
    if rows:
        yield group()


def _to_device(values: list[int], device: torch.device) -> Tensor:
    """Return ``values`` on ``device`` without waiting for it."""
    tensor = torch.tensor(values, dtype=torch.int64)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _mix(x: Tensor) -> Tensor:
    """Return splitmix64's finaliser of ``x`` (int64): neighbouring numbers become unrelated ones."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def _orders(keys: Tensor, counts: Tensor, longest: int, draw: int) -> Tensor:
    """Return random orders [S, M] of the first ``counts`` [S, 1] residues, one for each key [S]; what comes after is last."""
    place = torch.arange(longest, device=keys.device)
    score = _mix(_mix(keys * 2 + draw)[:, None] + place)
    return torch.where(place < counts, score, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)


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
        keys: Tensor | None,
        groups: list[_Group],
        dtype: torch.dtype,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        run = _Run(h, w1, b1, w2, b2, dtype, wanted)
        for group in groups:
            run.add(group, labels, keys)
        if wanted:
            ctx.save_for_backward(*run.gradients())
        ctx.mark_non_differentiable(run.correct)
        return run.loss, run.correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        return *(gradient * scale.to(gradient.dtype) for gradient in ctx.saved_tensors), None, None, None, None, None


class _Run:
    """One evaluation of the loss: the parameters in the dtype of the products, and the sums so far in float32 or better."""

    def __init__(self, h: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dtype: torch.dtype, wanted: bool) -> None:
        self.inputs, self.dtype, self.wanted = (h, w1, b1, w2, b2), dtype, wanted
        self.sum_dtype = torch.promote_types(dtype, torch.float32)
        self.width = width = h.shape[1]
        self.w1, self.b1, self.w2, self.b2 = (x.to(dtype) for x in (w1, b1, w2, b2))
        h = h.to(dtype)
        self.h_u = torch.cat([h, h @ self.w1[:, width:].t()], dim=1)  # [N, D + H]
        self.loss = h.new_zeros((), dtype=self.sum_dtype)
        self.correct = torch.zeros((), dtype=torch.int64, device=h.device)
        self.buffers: dict[str, Tensor] = {}
        if wanted:
            self.d_w1, self.d_b1, self.d_w2, self.d_b2, self.d_h_u = (
                torch.zeros(x.shape, dtype=self.sum_dtype, device=h.device) for x in (w1, b1, w2, b2, self.h_u)
            )

    def buffer(self, name: str, *shape: int) -> Tensor:
        """Return scratch memory of ``shape``, the same for every chunk."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, dtype=self.dtype, device=self.h_u.device)
        return self.buffers[name][:size].view(shape)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of h, W1, b1, W2 and b2, each in its own dtype."""
        width = self.width
        d_h, d_u = self.d_h_u[:, :width], self.d_h_u[:, width:].to(self.dtype)
        d_h = d_h + d_u @ self.w1[:, width:]
        self.d_w1[:, width:] = d_u.t() @ self.h_u[:, :width]
        found = (d_h, self.d_w1, self.d_b1, self.d_w2, self.d_b2)
        return tuple(gradient.to(x.dtype) for gradient, x in zip(found, self.inputs, strict=True))

    def add(self, group: _Group, labels: Tensor, keys: Tensor | None) -> None:
        """Add the pairs of a group of sequences, chunk by chunk."""
        sequences, longest = len(group.rows), group.longest
        left_rows, right_rows, weight = _lay_out(group, keys, self.h_u.device)
        right = self.h_u[right_rows]  # [S, R, D + H]
        left = right[:, :longest] if left_rows is None else self.h_u[left_rows]  # [S, M, D + H]
        right_labels = labels[right_rows]
        left_labels = right_labels[:, :longest] if left_rows is None else labels[left_rows]
        d_right = torch.zeros(right.shape, dtype=self.sum_dtype, device=right.device) if self.wanted else right
        d_left = d_right[:, :longest] if left_rows is None else torch.zeros_like(d_right[:, :longest])
        parts = math.ceil(sequences * group.offsets * longest / _chunk_pairs(right.device.type))
        step = math.ceil(group.offsets / parts)
        for k in range(0, group.offsets, step):
            n = min(step, group.offsets - k)
            reach = slice(group.first + k, group.first + k + n - 1 + longest)
            pair_labels = (left_labels[:, None], right_labels[:, reach].unfold(1, longest, 1))
            chunk_weight = None if weight is None else weight[:, k : k + n]
            self.chunk(left, right[:, reach], pair_labels, chunk_weight, d_left, d_right[:, reach], n)
        if self.wanted:
            self.d_h_u.index_add_(0, right_rows.flatten(), d_right.flatten(0, 1))
            if left_rows is not None:
                self.d_h_u.index_add_(0, left_rows.flatten(), d_left.flatten(0, 1))

    def chunk(
        self,
        left: Tensor,
        right: Tensor,
        pair_labels: tuple[Tensor, Tensor],
        weight: Tensor | None,
        d_left: Tensor,
        d_right: Tensor,
        n: int,
    ) -> None:
        """Add the pairs of ``left`` [S, M, D + H] with each of n windows of ``right`` [S, M + n - 1, D + H]."""
        (s, m, _), width, hidden = left.shape, self.width, self.b1.shape[0]
        window = right.unfold(1, m, 1).transpose(2, 3)  # [S, n, M, D + H]
        units = s * n * m
        product, symmetric = self.buffer("product", units, width), self.buffer("symmetric", units, hidden)
        difference = self.buffer("difference", units, hidden)
        torch.mul(left[:, None, :, :width], window[..., :width], out=product.view(s, n, m, width))
        torch.sub(left[:, None, :, width:], window[..., width:], out=difference.view(s, n, m, hidden))
        torch.addmm(self.b1, product, self.w1[:, :width].t(), out=symmetric)
        before = self.buffer("before", 2, units, hidden)
        torch.add(symmetric, difference, out=before[0])
        torch.sub(symmetric, difference, out=before[1])
        before = before.view(2 * units, hidden)
        after = torch.ops.aten.gelu.out(before, out=self.buffer("after", 2 * units, hidden))
        logits = torch.addmm(self.b2, after, self.w2.t(), out=self.buffer("logits", 2 * units, PAIRS))
        x, y = pair_labels
        label = torch.stack([CLASSES * x + y, CLASSES * y + x]).flatten()
        d_logits = self.cross_entropy(logits, label, None if weight is None else weight.expand(2, s, n, m).flatten())
        if not self.wanted:
            return
        _accumulate(self.d_w2, d_logits.t(), after)
        self.d_b2 += d_logits.sum(0, dtype=self.sum_dtype)
        d_after = torch.mm(d_logits, self.w2, out=after)
        d_before = torch.ops.aten.gelu_backward.grad_input(d_after, before, grad_input=after).view(2, units, hidden)
        torch.add(d_before[0], d_before[1], out=symmetric)
        torch.sub(d_before[0], d_before[1], out=difference)
        _accumulate(self.d_w1[:, :width], symmetric.t(), product)
        self.d_b1 += symmetric.sum(0, dtype=self.sum_dtype)
        torch.mm(symmetric, self.w1[:, :width], out=product)
        d_product, d_difference = product.view(s, n, m, width), difference.view(s, n, m, hidden)
        for k in range(n):
            d_left[..., :width].addcmul_(d_product[:, k], window[:, k, :, :width])
            d_right[:, k : k + m, :width].addcmul_(d_product[:, k], left[..., :width])
            d_left[..., width:] += d_difference[:, k]
            d_right[:, k : k + m, width:] -= d_difference[:, k]

    def cross_entropy(self, logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        """Add the cross entropy of ``logits`` [2 U, 400] and return its gradient, in the memory of the logits."""
        picked = logits.gather(1, label[:, None])[:, 0].to(self.sum_dtype)
        highest, best = logits.max(dim=1)
        hit = best == label
        if logits.dtype == self.sum_dtype:
            p = torch.softmax(logits, dim=1, out=logits)
        else:
            p = torch.softmax(logits, dim=1, dtype=self.sum_dtype)
        loss = highest.to(self.sum_dtype) - p.amax(dim=1).log() - picked  # log sum exp z = max z - log max p
        if weight is not None:
            loss, hit = loss * weight, hit * weight
        self.loss += loss.sum()
        self.correct += hit.sum().to(torch.int64)
        if self.wanted:
            p.scatter_add_(1, label[:, None], p.new_full((1, 1), -1.0).expand(len(label), 1))
            if weight is not None:
                p *= weight[:, None]
        return p.to(logits.dtype)


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product a b to ``total``, which may be of a higher precision."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _lay_out(group: _Group, keys: Tensor | None, device: torch.device) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return which rows of h stand left [S, M] and right [S, R], cyclically, and the weight [S, n, M] of each slot.

    Left rows None: the first M of the right ones. Weight None: 1 everywhere.
    """
    s, longest = len(group.rows), group.longest
    table = _to_device([*group.rows, *group.starts, *group.counts, *group.slots], device).view(4, s, 1)
    rows, starts, counts, slots = table
    cycle = torch.arange(longest + group.first + group.offsets - 1, device=device) % counts
    left: Tensor | None = None
    if group.sampled and keys is not None:
        chosen = keys[rows[:, 0]]
        if group.first == 0:
            left = starts + _orders(chosen, counts, longest, draw=1).gather(1, cycle[:, :longest])
        cycle = _orders(chosen, counts, longest, draw=0).gather(1, cycle)
    if group.full:
        return left, starts + cycle, None
    i = torch.arange(longest, device=device)
    k = torch.arange(group.offsets, device=device)[:, None]
    weight = ((i < counts[:, None]) & (k * counts[:, None] + i < slots[:, None])).to(torch.float32)  # [S, n, M]
    if group.first == 0 and not group.sampled:
        weight[:, 0] *= 0.5  # (i, i) is its own mirror image: two halves
    return left, starts + cycle, weight
