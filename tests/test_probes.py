"""Probes against scikit-learn called by hand, plain solutions, and what may not look at what."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from raypro.config import InputError
from raypro.evaluate import probes
from raypro.evaluate.probes import class_probes, draw_residues, iterations, logistic_probe, nearest_neighbour, value_probes

Arrays = tuple[np.ndarray, np.ndarray]


def labelled(count: int, seed: int, classes: int = 3) -> Arrays:
    """Vectors [count, 6] of different scales around a centre for each class, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(0).normal(size=(classes, 6))
    return ((centres[labels] + rng.normal(size=(count, 6))) * [1, 10, 0.1, 1, 5, 100] + 3).astype(np.float32), labels


def measured(count: int, seed: int) -> Arrays:
    x, _ = labelled(count, seed)
    rng = np.random.default_rng(seed)
    return x, x.astype(float) @ [1.0, 0.1, -5.0, 0.3, 0.0, 0.02] + 2.0 + rng.normal(size=count)


def by_hand(x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """All standardised with the mean and the standard deviation of ``x``."""
    return [(y - x.mean(axis=0)) / x.std(axis=0) for y in (x, *others)]


def test_logistic_regression_is_scikit_learns_on_standardised_vectors() -> None:
    (x, y), (v, vy), (t, _) = labelled(200, 1), labelled(80, 2), labelled(50, 3)
    xs, vs, ts = by_hand(x.astype(float), v, t)
    models = {c: LogisticRegression(C=c, max_iter=1000).fit(xs, y) for c in (1.0, 0.01, 0.0001)}
    accuracy = {c: (model.predict(vs) == vy).mean() for c, model in models.items()}
    best = max(accuracy, key=lambda c: accuracy[c])
    probe = logistic_probe(x, y, v, vy, 3)
    assert probe.tried == {f"C = {c:g}": pytest.approx(a) for c, a in accuracy.items()} and probe.setting == f"C = {best:g}"
    np.testing.assert_allclose(probe.predict(t), models[best].predict_proba(ts), atol=2e-3)
    assert not probe.note


def test_neighbours_vote_as_scikit_learns_do() -> None:
    (x, y), (v, vy), (t, _) = labelled(200, 1), labelled(80, 2), labelled(50, 3)
    xs, vs, ts = by_hand(x.astype(float), v, t)
    models = {k: KNeighborsClassifier(k).fit(xs, y) for k in (1, 5, 10)}
    accuracy = {k: model.score(vs, vy) for k, model in models.items()}
    best = max(accuracy, key=lambda k: accuracy[k])
    _, probe = class_probes(x, y, v, vy, 3)
    assert probe.tried == {f"k = {k}": pytest.approx(a) for k, a in accuracy.items()} and probe.setting == f"k = {best}"
    np.testing.assert_allclose(probe.predict(t), models[best].predict_proba(ts), atol=1e-6)


def test_regression_is_least_squares_and_the_mean_of_neighbours() -> None:
    (x, y), (v, vy), (t, _) = measured(150, 1), measured(60, 2), measured(40, 3)
    linear, near = value_probes(x, y, v, vy)
    design = np.column_stack([x.astype(float), np.ones(len(x))])
    weights = np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(linear.predict(t), np.column_stack([t, np.ones(len(t))]) @ weights, atol=1e-4)
    np.testing.assert_allclose(linear.predict(t), LinearRegression().fit(x.astype(float), y).predict(t.astype(float)), atol=1e-4)
    xs, vs, ts = by_hand(x.astype(float), v, t)
    models = {k: KNeighborsRegressor(k).fit(xs, y) for k in (1, 5, 10)}
    rho = {k: spearmanr(model.predict(vs), vy)[0] for k, model in models.items()}
    best = max(rho, key=lambda k: rho[k])
    assert near.tried == {f"k = {k}": pytest.approx(r) for k, r in rho.items()} and near.setting == f"k = {best}"
    np.testing.assert_allclose(near.predict(t), models[best].predict(ts), atol=1e-5)


def test_collinear_vectors_are_fitted_all_the_same() -> None:
    """Shares sum to one: least squares has many solutions, which predict alike."""
    shares = np.random.default_rng(0).dirichlet(np.ones(5), 60).astype(np.float32)
    values = shares @ np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    linear, _ = value_probes(shares, values, shares, values)
    np.testing.assert_allclose(linear.predict(shares), values, atol=1e-5)


def test_dimensions_that_hardly_differ_are_told_apart() -> None:
    """The value is what two float32 numbers differ by in their last bits; arithmetic in float32 would lose it."""
    rng = np.random.default_rng(0)
    one = rng.uniform(0.5, 1.0, 60).astype(np.float32)
    other = (one + 1e-6 * rng.normal(size=60)).astype(np.float32)
    vectors, values = np.stack([one, other], axis=1), 1e6 * (other.astype(float) - one)
    linear, _ = value_probes(vectors, values, vectors, values)
    np.testing.assert_allclose(linear.predict(vectors), values, atol=1e-3)


def test_standardising_takes_the_training_vectors_statistics() -> None:
    """Queries that lie far away are not brought back: the nearest neighbour differs from that of queries standardised by themselves."""
    train, queries = np.array([[0.0, 0.0], [1.0, 10.0]]), np.array([[5.0, 50.0], [6.0, 60.0]])
    assert nearest_neighbour(train, np.array([7, 9]), queries).tolist() == [9, 9]


def test_a_dimension_of_large_numbers_does_not_rule_the_distances() -> None:
    """Worked by hand: by raw distance the query (1, 40) is next to (0, 0); over standard deviations of 0.5 and 50 to (1, 100)."""
    train = np.array([[0.0, 0.0], [1.0, 100.0]])
    assert nearest_neighbour(train, np.array([0, 1]), np.array([[1.0, 40.0]])).tolist() == [1]
    assert np.linalg.norm(train - [1.0, 40.0], axis=1).argmin() == 0


def test_sparse_vectors_give_what_dense_unscaled_ones_give() -> None:
    rng = np.random.default_rng(0)
    x, v = (rng.integers(0, 2, (n, 8)).astype(float) for n in (120, 50))
    y, vy = (np.where(z[:, 0] > 0, 2, z[:, 1]).astype(int) for z in (x, v))
    logistic, near = class_probes(csr_matrix(x), y, csr_matrix(v), vy, 3)
    c = float(logistic.setting.split()[-1])
    expected = LogisticRegression(C=c, max_iter=1000).fit(x, y).predict_proba(v)
    np.testing.assert_allclose(logistic.predict(csr_matrix(v)), expected, atol=2e-3)
    assert logistic.tried[logistic.setting] == 1.0 and max(near.tried.values()) > 0.6
    linear, _ = value_probes(csr_matrix(x), y.astype(float), csr_matrix(v), vy.astype(float))
    np.testing.assert_allclose(linear.predict(csr_matrix(v)), LinearRegression().fit(x, y).predict(v), atol=1e-4)


def test_validation_alone_chooses() -> None:
    """Labels of validation that contradict training prefer the setting that follows training least."""
    x, y = labelled(200, 1, classes=2)
    agreeing = logistic_probe(x, y, x, y, 2)
    majority = np.bincount(y).argmax()
    contradicting = logistic_probe(x, y, x, np.where(y == majority, y, majority), 2)
    assert agreeing.setting != contradicting.setting == "C = 0.0001"


def test_of_equally_good_settings_the_first_is_taken() -> None:
    x, y = np.array([[0.0], [1.0]] * 20), np.array([0, 1] * 20)
    logistic, near = class_probes(x, y, x, y, 2)
    assert (logistic.setting, near.setting) == ("C = 1", "k = 1") and set(logistic.tried.values()) == {1.0}


def test_a_class_without_training_vectors_has_a_place_and_no_score() -> None:
    x, y = labelled(60, 1)
    for probe in class_probes(x, np.where(y == 1, 3, y), x, np.where(y == 1, 1, y), 5):
        scores = probe.predict(x)
        assert scores.shape == (60, 5) and not scores[:, [1, 4]].any()
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


def test_few_training_vectors_limit_the_neighbours() -> None:
    x, y = labelled(7, 1, classes=2)
    _, near = class_probes(x, np.arange(7) % 2, x, y, 2)
    assert set(near.tried) == {"k = 1", "k = 5"}


def test_one_class_is_one_line() -> None:
    x, _ = labelled(20, 1)
    with pytest.raises(InputError, match="one class"):
        class_probes(x, np.zeros(20, int), x, np.zeros(20, int), 2)


def test_a_fit_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "WORK", 0)
    monkeypatch.setattr(probes, "LEAST_ITERATIONS", 1)
    x, y = labelled(100, 1)
    assert "not converged after 1 iterations" in logistic_probe(x, y, x, y, 3).note


def test_iterations_are_bounded_by_the_work_of_one() -> None:
    assert iterations(12_312, 512, 1_195) == 58  # 34 GFLOP each
    assert iterations(100, 10, 2) == 1000 and iterations(10**7, 10**4, 10**4) == 10


def test_residues_drawn_are_scored_ones() -> None:
    labels = [np.array([0, -1, 2, 1]), np.array([-1, -1]), np.array([1] * 50)]
    assert [places.tolist() for places in draw_residues(labels, 53)] == [[0, 2, 3], [], list(range(50))]
    some = draw_residues(labels, 20, seed=1)
    assert sum(map(len, some)) == 20 and len(some[1]) == 0 and set(some[0]) <= {0, 2, 3}
    assert all((np.diff(places) > 0).all() for places in some)
    assert [p.tolist() for p in draw_residues(labels, 20, seed=1)] == [p.tolist() for p in some]
    assert [p.tolist() for p in draw_residues(labels, 20, seed=2)] != [p.tolist() for p in some]
    assert draw_residues([], 5) == []


def test_scaling_is_scikit_learns() -> None:
    """Neighbours of vectors as they are, are those of scikit-learn's scaler and of its search; unscaled ones differ."""
    (x, y), (t, _) = labelled(50, 1, classes=5), labelled(40, 2)
    scaler = StandardScaler().fit(x)
    one = KNeighborsClassifier(1).fit(scaler.transform(x), y).predict(scaler.transform(t))
    assert nearest_neighbour(x, y, t).tolist() == one.tolist() != KNeighborsClassifier(1).fit(x, y).predict(t).tolist()
