"""The tasks' metrics against hand-worked cases, scipy and scikit-learn, and intervals against the plain bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from raypro.evaluate.metrics import (
    bootstrap,
    classification_intervals,
    classification_metrics,
    confusion_matrix,
    correlation,
    f1_scores,
    groups,
    ranks,
    regression_intervals,
    regression_metrics,
    residue_confusion,
    residue_intervals,
    residue_metrics,
)

NAN = float("nan")


def test_regression_by_hand() -> None:
    """Ranks 1 2 3 4 against 2 1 3 4: rho = 1 - 6 (1 + 1) / (4 * 15)."""
    found = regression_metrics(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 3.0, 6.0]))
    assert found["spearman"] == pytest.approx(0.8)
    assert found["mse"] == pytest.approx((1 + 1 + 0 + 4) / 4) and found["mae"] == pytest.approx(1.0)
    # deviations -1.5 -0.5 0.5 1.5 and -1 -2 0 3: 7 / sqrt(5 * 14)
    assert found["pearson"] == pytest.approx(7 / math.sqrt(70))


def test_ties_share_their_mean_rank() -> None:
    assert ranks(groups(np.array([5.0, 2.0, 5.0, 9.0, 5.0]))).tolist() == [3.0, 1.0, 3.0, 5.0, 3.0]


@pytest.mark.parametrize("distinct", [2, 7, 1000])
def test_regression_agrees_with_scipy_and_scikit_learn(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    predicted = rng.integers(0, distinct, 300) / 7
    measured = 0.3 * predicted + rng.integers(0, distinct, 300) / 3
    found = regression_metrics(predicted, measured)
    assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, measured).statistic, abs=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, measured).statistic, abs=1e-12)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(measured, predicted), rel=1e-12)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(measured, predicted), rel=1e-12)


def test_a_constant_ranks_nothing() -> None:
    for predicted, measured in (([0.1] * 3, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [0.1] * 3), ([4.0], [1.0])):
        found = regression_metrics(np.array(predicted), np.array(measured))
        assert found["spearman"] == 0.0 and found["pearson"] == 0.0 and found["mse"] > 0


def test_only_the_order_matters_to_spearman() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert regression_metrics(np.exp(x), y)["spearman"] == regression_metrics(x, y)["spearman"]
    assert regression_metrics(x, np.exp(x))["spearman"] == pytest.approx(1.0, abs=1e-15)
    assert regression_metrics(-x, x)["spearman"] == pytest.approx(-1.0, abs=1e-15)


def test_correlation_of_very_large_and_very_small_values() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    assert correlation(1e200 * x, 1e-200 * y) == pytest.approx(correlation(x, y), rel=1e-12)


def test_regression_of_nothing_and_of_nan_is_nan() -> None:
    for predicted, measured in (([], []), ([1.0, NAN], [1.0, 2.0]), ([1.0, 2.0], [NAN, 2.0])):
        assert all(math.isnan(x) for x in regression_metrics(np.array(predicted), np.array(measured)).values())
        intervals = regression_intervals(np.array(predicted), np.array(measured))
        assert set(intervals) == {"spearman", "mse"} and all(math.isnan(x) for pair in intervals.values() for x in pair)


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((3, 1), (3, 1)), ((3, 1), (3,))])
def test_regression_refuses_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="predicted"):
        regression_metrics(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_classification_by_hand() -> None:
    """Twelve classes, scored 12 down to 1: class c is at place c. Labels 0, 0, 9, 10: top-1 2/4, top-10 3/4."""
    scores = np.tile(np.arange(12, 0, -1.0), (4, 1))
    found = classification_metrics(scores, np.array([0, 0, 9, 10]))
    assert found["accuracy"] == 0.5 and found["top10_accuracy"] == 0.75
    # class 0: 2 * 2 / (2 + 4); classes 9 and 10: 0; the others neither are true nor predicted
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_equal_scores_rank_by_class_number() -> None:
    scores, labels = np.zeros((12, 12)), np.arange(12)
    found = classification_metrics(scores, labels)
    assert found["accuracy"] == 1 / 12 and found["top10_accuracy"] == 10 / 12
    assert found["accuracy"] == (scores.argmax(axis=1) == labels).mean()


def test_scores_that_are_nan_never_hit() -> None:
    scores = np.array([[NAN, NAN, NAN], [NAN, 0.1, 0.2], [0.5, NAN, 0.1]])
    assert classification_metrics(scores, np.array([0, 2, 0]))["accuracy"] == pytest.approx(2 / 3)
    assert classification_metrics(scores, np.array([0, 0, 1]))["accuracy"] == 0.0


@pytest.mark.parametrize("classes", [3, 11, 40])
def test_classification_agrees_with_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    scores, labels = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
    scores[np.arange(200), labels] += 1.0
    found = classification_metrics(scores, labels)
    assert found["accuracy"] == sk.accuracy_score(labels, scores.argmax(axis=1))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, scores.argmax(axis=1), average="macro"), rel=1e-12)
    expected = {"top10_accuracy": sk.top_k_accuracy_score(labels, scores, k=10, labels=np.arange(classes))} if classes > 10 else {}
    assert {k: v for k, v in found.items() if k.startswith("top")} == pytest.approx(expected)


def test_confusion_rows_are_true_classes() -> None:
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 5, 100), rng.integers(0, 4, 100)
    matrix = confusion_matrix(predicted, labels, 6)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(labels, predicted, labels=np.arange(6)))
    assert confusion_matrix(np.array([2]), np.array([0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_f1_is_nan_for_a_class_that_never_occurs_and_0_for_one_never_right() -> None:
    """Class 0: 3 hits of 4 true and 4 predicted; 1: predicted once, never true; 2: true once, never predicted; 3: nowhere."""
    f1 = f1_scores(np.array([[3, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_equal(f1, [0.75, 0.0, 0.0, NAN])


@pytest.mark.parametrize(("predicted", "labels"), [([0, 3], [0, 1]), ([0, 1], [-1, 1]), ([0], [0, 1])])
def test_numbers_that_are_no_class_are_refused(predicted: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="predicted|labels"):
        confusion_matrix(np.array(predicted), np.array(labels), 3)


def test_classification_refuses_what_does_not_fit() -> None:
    for scores, labels in ((np.zeros((2, 3)), [0, 3]), (np.zeros((2, 3)), [0, -1]), (np.zeros((2, 3)), [0]), (np.zeros(3), [0, 1, 2])):
        with pytest.raises(ValueError, match="labels"):
            classification_metrics(scores, np.array(labels))


def test_residues_by_hand() -> None:
    """Five residues are scored, three right; unscored ones count nowhere, whatever is predicted there."""
    predicted = [np.array([0, 0, 1, 2]), np.array([1, 1, 1])]
    labels = [np.array([0, 1, 1, -1]), np.array([-1, 1, 0])]
    found = residue_metrics(predicted, labels, "HEC")
    assert found["accuracy"] == 3 / 5
    assert found["f1_H"] == pytest.approx(2 * 1 / (2 + 2)) and found["f1_E"] == pytest.approx(2 * 2 / (3 + 3)) and math.isnan(found["f1_C"])
    assert residue_confusion(predicted, labels, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_residue_accuracy_is_over_residues_not_over_proteins() -> None:
    """One right residue of one, none of nine: 1/10, where the mean over proteins would be 1/2."""
    assert residue_metrics([np.array([0]), np.zeros(9, int)], [np.array([0]), np.ones(9, int)], "ab")["accuracy"] == 1 / 10


def test_residues_where_none_is_scored_are_nan() -> None:
    for labels in ([], [np.full(3, -1)]):
        found = residue_metrics([np.zeros(len(x), int) for x in labels], labels, "ab")
        assert all(math.isnan(x) for x in found.values())
        assert all(math.isnan(x) for x in residue_intervals([np.zeros(len(x), int) for x in labels], labels)["accuracy"])


def test_residues_of_another_length_are_refused() -> None:
    for function in (lambda p, y: residue_metrics(p, y, "ab"), residue_intervals):
        with pytest.raises(ValueError, match="predicted"):
            function([np.zeros(2, int), np.zeros(3, int)], [np.zeros(3, int), np.zeros(2, int)])


def test_interval_of_spearman_is_that_of_plain_resampling() -> None:
    """Resamples ranked by their groups are those that scipy ranks anew, ties and all."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 60).astype(float)
    y = x + rng.integers(0, 9, 60)
    draw = np.random.default_rng(5)
    plain = [stats.spearmanr(x[index], y[index]).statistic for index in (draw.integers(0, 60, 60) for _ in range(200))]
    found = regression_intervals(x, y, resamples=200, seed=5)["spearman"]
    assert found == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=1e-12)


def test_interval_of_a_mean_is_that_of_theory() -> None:
    """Of 4,000 values the mean is normal: 1.96 standard errors to either side."""
    values = np.random.default_rng(1).exponential(size=4000)
    low, high = bootstrap(lambda index: float(values[index].mean()), 4000, resamples=2000)
    error = values.std() / math.sqrt(4000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    """The accuracy of 200 proteins, one in four right: about 95 of 100 intervals hold 0.25."""
    rng = np.random.default_rng(2)
    held = 0
    for repeat in range(100):
        scores = np.eye(2)[(rng.random(200) < 0.25).astype(int)]
        low, high = classification_intervals(scores, np.ones(200, int), resamples=200, seed=repeat)["accuracy"]
        held += low <= 0.25 <= high
    assert 88 <= held <= 99


def test_residues_of_one_protein_are_drawn_together() -> None:
    """Ten proteins wholly right, ten wholly wrong: as unsure as 20 coins, not as 2,000."""
    predicted = [np.full(100, i % 2) for i in range(20)]
    low, high = residue_intervals(predicted, [np.zeros(100, int)] * 20)["accuracy"]
    assert low <= 0.35 and high >= 0.65


def test_intervals_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 40))
    assert regression_intervals(x, y, seed=1) == regression_intervals(x, y, seed=1) != regression_intervals(x, y, seed=2)


def test_one_sequence_has_no_interval_and_nan_resamples_are_left_out() -> None:
    assert all(math.isnan(x) for x in bootstrap(lambda index: 1.0, 1))
    assert all(math.isnan(x) for x in bootstrap(lambda index: NAN, 5))
    assert bootstrap(lambda index: NAN if (index == 0).any() else 2.0, 3) == (2.0, 2.0)
    assert set(classification_intervals(np.eye(12), np.arange(12))) == {"accuracy", "top10_accuracy"}
    assert set(classification_intervals(np.eye(3), np.arange(3))) == {"accuracy"}
