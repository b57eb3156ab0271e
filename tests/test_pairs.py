"""The fast pair head against the formula written plainly, and what its cap and its edges promise."""

import pytest
import torch

from raypro.core.objectives import pairs
from raypro.core.objectives.pairs import PairHead, pair_count
from raypro.core.reference.pmlm import loop_pair_loss, masked_pair_loss, ordered_pairs

WIDTH, HIDDEN = 6, 5
COUNTS = [[2], [3], [5, 5, 5], [7, 0, 1, 4, 2], [1, 0], [12, 3, 11, 12]]


def example(counts, dtype=torch.float64):
    torch.manual_seed(0)
    head = PairHead(WIDTH, HIDDEN).to(dtype)
    h = torch.randn(sum(counts), WIDTH, dtype=dtype, requires_grad=True)
    return head, h, torch.randint(20, (sum(counts),))


def gradients(loss, head, h):
    """Gradients of h and every weight for a gradient of the loss that is not 1."""
    return torch.autograd.grad(loss, [h, *head.parameters()], torch.tensor(0.7, dtype=loss.dtype), materialize_grads=True)


def assert_same(ours, plain, head, h):
    """Loss, number correct and gradients of ``ours`` are those of ``plain``, to the last digits of float64."""
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-12, atol=0)
    assert ours[1].item() == pytest.approx(float(plain[1]), rel=1e-12)
    for mine, theirs in zip(gradients(ours[0], head, h), gradients(plain[0], head, h), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def drawn_pairs(counts, diagonal, max_pairs, keys):
    """The unordered pairs [2, U] that are drawn."""
    plan = pairs._Plan.of(counts, diagonal, max_pairs, keys, torch.device("cpu"))
    return plan.pairs(0, plan.total)


@pytest.fixture(params=[1, 7, 30, 4096])
def chunk(request, monkeypatch):
    """Chunks that cut sequences, and chunks that hold several."""
    monkeypatch.setitem(pairs.CHUNK, "cpu", request.param)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_equals_plain_loops(counts, diagonal, chunk):
    head, h, labels = example(counts)
    with torch.no_grad():  # bias the head to the classes of one pair, so that some pairs are correct
        head.second.bias[20 * labels[0] + labels[-1]] += 2
    ours = head.loss(h, labels, counts, diagonal=diagonal)
    assert_same(ours, loop_pair_loss(head.first, head.second, h, labels, ordered_pairs(counts, diagonal)), head, h)
    assert pair_count(counts, diagonal) == len(list(ordered_pairs(counts, diagonal)))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("max_pairs", [2, 7, 12, 30])
def test_capped_equals_plain_loops_over_the_drawn_pairs(max_pairs, diagonal, chunk):
    counts = [7, 0, 1, 4, 2, 5]
    head, h, labels = example(counts)
    keys = torch.arange(len(counts))
    rows, weights = drawn_pairs(counts, diagonal, max_pairs, keys)
    plain = [torch.zeros((), dtype=torch.float64), 0.0]
    for n, (i, j) in enumerate(rows.T.tolist()):
        loss, correct = loop_pair_loss(head.first, head.second, h, labels, iter([(i, j), (j, i)]))
        weight = 1.0 if weights is None else weights[n]
        plain = [plain[0] + weight * loss, plain[1] + weight * correct]
    ours = head.loss(h, labels, counts, diagonal=diagonal, max_pairs=max_pairs, keys=keys)
    assert_same(ours, plain, head, h)
    assert 2 * weights.sum().item() == pytest.approx(pair_count(counts, diagonal))  # those drawn stand for all


def test_a_cap_above_every_pair_changes_nothing():
    counts = [5, 2, 4]
    head, h, labels = example(counts)
    ours = head.loss(h, labels, counts, max_pairs=20, keys=torch.arange(3))
    assert_same(ours, head.loss(h, labels, counts), head, h)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("m", [4, 5])
def test_a_cap_draws_every_pair_equally_often(m, diagonal):
    sequences, max_pairs = 6000, 7
    rows, weights = drawn_pairs([m] * sequences, diagonal, max_pairs, torch.arange(sequences))
    every = m * m if diagonal else m * (m - 1)
    assert torch.equal(weights, torch.full_like(weights, every / 6))
    first, second = torch.cat([rows, rows.flip(0)], dim=1)
    assert torch.equal(first // m, second // m)  # of one sequence
    often = torch.zeros(m, m).index_put_((first % m, second % m), torch.tensor(1.0), accumulate=True)
    expected = 6 * sequences / every
    cells = often if diagonal else often[~torch.eye(m, dtype=torch.bool)]
    assert (diagonal or often.diagonal().sum() == 0) and often.sum() == 6 * sequences
    assert (cells - expected).abs().max() < 8 * expected**0.5, often  # a pair counts twice: sigma is at most sqrt(2 expected)
    if not diagonal:
        assert len({*map(tuple, torch.stack([first, second], dim=1).tolist())}) == len(first)  # without replacement


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_cap_leaves_the_mean_over_all_pairs_of_a_batch_unbiased(diagonal):
    """A long sequence that is hard and a short one that is easy: drawing fewer of the long one's pairs must not make it count less."""
    counts, draws = [9, 3], 400
    head, h, labels = example(counts)
    with torch.no_grad():
        h[:9] *= 3
        head.second.bias[20 * labels[0] + labels[1]] += 30
        whole, hits = head.loss(h, labels, counts, diagonal=diagonal)
        capped = torch.stack(
            [torch.stack(head.loss(h, labels, counts, diagonal=diagonal, max_pairs=12, keys=torch.arange(2) + 2 * n)) for n in range(draws)]
        )
    mean, error = capped.mean(0), capped.std(0) / draws**0.5
    assert 0 < error[0] < 0.02 * whole and hits > 0 and abs(mean[0] - whole) < 5 * error[0]
    assert abs(mean[1] - hits) <= 5 * error[1]


def test_equal_keys_draw_equal_pairs_whatever_the_neighbours():
    alone, _ = drawn_pairs([9], False, 10, torch.tensor([41]))
    beside, _ = drawn_pairs([12, 9, 3], False, 10, torch.tensor([5, 41, 6]))
    assert torch.equal(alone, beside[:, 5:10] - 12)
    other, _ = drawn_pairs([9], False, 10, torch.tensor([42]))
    assert not torch.equal(alone, other)


def test_the_masked_pair_form_equals_plain_loops():
    counts = [4, 3]
    head, h, labels = example(counts)
    i, j = torch.tensor(list(ordered_pairs(counts))).T
    plain = loop_pair_loss(head.first, head.second, h, labels, ordered_pairs(counts))
    assert_same(masked_pair_loss(head.first, head.second, h, labels, i, j), plain, head, h)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, 1]], ids=str)
def test_no_pairs_give_zero_that_is_connected(counts):
    head, h, labels = example(counts)
    loss, correct = head.loss(h, labels, counts)
    loss.backward()
    assert loss == 0 and correct == 0
    for tensor in (h, *head.parameters()):
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any()


def test_large_logits_stay_finite():
    head, h, labels = example([4])
    with torch.no_grad():
        head.second.bias[0] += 5000
    loss, _ = head.loss(h, labels, [4])
    assert loss.item() == pytest.approx(sum(5000 for i, j in ordered_pairs([4]) if labels[i] + labels[j] > 0), rel=1e-2)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, head, h))


def test_without_gradients_the_loss_is_the_same_and_detached():
    head, h, labels = example([5, 3])
    with torch.no_grad():
        detached, _ = head.loss(h, labels, [5, 3])
    assert detached == head.loss(h, labels, [5, 3])[0] and not detached.requires_grad


def test_backward_twice_accumulates_and_runs_repeat_bit_for_bit():
    head, h, labels = example([15, 20, 3], torch.float32)
    loss, _ = head.loss(h, labels, [15, 20, 3])
    loss.backward(retain_graph=True)
    once = h.grad.clone()
    loss.backward()
    assert torch.equal(h.grad, 2 * once)
    first, again = (gradients(head.loss(h, labels, [15, 20, 3])[0], head, h) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_autocast_keeps_sums_and_gradients_in_float32():
    counts = [9, 4]
    head, h, labels = example(counts, torch.float32)
    exact, _ = head.loss(h, labels, counts)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = head.loss(h, labels, counts)
        plain, _ = masked_pair_loss(head.first, head.second, h, labels, *torch.tensor(list(ordered_pairs(counts))).T)
    assert rough.dtype == torch.float32 and rough != exact
    assert abs(rough - exact) < 3 * abs(plain - exact) + 1e-4 * exact
    for mine, theirs in zip(gradients(rough, head, h), gradients(exact, head, h), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02 * float(theirs.abs().max()))


def test_a_compiled_model_may_hold_the_head():
    head, h, labels = example([5, 3])
    compiled = torch.compile(lambda x: head.loss(2 * x, labels, [5, 3])[0] * 3, backend="eager")
    assert compiled(h) == 3 * head.loss(2 * h, labels, [5, 3])[0]


def test_evaluation_logits_are_the_formula():
    head, h, _ = example([2])
    features = torch.cat([h[0] * h[1], h[0] - h[1]])
    plain = head.second(torch.nn.functional.gelu(head.first(features)))
    torch.testing.assert_close(head.logits(h[:1], h[1:])[0], plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"counts": [4]}, "sum"), ({"max_pairs": 1, "keys": torch.arange(2)}, "max_pairs"), ({"max_pairs": 8}, "key")],
    ids=["counts", "cap of 1", "no keys"],
)
def test_wrong_use_is_refused(options, message):
    head, h, labels = example([3, 2])
    with pytest.raises(ValueError, match=message):
        head.loss(h, labels, **{"counts": [3, 2], **options})
