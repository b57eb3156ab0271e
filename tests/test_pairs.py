"""The fast pair head against the formula written plainly, and what its cap and its edges promise."""

import pytest
import torch

from raypro.core.objectives import pairs
from raypro.core.objectives.pairs import PairHead, pair_count
from raypro.core.reference.pmlm import loop_pair_loss, ordered_pairs

WIDTH, HIDDEN = 6, 5
COUNTS = [[2], [3], [5, 5, 5], [7, 0, 1, 4, 2], [1, 0], [12, 3, 11, 12]]


def example(counts, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    head = PairHead(WIDTH, HIDDEN).to(dtype)
    h = torch.randn(sum(counts), WIDTH, dtype=dtype, requires_grad=True)
    return head, h, torch.randint(20, (sum(counts),))


def gradients(loss, head, h):
    return torch.autograd.grad(loss, [h, *head.parameters()], torch.tensor(0.7, dtype=loss.dtype), materialize_grads=True)


@pytest.fixture(params=[4, 30, 4096])
def chunk(request, monkeypatch):
    """Chunks of few and of many pairs, with and without padding several sequences together."""
    monkeypatch.setitem(pairs.CHUNK, "cpu", request.param)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_equals_plain_loops(counts, diagonal, chunk):
    head, h, labels = example(counts)
    ours, correct = head.loss(h, labels, counts, diagonal=diagonal)
    plain, plain_correct = loop_pair_loss(head.first, head.second, h, labels, ordered_pairs(counts, diagonal))
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    assert correct == plain_correct
    for mine, theirs in zip(gradients(ours, head, h), gradients(plain, head, h), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert pair_count(counts, diagonal) == len(list(ordered_pairs(counts, diagonal)))
