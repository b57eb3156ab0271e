"""Probes: how much of a task a simple model reads out of vectors that stay as they are (Lu et al. 2020, section 4; Rao et al. 2019).

Logistic or linear regression shows what is linear in the vectors, the nearest neighbours what their distances say. What may be
chosen (C, k) is chosen on the validation split; a test split is not among the arguments of anything that fits or chooses here.

Dense vectors are standardised with the mean and the standard deviation of the training vectors; sparse ones, which are one-hot and
have one scale, are left as they are. Distances are Euclidean. scikit-learn is imported by the functions that fit: it takes more
than a second, and what reads this module mostly fits nothing.

Legend: N sequences (or residues), D dimension of a vector, C classes.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from raypro.config import InputError
from raypro.evaluate.metrics import classification_metrics, regression_metrics

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Vectors = NDArray[np.floating] | csr_matrix
Predict = Callable[[Vectors], NDArray[np.floating]]

PENALTIES: tuple[float, ...] = (1.0, 0.01, 0.0001)
"""C of the logistic regressions that are tried: the smaller, the more regularised."""
NEIGHBOURS: tuple[int, ...] = (1, 5, 10)
"""Numbers of neighbours that are tried."""
WORK = 2e12
"""Most arithmetic of one logistic regression, in floating-point operations: a minute or two on two cores."""
SOFTMAX = 64
"""A probability costs about as much as so many dimensions."""
LEAST_ITERATIONS, MOST_ITERATIONS = 10, 1000
DISTANCES_MB = 128
"""Most memory of the distances that are computed at once where vectors are sparse; their order takes as much again."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe, of several settings the one that validation prefers."""

    method: str
    """What kind of probe it is."""
    setting: str
    """What was chosen, as ``C = 0.01``; empty where there was no choice."""
    tried: dict[str, float]
    """Accuracy or Spearman's rho on validation of every setting that was tried."""
    note: str
    """What a person should know of the fit; empty as a rule."""
    predict: Predict
    """Vectors [N, D] to scores [N, C] of the classes, or to values [N]."""


@dataclass(frozen=True)
class _Candidate:
    setting: str
    predict: Predict
    note: str = ""


def class_probes(
    train: Vectors, labels: NDArray[np.integer], valid: Vectors, valid_labels: NDArray[np.integer], classes: int
) -> list[Probe]:
    """Return a logistic regression and nearest neighbours, each fitted for all settings and the best on validation taken.

    Args:
        train: [N, D] vectors that are fitted.
        labels: [N] their classes, 0 to ``classes`` - 1.
        valid: vectors by which settings are chosen.
        valid_labels: their classes.
        classes: C; one that has no training vector is never predicted.

    Raises:
        InputError: the training vectors are not of two classes at least.
    """
    near = _neighbour_classes(train, labels, classes)
    chosen = _best("k nearest neighbours", near, lambda p: classification_metrics(p(valid), valid_labels)["accuracy"])
    return [logistic_probe(train, labels, valid, valid_labels, classes), chosen]


def logistic_probe(train: Vectors, labels: NDArray[np.integer], valid: Vectors, valid_labels: NDArray[np.integer], classes: int) -> Probe:
    """Return a logistic regression (multinomial, L2); arguments and errors as for :func:`class_probes`."""
    if len(np.unique(labels)) < 2:
        raise InputError("the train split: all labels are of one class, which leaves nothing to tell apart; give labels of two at least")
    fits = _logistic(train, labels, classes)
    return _best("logistic regression", fits, lambda p: classification_metrics(p(valid), valid_labels)["accuracy"])


def value_probes(train: Vectors, values: NDArray[np.floating], valid: Vectors, valid_values: NDArray[np.floating]) -> list[Probe]:
    """Return a linear regression and nearest neighbours (the mean of their values); arguments as for :func:`class_probes`.

    The linear regression is ordinary least squares, in float64: vectors may be collinear, as shares that sum to one are. Of several
    solutions the shortest is taken.
    """
    from sklearn.linear_model import LinearRegression

    def rho(predict: Predict) -> float:
        return regression_metrics(predict(valid), valid_values)["spearman"]

    linear = _scaled(train, LinearRegression()).fit(train.astype(np.float64), values)
    candidate = _Candidate("", lambda x: linear.predict(x.astype(np.float64)))
    return [_best("linear regression", [candidate], rho), _best("k nearest neighbours", _neighbour_values(train, values), rho)]


def nearest_neighbour(train: Vectors, labels: NDArray[np.integer], queries: Vectors) -> NDArray[np.int64]:
    """Return the label [M] of the training vector [N, D] nearest to each query [M, D], both standardised."""
    from sklearn.neighbors import KNeighborsClassifier

    found: NDArray[np.int64] = _scaled(train, KNeighborsClassifier(1, algorithm="brute")).fit(train, labels).predict(queries)
    return found


def iterations(rows: int, features: int, classes: int) -> int:
    """Return how many iterations a logistic regression may take: each costs about 4 N (D + SOFTMAX) C operations, of :data:`WORK`."""
    return int(np.clip(WORK // max(1, 4 * rows * (features + SOFTMAX) * classes), LEAST_ITERATIONS, MOST_ITERATIONS))


def draw_residues(labels: Sequence[NDArray[np.integer]], most: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return which residues of each sequence are kept: all that are scored (label 0 or more), or ``most`` of them drawn at random.

    Args:
        labels: a class for each residue [L] of each sequence; -1 where a residue is not scored.
        most: residues to keep, of all sequences together.
        seed: of the drawing.
    """
    scored = [np.flatnonzero(label >= 0) for label in labels]
    ends = np.cumsum([len(places) for places in scored])
    total = int(ends[-1]) if len(ends) else 0
    kept = np.ones(total, bool)
    if total > most:
        kept[:] = False
        kept[np.random.default_rng(seed).choice(total, most, replace=False)] = True
    return [places[mask] for places, mask in zip(scored, np.split(kept, ends[:-1]), strict=True)] if scored else []


def _scaled(train: Vectors, model: object) -> "Pipeline":
    """Return a model that standardises its input first, where that is dense."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(model) if issparse(train) else make_pipeline(StandardScaler(), model)


def _logistic(train: Vectors, labels: NDArray[np.integer], classes: int) -> Iterator[_Candidate]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    limit = iterations(*train.shape, classes)
    for penalty in PENALTIES:
        model = _scaled(train, LogisticRegression(C=penalty, max_iter=limit))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(train, labels)
        stopped = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        count = int(np.max(model[-1].n_iter_))
        yield _Candidate(f"C = {penalty:g}", _scores_of(model, classes), f"not converged after {count} iterations" if stopped else "")


def _neighbour_classes(train: Vectors, labels: NDArray[np.integer], classes: int) -> Iterator[_Candidate]:
    from sklearn.neighbors import KNeighborsClassifier

    for k in _possible(train):
        model = _scaled(train, KNeighborsClassifier(k, algorithm="brute")).fit(train, labels)
        yield _Candidate(f"k = {k}", _in_little_memory(_scores_of(model, classes)))


def _neighbour_values(train: Vectors, values: NDArray[np.floating]) -> Iterator[_Candidate]:
    from sklearn.neighbors import KNeighborsRegressor

    for k in _possible(train):
        model = _scaled(train, KNeighborsRegressor(k, algorithm="brute")).fit(train, values)
        yield _Candidate(f"k = {k}", _in_little_memory(model.predict))


def _possible(train: Vectors) -> list[int]:
    return [k for k in NEIGHBOURS if k <= train.shape[0]]


def _scores_of(model: "Pipeline", classes: int) -> Predict:
    """Return what gives a classifier's probabilities [N, C]; those of classes that it never met are 0."""

    def predict(x: Vectors) -> NDArray[np.floating]:
        scores = np.zeros((x.shape[0], classes), np.float32)
        scores[:, model.classes_] = model.predict_proba(x)
        return scores

    return predict


def _in_little_memory(predict: Predict) -> Predict:
    from sklearn import config_context

    def bounded(x: Vectors) -> NDArray[np.floating]:
        with config_context(working_memory=DISTANCES_MB):
            return predict(x)

    return bounded


def _best(method: str, candidates: Iterable[_Candidate], judge: Callable[[Predict], float]) -> Probe:
    """Return the candidate of the highest figure on validation, of equally good ones the first."""
    best, tried = None, {}
    for candidate in candidates:
        tried[candidate.setting] = judge(candidate.predict)
        if best is None or tried[candidate.setting] > tried[best.setting]:
            best = candidate
    if best is None:
        raise InputError("the train split: no sequence to fit a probe to; give more")
    return Probe(method, best.setting, tried, best.note, best.predict)
