"""Relaxed subsets and straight-through choices: plain loops, what the sampler promises, and where the published form breaks."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from raypro.core import subset
from raypro.core.alphabet import MASK, SIZE, STANDARD, encode
from raypro.core.noiser import KEEP, OPTIONS
from raypro.core.noising import mixed_inputs
from raypro.core.random import uniform
from raypro.core.reference.adversarial import (
    loop_mixed,
    loop_relaxed_subset,
    loop_softmax,
    published_relaxed_subset,
    straight_through_threshold,
)
from raypro.core.subset import gumbel, gumbel_softmax, hard_subset, relaxed_subset, straight_through, threshold_subset

TEMPERATURES = [2.0, 1.0, 0.3, 0.1, 0.03]
COUNTS = torch.tensor([2, 1, 0, 3, 5, 7])


def noise_of(rows: int, width: int, stream: int = 0) -> torch.Tensor:
    return gumbel(torch.from_numpy(uniform(np.arange(rows), width, stream)))


def case(width: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, noise and valid positions of six rows for COUNTS: the first without a valid position, the second with one."""
    scores, noise = noise_of(6, width, 1), noise_of(6, width, 2)
    valid = noise_of(6, width, 3) > -0.5
    valid[0], valid[1], valid[5, :8] = False, False, True
    valid[1, 3] = True
    return scores.requires_grad_(), noise, valid


def gradient(result: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    weight = noise_of(*result.shape, stream=4).to(result.dtype)
    return torch.autograd.grad((result * weight).sum(), scores)[0]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equals_plain_loops_forward_and_gradients(temperature):
    scores, noise, valid = case()
    ours = relaxed_subset(scores, noise, valid, COUNTS, temperature)
    plain = loop_relaxed_subset(scores, noise, valid, COUNTS, temperature)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient(ours, scores), gradient(plain, scores), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("temperature", "forward", "backward"), [(1.0, 1e-5, 5e-6), (0.5, 1e-5, 5e-6), (0.1, 5e-5, 3e-4)])
def test_float32_has_the_digits_of_float64_at_an_ordinary_size(temperature, forward, backward):
    scores, noise, counts = noise_of(4, 512, 1), noise_of(4, 512, 2), torch.full((4,), 51)
    valid, found = torch.ones(4, 512, dtype=torch.bool), []
    for form, dtype in ((relaxed_subset, torch.float32), (published_relaxed_subset, torch.float64)):
        leaf = scores.to(dtype).requires_grad_()
        result = form(leaf, noise.to(dtype), valid, counts, temperature)
        found.append((result.detach().double(), gradient(result, leaf).double()))
    (ours, d_ours), (plain, d_plain) = found
    assert (ours - plain).abs().max() < forward
    assert (d_ours - d_plain).norm() < backward * d_plain.norm()


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1])
def test_gradcheck(temperature):
    scores, noise = noise_of(2, 4, 1).requires_grad_(), noise_of(2, 4, 2)
    valid, counts = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1]], dtype=torch.bool), torch.tensor([3, 2])
    assert torch.autograd.gradcheck(lambda s: relaxed_subset(s, noise, valid, counts, temperature), scores)


def test_more_rows_than_go_through_at_once_and_any_order_of_counts():
    rows = 2 * subset.ROWS["cpu"] + 3
    scores, noise = noise_of(rows, 12, 1).requires_grad_(), noise_of(rows, 12, 2)
    valid = torch.ones_like(scores, dtype=torch.bool)
    counts = torch.arange(rows) * 7 % 11
    ours, plain = (form(scores, noise, valid, counts, 0.3) for form in (relaxed_subset, published_relaxed_subset))
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradient(ours, scores), gradient(plain, scores), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_row_sums_to_its_own_count_and_what_is_not_valid_has_nothing(dtype):
    scores, noise, valid = case()
    for temperature in TEMPERATURES:
        relaxed = relaxed_subset(scores.to(dtype), noise.to(dtype), valid, COUNTS, temperature)
        assert relaxed.dtype == dtype and bool((relaxed >= 0).all()) and not relaxed[~valid].any()
        expected = COUNTS * valid.any(dim=1)
        torch.testing.assert_close(relaxed.sum(dim=1), expected.to(dtype), rtol=1e-6, atol=0)


def test_a_row_of_one_position_and_rows_of_nothing():
    scores = torch.tensor([[3.0]], requires_grad=True)
    one = relaxed_subset(scores, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.tensor([1]), 0.01)
    assert one.item() == 1 and gradient(one, scores).item() == 0
    none = relaxed_subset(scores, torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), torch.tensor([1]), 0.01)
    assert none.item() == 0 and gradient(none, scores).item() == 0
    assert relaxed_subset(scores, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.tensor([0]), 0.01).item() == 0


def test_a_position_can_be_chosen_beyond_1_as_published_by_hand():
    # t = 1, two positions d apart: after the first round log(1 - p) makes them equal, so the second adds a half to each.
    d = 3.0
    relaxed = relaxed_subset(torch.tensor([[d, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.tensor([2]), 1.0)
    first = 1 / (1 + math.exp(-d))
    assert relaxed[0].tolist() == pytest.approx([first + 0.5, 1.5 - first])


def test_at_low_temperature_within_0_and_1_and_ever_nearer_to_the_highest():
    # Positions 1 apart: a step of log(1 - p) = -1 / t must pass all 12 of them, so t is 1/12 at most.
    scores = torch.arange(12.0)[torch.randperm(12, generator=torch.Generator().manual_seed(0))][None]
    valid, counts = torch.ones(1, 12, dtype=torch.bool), torch.tensor([4])
    away = []
    for temperature in (0.5, 0.2, 0.08, 0.04):
        relaxed = relaxed_subset(scores, torch.zeros(1, 12), valid, counts, temperature)
        away.append((relaxed - (scores > 7.5).float()).abs().max().item())
        assert temperature > 0.1 or bool(((relaxed >= 0) & (relaxed <= 1 + 1e-6)).all())
    assert away == sorted(away, reverse=True) and away[0] > 0.1 and away[-1] < 1e-6


def test_permuted_positions_are_chosen_alike():
    scores, noise, valid = case()
    order = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(1))
    relaxed = relaxed_subset(scores, noise, valid, COUNTS, 0.2)
    permuted = relaxed_subset(scores[:, order], noise[:, order], valid[:, order], COUNTS, 0.2)
    torch.testing.assert_close(permuted, relaxed[:, order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_equal_scores_choose_every_position_equally_often(temperature):
    rows, width, k = 8000, 6, 2
    valid, counts = torch.ones(rows, width, dtype=torch.bool), torch.full((rows,), k)
    relaxed = relaxed_subset(torch.zeros(rows, width), noise_of(rows, width).float(), valid, counts, temperature)
    for chosen in (relaxed, hard_subset(relaxed, counts, valid).float()):
        error = chosen.std(dim=0) / math.sqrt(rows)
        assert bool(((chosen.mean(dim=0) - k / width).abs() < 4 * error).all())


def test_a_rows_result_depends_on_no_neighbour_and_no_padding():
    scores, noise, valid = case()
    relaxed = relaxed_subset(scores, noise, valid, COUNTS, 0.3)
    grads = gradient(relaxed, scores)
    for row in range(6):
        s, n = scores[row : row + 1].detach(), noise[row : row + 1]
        s = torch.nn.functional.pad(s, (0, 5), value=100.0).requires_grad_()
        n, ok = torch.nn.functional.pad(n, (0, 5)), torch.nn.functional.pad(valid[row : row + 1], (0, 5))
        alone = relaxed_subset(s, n, ok, COUNTS[row : row + 1], 0.3)
        torch.testing.assert_close(alone[0, :10], relaxed[row], rtol=1e-12, atol=1e-14)
        weight = torch.nn.functional.pad(noise_of(6, 10, 4)[row], (0, 5))
        torch.testing.assert_close(torch.autograd.grad((alone[0] * weight).sum(), s)[0][0, :10], grads[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_at_positions_that_are_not_valid_does_not_matter(garbage):
    scores, noise, valid = case()
    dirty = scores.detach().masked_fill(~valid, garbage).requires_grad_()
    clean, ours = (relaxed_subset(s, noise, valid, COUNTS, 0.3) for s in (scores, dirty))
    assert torch.equal(clean, ours)
    d_clean, d_ours = gradient(clean, scores), gradient(ours, dirty)
    assert torch.equal(d_clean, d_ours) and not d_ours[~valid].any()


def test_where_p_is_1_float32_follows_the_formula_and_the_published_form_does_not():
    # Logits 0, -30, -310: p_1 is 1 but for e^-30, so position 0 falls by 30 to -30, position 1 by log(eps) to -44.4; in the third
    # round position 0 is 10 logits above position 2, and chosen again. In float32 1 - p is 0, and log(eps) = -41.4 in the place of -30.
    scores = torch.tensor([[0.0, -3.0, -31.0]], requires_grad=True)
    arguments = (torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]), 0.1)
    last = 1 / (1 + math.exp(-10))
    ours, published = (form(scores, *arguments) for form in (relaxed_subset, published_relaxed_subset))
    assert ours[0].tolist() == pytest.approx([1 + last, 1.0, 1 - last], rel=1e-5)
    assert published[0].tolist() == [1.0, 1.0, 1.0]

    # The last round's p(1 - p) / t, of which the logarithm of e^-30 gives to position 1 what it takes from position 0 times 1 / t.
    slope = last * (1 - last) / 0.1
    weights = torch.tensor([[3.0, 0.0, 0.0]])
    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), scores)
    (published_gradient,) = torch.autograd.grad((published * weights).sum(), scores)
    assert ours_gradient[0].tolist() == pytest.approx([3 * slope * (1 - 10), 3 * slope * 10, -3 * slope], rel=1e-3)
    assert published_gradient.abs().max() < 1e-6


def test_finite_where_the_published_form_is_not():
    # Low temperature and many rounds: the true gradient is beyond float32, and autograd's inf - inf not a number.
    torch.manual_seed(0)
    scores, u, weight = 5 * torch.randn(8, 512), torch.rand(8, 512), torch.randn(8, 512)
    valid, counts = torch.ones(8, 512, dtype=torch.bool), torch.full((8,), 256)
    finite = []
    for form in (relaxed_subset, published_relaxed_subset):
        leaf = scores.clone().requires_grad_()
        result = form(leaf, gumbel(u.clamp(1e-7, 1 - 1e-6)), valid, counts, 0.002)
        finite.append(bool(torch.autograd.grad((result * weight).sum(), leaf)[0].isfinite().all()))
    assert finite == [True, False]


@pytest.mark.parametrize("temperature", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite_at_any_temperature(temperature, scale):
    scores = (scale * noise_of(3, 40, 1).float()).requires_grad_()
    relaxed = relaxed_subset(scores, noise_of(3, 40).float(), torch.ones(3, 40, dtype=torch.bool), torch.tensor([4, 20, 40]), temperature)
    assert relaxed.isfinite().all() and gradient(relaxed, scores).isfinite().all()
    assert relaxed.sum(dim=1).tolist() == pytest.approx([4, 20, 40], rel=1e-5)


def test_bf16_scores_are_sampled_in_float32_under_autocast_too():
    scores, noise, valid = case()
    low = scores.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        relaxed = relaxed_subset(low, noise.float(), valid, COUNTS, 0.3)
        option = gumbel_softmax(low, noise.float(), 0.3)
    assert relaxed.dtype == option.dtype == torch.float32 and gradient(relaxed, low).dtype == torch.bfloat16
    assert torch.equal(relaxed, relaxed_subset(low.float(), noise.float(), valid, COUNTS, 0.3))


def test_nothing_of_the_rounds_is_kept_for_the_backward_pass():
    kept = {}
    scores = noise_of(8, 64, 1).float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        relaxed_subset(scores, noise_of(8, 64).float(), torch.ones(8, 64, dtype=torch.bool), torch.full((8,), 30), 0.5)
    assert 0 < sum(t.nbytes for t in kept.values()) < 2 * scores.nbytes


def test_hard_subsets_are_the_highest_of_their_row_exactly_the_first_of_equals():
    relaxed = torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.1, 0.2, 0.9, 0.8], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    hard = hard_subset(relaxed, torch.tensor([3, 1, 2, 4]), valid)
    assert hard.int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]


@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.01])
def test_the_budget_is_exact_in_every_row_where_the_threshold_is_off(temperature):
    scores, noise = noise_of(64, 256, 1), noise_of(64, 256, 2)
    valid, counts = noise_of(64, 256, 3) > -1, torch.arange(64) % 26 + 1
    relaxed = relaxed_subset(scores, noise, valid, counts, temperature)
    assert hard_subset(relaxed, counts, valid).sum(dim=1).tolist() == counts.tolist()
    assert bool((threshold_subset(relaxed, valid).sum(dim=1) != counts).any())


def test_straight_through_is_hard_forward_and_soft_backward():
    soft = torch.tensor([[0.2, 0.7, 0.51, 0.5], [0.1, 0.3, 0.9, 2.5]], dtype=torch.float64, requires_grad=True)
    valid = torch.ones(2, 4, dtype=torch.bool)
    ours, plain = straight_through(threshold_subset(soft, valid), soft), straight_through_threshold(soft)
    assert ours.tolist() == plain.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert gradient(ours, soft).tolist() == gradient(plain, soft).tolist() == noise_of(2, 4, 4).tolist()


def test_gumbel_softmax_equals_plain_loops():
    scores, noise = noise_of(3, 5, 1).requires_grad_(), noise_of(3, 5, 2)
    ours = gumbel_softmax(scores, noise, 0.4)
    plain = torch.stack([torch.stack(loop_softmax([x / 0.4 for x in row])) for row in scores + noise])
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient(ours, scores), gradient(plain, scores), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gumbel_noise_is_finite_at_the_ends(dtype):
    ends = gumbel(torch.tensor([0.0, 1 - 2**-53], dtype=dtype))  # which float32 rounds to 1
    assert ends.isfinite().all() and ends[0] < -4 and ends[1] > 16


def test_gumbel_noise_is_gumbels():
    u = uniform(np.arange(50), 400, 0).ravel()
    np.testing.assert_allclose(gumbel(u), scipy.stats.gumbel_r.ppf(u), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gumbel(torch.from_numpy(u)).numpy(), gumbel(u), rtol=1e-12, atol=1e-13)
    assert scipy.stats.kstest(gumbel(u), "gumbel_r").pvalue > 0.01
    assert np.isfinite(gumbel(np.array([0.0, 1 - 2**-53]))).all()


def test_the_plain_mixture_by_hand():
    # An alphabet of A, B and MASK; options MASK, keep and A. Position 0 (B) is masked, half MASK and half A; position 1 (A) is not.
    shown = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    options = torch.tensor([[[0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    mixed = loop_mixed(torch.tensor([[1, 0, 1]]), torch.tensor([[1.0, 0.0, 1.0]]), options, shown)
    assert mixed[0].tolist() == [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_the_mixture_that_the_encoder_sees_equals_plain_loops_forward_and_gradients():
    tokens = torch.from_numpy(uniform(np.arange(3), 7, 5) * SIZE).long()
    m, o = torch.from_numpy(uniform(np.arange(3), 7, 6)), torch.from_numpy(uniform(np.arange(21), OPTIONS, 7)).view(3, 7, OPTIONS)
    # What an option shows, spelled out: MASK, nothing of its own to keep, then the standard residues.
    letters = [MASK, KEEP, *[encode(letter)[0] for letter in STANDARD]]
    shown = torch.zeros(OPTIONS, SIZE, dtype=torch.float64)
    for option, letter in enumerate(letters):
        shown[option, letter] = float(option != KEEP)
    m.requires_grad_(), o.requires_grad_()
    weight, found = noise_of(21, SIZE, 8).view(3, 7, SIZE), []
    for mixed in (mixed_inputs(tokens, m, o), loop_mixed(tokens, m, o, shown)):
        found.append((mixed.detach(), *torch.autograd.grad((mixed * weight).sum(), (m, o))))
    for ours, plain in zip(*found, strict=True):
        assert plain.any()
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-13)
