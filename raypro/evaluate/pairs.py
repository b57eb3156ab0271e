"""What a pair head knows: Table 2 and Figure 3 of He et al. 2021, and the contact map it implies without any label.

Legend: B sequences, T tokens, L residues, D model dimension, N masked residues, P ordered pairs of masked residues of one sequence.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from raypro.core.alphabet import MASK, PAD
from raypro.core.masking import Masked
from raypro.evaluate.contacts import apc

CLASSES = 20
KL_EDGES: NDArray[np.float64] = np.logspace(-5, 2, 71)
"""[71] edges, in nats, of the bins of Figure 3's histogram: ten a decade. The outermost bins take what lies beyond."""

_TOKENS, _TOKEN_LOSS, _TOKEN_HITS, _PAIRS, _PAIR_LOSS, _PAIR_HITS, _PRODUCT_HITS, _KL, _HISTOGRAM = range(9)


class PairModel(Protocol):
    """What is evaluated here: an encoder with a head for single residues, a head for pairs, or both."""

    has_token_head: bool
    has_pair_head: bool
    training: bool

    def train(self, mode: bool = True) -> object:
        """Switch training mode (dropout) on or off, as ``torch.nn.Module`` does."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over the parameters, as ``torch.nn.Module`` does."""

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the encoder's output [B, T, D] for tokens [B, T] int64."""

    def token_logits(self, h: Tensor) -> Tensor:
        """Return logits [..., 20] for hidden states [..., D]."""

    def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return logits [N, 400], class 20 a + b, for hidden states [N, D] of both residues."""


@dataclass(frozen=True)
class PairReport:
    """Table 2 and Figure 3 for one model."""

    metrics: dict[str, float]
    """See :meth:`PairSums.report`."""
    kl_counts: NDArray[np.int64] | None
    """Ordered pairs in each bin of KL_EDGES; None where there was no pair, or no pair head."""


class PairSums:
    """Sums behind Table 2 and Figure 3 over any number of batches.

    ``totals`` is one float64 tensor on the model's device, so that workers that saw different batches add theirs up exactly with one
    all-reduce. Nothing leaves the device before :meth:`report`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Start from nothing."""
        self.totals = torch.zeros(_HISTOGRAM + len(KL_EDGES) - 1, dtype=torch.float64, device=device)
        self._inner_edges = torch.tensor(KL_EDGES[1:-1], dtype=torch.float32, device=device)

    @torch.no_grad()
    def add(self, model: PairModel, masked: Masked, pair_chunk: int = 8192) -> None:
        """Add one batch, on the device of the sums; ``pair_chunk`` pairs at a time are held in memory."""
        h = model.hidden(masked.inputs)[masked.rows, masked.columns]
        single = _single_log_probabilities(model, h)
        hits = single.argmax(dim=1) == masked.labels
        self._sum(_TOKENS, torch.ones_like(hits))
        self._sum(_TOKEN_LOSS, -single.gather(1, masked.labels[:, None]))
        self._sum(_TOKEN_HITS, hits)
        if not model.has_pair_head:
            return
        first, second = ordered_pairs(masked.counts, h.device)
        for i, j in zip(torch.split(first, pair_chunk), torch.split(second, pair_chunk), strict=True):
            joint = model.pair_logits(h[i], h[j]).float().log_softmax(dim=1)
            label = CLASSES * masked.labels[i] + masked.labels[j]
            self._sum(_PAIRS, torch.ones_like(label))
            self._sum(_PAIR_LOSS, -joint.gather(1, label[:, None]))
            self._sum(_PAIR_HITS, joint.argmax(dim=1) == label)
            self._sum(_PRODUCT_HITS, hits[i] & hits[j])
            divergence = product_divergence(single[i], single[j], joint)
            self._sum(_KL, divergence)
            ones = torch.ones_like(divergence, dtype=torch.float64)
            self.totals[_HISTOGRAM:].index_add_(0, torch.bucketize(divergence, self._inner_edges, right=True), ones)

    def report(self) -> PairReport:
        """Return Table 2 and Figure 3. What has no sample is NaN.

        Metrics, losses in nats: ``table2/L_mlm`` (mean over masked residues), ``table2/perplexity`` (its exponential),
        ``table2/ACC_mlm``; where there were pairs and a head for them also ``table2/L_pmlm`` (mean over ordered pairs of masked
        residues), ``table2/ACC_pmlm`` (both residues right in the joint's most probable pair), ``table2/ACC_product`` (both right,
        each by its own most probable residue), ``table2/delta_ACC`` (the difference), ``table2/delta_ACC_over_ACC_pmlm`` and
        ``table2/KL_mean``.
        """
        sums = self.totals.cpu().numpy()
        mean_loss = _ratio(sums[_TOKEN_LOSS], sums[_TOKENS])
        metrics = {
            "table2/L_mlm": mean_loss,
            "table2/perplexity": float(np.exp(mean_loss)),
            "table2/ACC_mlm": _ratio(sums[_TOKEN_HITS], sums[_TOKENS]),
        }
        if not sums[_PAIRS]:
            return PairReport(metrics, None)
        gained = sums[_PAIR_HITS] - sums[_PRODUCT_HITS]
        metrics |= {
            "table2/L_pmlm": _ratio(sums[_PAIR_LOSS], sums[_PAIRS]),
            "table2/ACC_pmlm": _ratio(sums[_PAIR_HITS], sums[_PAIRS]),
            "table2/ACC_product": _ratio(sums[_PRODUCT_HITS], sums[_PAIRS]),
            "table2/delta_ACC": _ratio(gained, sums[_PAIRS]),
            "table2/delta_ACC_over_ACC_pmlm": _ratio(gained, sums[_PAIR_HITS]),
            "table2/KL_mean": _ratio(sums[_KL], sums[_PAIRS]),
        }
        return PairReport(metrics, sums[_HISTOGRAM:].astype(np.int64))

    def _sum(self, index: int, values: Tensor) -> None:
        self.totals[index] += values.sum(dtype=torch.float64)


def evaluate_pairs(model: PairModel, batches: Iterable[Masked]) -> PairReport:
    """Return Table 2 and Figure 3 of a model over masked batches: exact sums over all of them, never a mean of means."""
    device = _device(model)
    sums = PairSums(device)
    with _evaluating(model):
        for masked in batches:
            sums.add(model, masked.to(device))
    return sums.report()


def ordered_pairs(counts: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the indices [P], [P] of all ordered pairs i != j among the masked residues of each sequence.

    Args:
        counts: masked residues of each sequence; those of one sequence follow each other.
        device: where the indices are needed.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    size_of = np.repeat(sizes, sizes)
    start_of = np.repeat(np.cumsum(sizes) - sizes, sizes)
    partners = size_of - 1
    first = np.repeat(np.arange(len(size_of)), partners)
    rank = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)  # 0 .. partners - 1 for each residue
    second = start_of[first] + rank
    second += second >= first  # steps over the residue itself
    return torch.from_numpy(first).to(device), torch.from_numpy(second).to(device)


def product_divergence(single_i: Tensor, single_j: Tensor, joint: Tensor) -> Tensor:
    """Return KL(P(x_i) P(x_j) || P(x_i, x_j)) [N] in nats, from log-probabilities [N, 20], [N, 20] and [N, 400]."""
    product = (single_i[:, :, None] + single_j[:, None, :]).flatten(1)
    return (product.exp() * (product - joint)).sum(dim=1).clamp_min(0.0)


def mutual_information(joint: Tensor) -> Tensor:
    """Return the mutual information [N] in nats of joint distributions [N, 20, 20], in the joint's own precision."""

    def negative_entropy(p: Tensor) -> Tensor:
        return torch.xlogy(p, p).flatten(1).sum(dim=1)

    return negative_entropy(joint) - negative_entropy(joint.sum(dim=2)) - negative_entropy(joint.sum(dim=1))


def implied_contacts(
    model: PairModel, sequences: Sequence[Tensor], *, batch_tokens: int = 16_384, progress: bool = True
) -> list[NDArray[np.float64]]:
    """Return the contact map [L, L] that the pair head implies for each sequence, without any label.

    For residues i < j both are masked, and the encoder sees the rest: the pair head's joint P(x_i, x_j), averaged over the two
    orders in which it can be asked, has a mutual information (nats) that is large where the residues depend on each other.
    The map of mutual informations, symmetric with a zero diagonal, is APC-corrected. It takes L (L - 1) / 2 encoder passes a sequence.

    Args:
        model: has a pair head.
        sequences: tokens [T] of each, CLS, residues, SEP.
        batch_tokens: tokens of one encoder pass, over pairs and sequences together.
        progress: show a progress bar.

    Raises:
        ValueError: the model has no pair head.
    """
    if not model.has_pair_head:
        raise ValueError("the model has no pair head: it implies no contact map")
    device = _device(model)
    maps = [np.zeros((len(tokens) - 2, len(tokens) - 2)) for tokens in sequences]
    padded = torch.nn.utils.rnn.pad_sequence([t.to(torch.int64) for t in sequences], batch_first=True, padding_value=PAD).to(device)
    total = sum(len(m) * (len(m) - 1) // 2 for m in maps)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _evaluating(model), Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("residue pairs", total=total)
        for pieces in _pair_batches([len(t) for t in sequences], batch_tokens):
            rows = np.concatenate([np.full(len(i), s) for s, i, _ in pieces])
            i, j = (np.concatenate([piece[k] for piece in pieces]) for k in (1, 2))
            width = max(len(sequences[s]) for s, _, _ in pieces)
            tokens = padded[torch.from_numpy(rows).to(device), :width]
            information = _pair_information(model, tokens, torch.from_numpy(i).to(device) + 1, torch.from_numpy(j).to(device) + 1)
            for (s, i, j), values in zip(pieces, np.split(information, np.cumsum([len(i) for _, i, _ in pieces])[:-1]), strict=True):
                maps[s][i, j] = maps[s][j, i] = values
            bar.advance(task, len(rows))
    return [apc(m) for m in maps]


Piece = tuple[int, NDArray[np.int64], NDArray[np.int64]]


def _pair_batches(widths: Sequence[int], batch_tokens: int) -> Iterator[list[Piece]]:
    """Yield batches of (sequence, i [n], j [n]); the longest sequences first, so that the first of a batch sets its width."""
    pieces: list[Piece] = []
    room = 0
    for s in sorted(range(len(widths)), key=lambda s: -widths[s]):
        i, j = np.triu_indices(widths[s] - 2, k=1)
        start = 0
        while start < len(i):
            if not pieces:
                room = max(1, batch_tokens // widths[s])
            part = slice(start, start + room)
            pieces.append((s, i[part], j[part]))
            start += len(i[part])
            room -= len(i[part])
            if room == 0:
                yield pieces
                pieces = []
    if pieces:
        yield pieces


def _pair_information(model: PairModel, tokens: Tensor, i: Tensor, j: Tensor) -> NDArray[np.float64]:
    """Return the mutual information [N] of the joint at columns i, j [N] of tokens [N, T], masked there."""
    row = torch.arange(len(tokens), device=tokens.device)
    tokens[row, i] = MASK
    tokens[row, j] = MASK
    h = model.hidden(tokens)
    h_i, h_j = h[row, i], h[row, j]
    forward = model.pair_logits(h_i, h_j).double().softmax(dim=1).view(-1, CLASSES, CLASSES)
    backward = model.pair_logits(h_j, h_i).double().softmax(dim=1).view(-1, CLASSES, CLASSES)
    return mutual_information((forward + backward.mT) / 2).cpu().numpy()


def _single_log_probabilities(model: PairModel, h: Tensor) -> Tensor:
    """Return log P(x_i) [N, 20] for hidden states [N, D].

    From the token head; in pair-only mode, where there is none, from the diagonal pair (i, i), which that mode trains:
    its logits of the 20 classes (a, a), normalised over them.
    """
    logits = model.token_logits(h) if model.has_token_head else model.pair_logits(h, h)[:, :: CLASSES + 1]
    return logits.float().log_softmax(dim=-1)


@contextmanager
def _evaluating(model: PairModel) -> Iterator[None]:
    """Switch dropout and gradients off, and put the model back into its mode afterwards."""
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _device(model: PairModel) -> torch.device:
    return next(model.parameters()).device


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
