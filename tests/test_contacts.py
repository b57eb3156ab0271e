"""Contact metrics against hand-worked cases and a naive reference."""

import math

import numpy as np
import pytest

from raypro.evaluate.contacts import RANGES, apc, average_metrics, contact_precision, pooled_precision, tape_code_counts


def symmetric(length: int, pairs: dict[tuple[int, int], float], dtype: type = float) -> np.ndarray:
    """Return a symmetric [length, length] map with the given entries."""
    out = np.zeros((length, length), dtype=dtype)
    for (i, j), value in pairs.items():
        out[i, j] = out[j, i] = value
    return out


def test_precision_by_hand() -> None:
    """Ten residues: L/5 = 2 and L/2 = 5 best of the ten pairs at separations 6 to 9, of which three are contacts."""
    truth = symmetric(10, {(0, 6): 1, (1, 8): 1, (0, 9): 1, (0, 1): 1}, bool)
    scores = symmetric(10, {(0, 1): 9.0, (0, 6): 5.0, (2, 8): 4.0, (1, 8): 3.0, (3, 9): 2.0, (0, 7): 1.0})
    metrics = contact_precision(scores, truth)
    assert metrics["contacts/P_at_L5_short"] == 1 / 2
    assert metrics["contacts/P_at_L2_short"] == 2 / 5
    assert metrics["contacts/P_at_L_short"] == 3 / 10
    assert metrics["contacts/random_precision_short"] == 3 / 10
    assert metrics["contacts/P_at_L5_all"] == 1 / 2
    for name in ("medium", "long", "medium_long"):
        assert math.isnan(metrics[f"contacts/P_at_L5_{name}"])
        assert math.isnan(metrics[f"contacts/random_precision_{name}"])


def test_zero_is_not_nan() -> None:
    """A range with candidates and no contacts has precision 0."""
    metrics = contact_precision(np.zeros((10, 10)), np.zeros((10, 10), dtype=bool))
    assert metrics["contacts/P_at_L5_short"] == 0.0 and metrics["contacts/random_precision_short"] == 0.0


def test_unresolved_residues_count_neither_as_candidates_nor_in_length() -> None:
    """Residues 10 to 14 are unresolved: the best-scored pairs touch them and must not be taken; L is 10."""
    truth = symmetric(15, {(0, 6): 1, (1, 12): 1}, bool)
    scores = symmetric(15, {(1, 12): 9.0, (2, 14): 8.0, (0, 6): 5.0, (1, 7): 4.0})
    resolved = np.arange(15) < 10
    metrics = contact_precision(scores, truth, resolved=resolved)
    assert metrics["contacts/P_at_L5_short"] == 1 / 2
    assert metrics["contacts/random_precision_short"] == 1 / 10
    assert contact_precision(scores, truth)["contacts/P_at_L5_short"] == 2 / 3


def test_separations_count_unresolved_residues() -> None:
    """A pair at separation 12 is medium even where the residues between have no coordinates."""
    resolved = np.zeros(13, dtype=bool)
    resolved[[0, 12]] = True
    metrics = contact_precision(np.zeros((13, 13)), symmetric(13, {(0, 12): 1}, bool), resolved=resolved)
    assert metrics["contacts/P_at_L_medium"] == 1.0 and math.isnan(metrics["contacts/P_at_L_short"])


def test_unscored_pairs_are_no_candidates() -> None:
    """Pairs outside ``scored`` are left out, and those without a score rank last."""
    truth = symmetric(8, {(0, 6): 1}, bool)
    scores = symmetric(8, {(0, 6): 1.0, (1, 7): 2.0})
    assert contact_precision(scores, truth)["contacts/P_at_L5_short"] == 0.0
    scored = ~symmetric(8, {(1, 7): 1}, bool)
    assert contact_precision(scores, truth, scored=scored)["contacts/P_at_L5_short"] == 1.0
    assert contact_precision(symmetric(8, {(0, 6): 1.0, (1, 7): np.nan}), truth)["contacts/P_at_L5_short"] == 1.0


def test_ties_rank_by_position() -> None:
    """Equal scores are taken in the order (i, j)."""
    first, second = symmetric(8, {(0, 6): 1}, bool), symmetric(8, {(0, 7): 1}, bool)
    assert contact_precision(np.ones((8, 8)), first)["contacts/P_at_L5_short"] == 1.0
    assert contact_precision(np.ones((8, 8)), second)["contacts/P_at_L5_short"] == 0.0


def test_ranges_are_those_of_the_field() -> None:
    """Every separation from 6 is in exactly one of short, medium and long; both wide ranges join them."""
    for separation in range(1, 60):
        inside = {name for name, (least, greatest) in RANGES.items() if least <= separation <= greatest}
        expected = "short" if separation < 12 else "medium" if separation < 24 else "long"
        wide = {"all"} | ({"medium_long"} if separation >= 12 else set())
        assert inside == ({expected} | wide if separation >= 6 else set())


def naive_precision(scores: np.ndarray, truth: np.ndarray, resolved: np.ndarray, least: float, greatest: float, divisor: int) -> float:
    """Return the precision in plain loops."""
    pairs = []
    for i in range(len(scores)):
        for j in range(i + 1, len(scores)):
            if resolved[i] and resolved[j] and least <= j - i <= greatest:
                pairs.append((-scores[i, j], i, j))
    taken = sorted(pairs)[: max(1, int(resolved.sum()) // divisor)]
    return sum(bool(truth[i, j]) for _, i, j in taken) / len(taken) if taken else math.nan


@pytest.mark.parametrize("length", [7, 25, 61])
def test_precision_equals_plain_loops(length: int) -> None:
    """All ranges and depths, random maps with ties and unresolved residues."""
    rng = np.random.default_rng(length)
    scores = rng.integers(0, 20, (length, length)).astype(float)
    scores = scores + scores.T
    truth = rng.random((length, length)) < 0.2
    truth = truth | truth.T
    resolved = rng.random(length) < 0.8
    metrics = contact_precision(scores, truth, resolved=resolved)
    for name, bounds in RANGES.items():
        for depth, divisor in (("L", 1), ("L2", 2), ("L5", 5)):
            expected = naive_precision(scores, truth, resolved, *bounds, divisor)
            np.testing.assert_equal(metrics[f"contacts/P_at_{depth}_{name}"], expected)


def test_precision_refuses_shapes_that_do_not_fit() -> None:
    """A truth for another chain is an error, not a number."""
    with pytest.raises(ValueError, match="truth"):
        contact_precision(np.zeros((8, 8)), np.zeros((9, 9), dtype=bool))


def test_apc_by_hand() -> None:
    """Three residues: row means 1.5, 2, 2.5 and mean 2."""
    corrected = apc(symmetric(3, {(0, 1): 1.0, (0, 2): 2.0, (1, 2): 3.0}))
    np.testing.assert_allclose(corrected, symmetric(3, {(0, 1): 1 - 1.5, (0, 2): 2 - 1.875, (1, 2): 3 - 2.5}))


def test_apc_removes_what_single_residues_explain() -> None:
    """A map that is a product of residue terms, but for one pair, leaves that pair on top."""
    weights = np.linspace(1.0, 5.0, 30)
    scores = np.outer(weights, weights)
    scores[3, 12] += 4.0
    scores[12, 3] += 4.0
    corrected = apc(scores)
    assert np.unravel_index(np.argmax(corrected), corrected.shape) == (3, 12)
    np.testing.assert_allclose(corrected, corrected.T)
    assert (np.diag(corrected) == 0).all()


def test_apc_leaves_out_what_is_unknown() -> None:
    """A row of NaN changes nothing for the others; a map of zeros stays zero."""
    rng = np.random.default_rng(0)
    scores = rng.random((6, 6))
    scores = scores + scores.T
    wider = np.full((7, 7), np.nan)
    wider[:6, :6] = scores
    np.testing.assert_allclose(apc(wider)[:6, :6], apc(scores))
    assert np.isnan(apc(wider)[6, :6]).all()
    assert (apc(np.zeros((4, 4))) == 0).all()


def test_average_leaves_out_nan() -> None:
    """Means over families, NaN only where every family has it."""
    averages = average_metrics([{"a": 1.0, "b": math.nan, "c": math.nan}, {"a": 0.0, "b": 0.5, "c": math.nan}])
    assert averages["a"] == 0.5 and averages["b"] == 0.5 and math.isnan(averages["c"])


def test_tape_code_by_hand() -> None:
    """Fifteen residues, 10 to 14 unresolved: three pairs are taken, L counting all; one of separation 5 and an unresolved one are not."""
    truth = symmetric(15, {(0, 6): 1, (1, 8): 1, (0, 5): 1, (0, 12): 1}, bool)
    scores = symmetric(15, {(0, 5): 9.0, (0, 12): 8.0, (0, 6): 7.0, (2, 9): 6.0, (1, 8): 5.0, (0, 7): 4.0})
    resolved = np.arange(15) < 10
    assert tape_code_counts(scores, truth, resolved) == (2, 3)
    assert tape_code_counts(scores, truth) == (2, 3)  # (0, 12), (0, 6) and (2, 9)
    # L of the resolved residues would take two: that is the other convention.
    assert contact_precision(scores, truth, resolved=resolved)["contacts/P_at_L5_all"] == 1 / 2


def naive_tape_code(scores: np.ndarray, truth: np.ndarray, resolved: np.ndarray) -> tuple[int, int]:
    """Return the counts as the released code has them: one flat list of all L x L entries, masked ones 0, the best L // 5."""
    length = len(scores)
    flat = []
    for x in range(length):
        for y in range(length):
            valid = resolved[x] and resolved[y] and y - x >= 6
            flat.append((-scores[x, y] if valid else 0.0, x, y))
    taken = sorted(flat)[: length // 5]
    return sum(bool(truth[x, y]) for _, x, y in taken), len(taken)


@pytest.mark.parametrize("length", [30, 64])
def test_tape_code_equals_plain_loops(length: int) -> None:
    """Probabilities that are all different, unresolved residues."""
    rng = np.random.default_rng(length)
    scores = rng.random((length, length))
    scores = scores + scores.T
    truth = rng.random((length, length)) < 0.3
    truth = truth | truth.T
    resolved = rng.random(length) < 0.9
    assert tape_code_counts(scores, truth, resolved) == naive_tape_code(scores, truth, resolved)


def test_tape_code_pools_over_proteins() -> None:
    """One of two and eight of ten are 9/12, where the mean of the precisions is 0.65; short proteins take nothing."""
    assert pooled_precision([(1, 2), (8, 10)]) == {"contacts/P_at_L5_tape_code": 9 / 12}
    assert tape_code_counts(np.ones((4, 4)), np.ones((4, 4), dtype=bool)) == (0, 0)
    assert tape_code_counts(np.ones((7, 7)), np.ones((7, 7), dtype=bool)) == (1, 1)
    assert math.isnan(pooled_precision([(0, 0)])["contacts/P_at_L5_tape_code"])
    assert math.isnan(pooled_precision([])["contacts/P_at_L5_tape_code"])


def test_tape_code_takes_no_more_than_there_are_candidates() -> None:
    """Twenty residues, two of them resolved: one candidate for four places."""
    resolved = np.isin(np.arange(20), (2, 15))
    assert tape_code_counts(np.ones((20, 20)), symmetric(20, {(2, 15): 1}, bool), resolved) == (1, 1)
