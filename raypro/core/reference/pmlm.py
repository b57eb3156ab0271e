"""The pair term of the pairwise masked language model (He et al. 2021), written plainly.

    L_pmlm = - sum over i != j of log P(x_i, x_j | context),   P = softmax(W2 gelu(W1 [h_i * h_j ; h_i - h_j] + b1) + b2)

Two forms: loops over pairs, straight from the formula, for tests in float64; and all masked pairs at once with dense
autograd, as one would write it first, for the benchmark.

Shapes: N masked residues of the batch, those of one sequence together; D width; P ordered pairs.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ordered_pairs(counts: Sequence[int], diagonal: bool = False) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i, j) of masked residues of one sequence, i != j unless ``diagonal``, for each sequence of the batch."""
    start = 0
    for count in counts:
        for i, j in itertools.product(range(start, start + count), repeat=2):
            if i != j or diagonal:
                yield i, j
        start += count


def loop_pair_loss(
    first: nn.Linear, second: nn.Linear, h: Tensor, labels: Tensor, pairs: Iterator[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy (nats) over ``pairs`` and the number predicted correctly, one pair after another.

    Args:
        first: the layer 2D -> hidden.
        second: the layer hidden -> 400.
        h: [N, D] encoder outputs of the masked residues.
        labels: [N] class of each, 0..19.
        pairs: the ordered pairs (i, j) to sum over.
    """
    loss = h.sum() * 0
    correct = torch.zeros((), dtype=torch.int64)
    for i, j in pairs:
        logits = second(F.gelu(first(torch.cat([h[i] * h[j], h[i] - h[j]]))))
        label = 20 * labels[i] + labels[j]
        loss = loss - logits.log_softmax(0)[label]
        correct = correct + (logits.argmax() == label)
    return loss, correct


def masked_pair_loss(first: nn.Linear, second: nn.Linear, h: Tensor, labels: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy (nats) and the number correct over the ordered pairs (i, j) [P], all pairs at once.

    Arguments as in :func:`loop_pair_loss`; ``i`` and ``j`` index the rows of ``h``.
    """
    h_i, h_j = h[i], h[j]
    product, difference = h_i * h_j, h_i - h_j
    features = torch.cat([product, difference], dim=-1)
    logits = second(F.gelu(first(features)))
    label = 20 * labels[i] + labels[j]
    loss = F.cross_entropy(logits, label, reduction="sum")
    return loss, (logits.argmax(-1) == label).sum()
