"""Baselines against plain solutions, by hand, and on real proteins."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from raypro.core.alphabet import STANDARD
from raypro.evaluate import baselines
from raypro.evaluate.baselines import TYPES, class_frequencies, mean_baseline, one_hot, residue_type_classes, ridge_one_hot
from raypro.evaluate.metrics import classification_metrics, regression_metrics
from tests.small import random_sequences


def test_one_hot_by_hand() -> None:
    """Two positions: A and C are types 0 and 1, X is the last, lower case is the same residue; what is beyond is not looked at."""
    matrix = one_hot(["AC", "X", "cAY", ""], 2).toarray()
    expected = np.zeros((4, 2 * TYPES))
    expected[0, 0] = expected[0, TYPES + 1] = expected[1, TYPES - 1] = expected[2, 1] = expected[2, TYPES] = 1
    np.testing.assert_array_equal(matrix, expected)


def linear_data(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Random proteins of 4 to 9 residues and a value that residues add to, each by its type and position, with noise."""
    weights = np.random.default_rng(0).normal(size=(9, len(STANDARD)))
    sequences = random_sequences(count, 4, 9, seed=seed)
    values = [sum(weights[p, STANDARD.index(a)] for p, a in enumerate(s)) for s in sequences]
    return sequences, np.array(values) + 0.5 * np.random.default_rng(seed).normal(size=count)


@pytest.mark.parametrize("alpha", [0.1, 30.0])
def test_ridge_solves_the_normal_equations(alpha: float) -> None:
    """(X'X + alpha I) w = X'y of centred X and y, solved in full, predicts the same."""
    (train, y), (valid, y_valid) = linear_data(150, 1), linear_data(40, 2)
    found = ridge_one_hot(train, y, valid, y_valid, alphas=[alpha])
    x = one_hot(train, 9).toarray()
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    expected = (one_hot(valid, 9).toarray() - x.mean(axis=0)) @ weights + y.mean()
    np.testing.assert_allclose(found(valid), expected, atol=2e-3)
    assert found.valid_spearman == pytest.approx(regression_metrics(expected, y_valid)["spearman"], abs=2e-3)


def test_ridge_takes_the_penalty_that_validation_ranks_best() -> None:
    (train, y), (valid, y_valid) = linear_data(300, 3), linear_data(100, 4)
    alone = {alpha: ridge_one_hot(train, y, valid, y_valid, alphas=[alpha]).valid_spearman for alpha in (1e-3, 1.0, 1e5)}
    chosen = ridge_one_hot(train, y, valid, y_valid, alphas=tuple(alone))
    assert chosen.valid_spearman == max(alone.values()) == alone[chosen.alpha] > 0.8
    assert len({round(rho, 3) for rho in alone.values()}) > 1


def test_ridge_takes_sequences_of_any_length() -> None:
    (train, y), (valid, y_valid) = linear_data(100, 5), linear_data(30, 6)
    model = ridge_one_hot(train, y, valid, y_valid)
    longest = max(map(len, train))
    predicted = model([valid[0] + "W" * longest, (valid[0] + "W" * longest)[:longest], "M"])
    assert predicted[0] == predicted[1] and np.isfinite(predicted).all()


def test_long_proteins_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "POSITIONS", 3)
    train, y = linear_data(50, 7)
    model = ridge_one_hot(train, y, train, y)
    assert len(model.coefficients) == 3 * TYPES and model([train[0]]) == model([train[0][:3]])


def test_a_label_that_is_constant_is_predicted() -> None:
    train, _ = linear_data(20, 8)
    np.testing.assert_allclose(ridge_one_hot(train, np.full(20, 2.5), train, np.full(20, 2.5))(train), 2.5)


def test_the_mean_ranks_nothing_and_has_the_variance_as_its_error() -> None:
    labels = np.array([1.0, 2.0, 6.0])
    found = regression_metrics(mean_baseline(labels)(["A", "C", "D"]), labels)
    assert found["spearman"] == 0.0 and found["mse"] == pytest.approx(labels.var())


def test_class_frequencies_score_the_majority_class_first() -> None:
    frequencies = class_frequencies(np.array([2, 0, 2, 1]), 4)
    assert frequencies.tolist() == [0.25, 0.25, 0.5, 0.0]
    found = classification_metrics(np.stack([frequencies] * 3), np.array([2, 2, 0]))
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_residue_type_classes_by_hand() -> None:
    """A is mostly 1, C a tie of 0 and 2, W never scored; 1 is the majority."""
    labels = [np.array([1, 1, 0, -1]), np.array([0, 2, 1])]
    of_type, majority = residue_type_classes(["AAAW", "CCA"], labels, 3)
    assert majority == 1 and of_type("ACWaYV").tolist() == [1, 0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="labels"):
        residue_type_classes(["AAA"], [np.array([1, 1])], 3)


@pytest.mark.slow
def test_ridge_on_stability_is_what_is_known(shared_data: Path) -> None:
    """TAPE's split: rho 0.57 on validation, 0.49 on test."""

    def read(split: str) -> tuple[list[str], np.ndarray]:
        with gzip.open(shared_data / "tape" / f"stability.{split}.csv.gz", "rt") as file:
            rows = list(csv.DictReader(file))
        return [row["sequence"] for row in rows], np.array([float(row["label"]) for row in rows])

    test, y_test = read("test")
    model = ridge_one_hot(*read("train"), *read("valid"))
    assert model.valid_spearman == pytest.approx(0.57, abs=0.01)
    assert regression_metrics(model(test), y_test)["spearman"] == pytest.approx(0.49, abs=0.015)
