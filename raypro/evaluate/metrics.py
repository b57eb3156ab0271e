"""How good the predictions of a task are: rank correlation, errors, accuracies, F1, and how sure those figures are.

Legend: N sequences, L residues of one sequence, C classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]
Classes = NDArray[np.integer]

TOP = 10
"""Besides the best class, a sequence may have its true class among so many best ones (Rao et al. 2019, remote homology)."""


def regression_metrics(predicted: Values, measured: Values) -> dict[str, float]:
    """Return Spearman's and Pearson's correlation, the mean squared and the mean absolute error.

    Equal values share the mean of their ranks. A constant on either side ranks nothing: both correlations are 0. Of no sequences, or
    where a value is NaN, every figure is NaN.

    Args:
        predicted: [N] in the unit of the measurement.
        measured: [N].

    Returns:
        ``spearman``, ``mse`` (squared unit), ``pearson``, ``mae`` (unit).

    Raises:
        ValueError: shapes that do not fit together.
    """
    predicted, measured = _pair(predicted, measured)
    if not len(predicted) or np.isnan(predicted).any() or np.isnan(measured).any():
        return dict.fromkeys(("spearman", "mse", "pearson", "mae"), float("nan"))
    error = predicted - measured
    return {
        "spearman": correlation(ranks(groups(predicted)), ranks(groups(measured))),
        "mse": float(np.square(error).mean()),
        "pearson": correlation(predicted, measured),
        "mae": float(np.abs(error).mean()),
    }


def regression_intervals(predicted: Values, measured: Values, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of ``spearman`` and ``mse`` over sequences; see :func:`bootstrap`."""
    predicted, measured = _pair(predicted, measured)
    if np.isnan(predicted).any() or np.isnan(measured).any():
        return {"spearman": (float("nan"),) * 2, "mse": (float("nan"),) * 2}
    first, second = groups(predicted), groups(measured)
    squares = np.square(predicted - measured)

    def spearman(index: NDArray[np.int64]) -> float:
        return correlation(ranks(first[index]), ranks(second[index]))

    return {
        "spearman": bootstrap(spearman, len(predicted), resamples, seed),
        "mse": bootstrap(lambda index: float(squares[index].mean()), len(predicted), resamples, seed),
    }


def classification_metrics(scores: Values, labels: Classes) -> dict[str, float]:
    """Return top-1 accuracy, top-10 accuracy and macro F1.

    Of classes with equal scores the one with the lower number ranks first, as ``argmax`` has it; a score that is NaN ranks last, and a
    sequence whose true class has a NaN is a miss. Top-10 accuracy is left out where there are ten classes or fewer: it would be 1.
    Macro F1 is the mean of :func:`f1_scores` over the classes that occur, be it only among the predictions.

    Args:
        scores: [N, C], higher means more likely.
        labels: [N] true classes, 0 to C - 1.

    Returns:
        ``accuracy``, ``top10_accuracy``, ``macro_f1``; NaN where there are no sequences.

    Raises:
        ValueError: shapes that do not fit together, or a label that is no class.
    """
    place = places(scores, labels)
    predicted = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    found = {"accuracy": mean(place < 1)}
    if scores.shape[1] > TOP:
        found[f"top{TOP}_accuracy"] = mean(place < TOP)
    f1 = f1_scores(confusion_matrix(predicted, labels, scores.shape[1]))
    return {**found, "macro_f1": mean(f1[~np.isnan(f1)])}


def classification_intervals(scores: Values, labels: Classes, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals over sequences of ``accuracy`` and, beyond ten classes, of ``top10_accuracy``; see :func:`bootstrap`."""
    place = places(scores, labels)
    hits = {"accuracy": place < 1} | ({f"top{TOP}_accuracy": place < TOP} if scores.shape[1] > TOP else {})
    return {name: bootstrap(lambda index, x=x: float(x[index].mean()), len(x), resamples, seed) for name, x in hits.items()}


def residue_metrics(predicted: Sequence[Classes], labels: Sequence[Classes], classes: Sequence[str]) -> dict[str, float]:
    """Return the accuracy over all scored residues, and each class' F1.

    Args:
        predicted: a class for each residue [L] of each sequence.
        labels: the true classes [L]; -1 where a residue is not scored.
        classes: [C] their names.

    Returns:
        ``accuracy`` (NaN where no residue is scored), and ``f1_NAME`` of each class, see :func:`f1_scores`.

    Raises:
        ValueError: predictions of another length than the labels, or a number that is no class.
    """
    hits, counts = residue_hits(predicted, labels)
    matrix = residue_confusion(predicted, labels, len(classes))
    accuracy = float(hits.sum() / counts.sum()) if counts.sum() else float("nan")
    return {"accuracy": accuracy, **{f"f1_{name}": float(value) for name, value in zip(classes, f1_scores(matrix), strict=True)}}


def residue_intervals(
    predicted: Sequence[Classes], labels: Sequence[Classes], resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of ``accuracy`` over proteins: residues of one protein are not independent. See :func:`bootstrap`."""
    hits, counts = residue_hits(predicted, labels)
    hits, counts = hits[counts > 0], counts[counts > 0]
    return {"accuracy": bootstrap(lambda index: float(hits[index].sum() / counts[index].sum()), len(counts), resamples, seed)}


def residue_hits(predicted: Sequence[Classes], labels: Sequence[Classes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many residues of each sequence are right [N], and how many are scored [N]."""
    _require_lengths(predicted, labels)
    hits = [int(((p == label) & (label >= 0)).sum()) for p, label in zip(predicted, labels, strict=True)]
    return np.array(hits, dtype=np.int64), np.array([int((label >= 0).sum()) for label in labels], dtype=np.int64)


def residue_confusion(predicted: Sequence[Classes], labels: Sequence[Classes], classes: int) -> NDArray[np.int64]:
    """Return :func:`confusion_matrix` over the scored residues of all sequences; arguments as for :func:`residue_metrics`."""
    _require_lengths(predicted, labels)
    flat, true = (np.concatenate([np.zeros(0, np.int64), *x]) for x in (predicted, labels))
    return confusion_matrix(flat[true >= 0], true[true >= 0], classes)


def confusion_matrix(predicted: Classes, labels: Classes, classes: int) -> NDArray[np.int64]:
    """Return counts [C, C]: row = true class, column = predicted class.

    Raises:
        ValueError: shapes that do not fit together, or a number that is no class.
    """
    if np.shape(predicted) != np.shape(labels):
        raise ValueError(f"predicted: shape {np.shape(predicted)}, labels: {np.shape(labels)}")
    _require_classes(predicted, classes, "predicted")
    _require_classes(labels, classes, "labels")
    return np.bincount(np.asarray(labels, np.int64) * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each class' F1 [C], the harmonic mean of precision and recall: 2 hits / (true + predicted).

    NaN for a class that neither is true nor predicted anywhere; 0 for one that is, but never rightly.
    """
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.divide(2 * np.diag(confusion), total, out=np.full(len(confusion), np.nan), where=total > 0)


def places(scores: Values, labels: Classes) -> NDArray[np.int64]:
    """Return how many classes rank before the true one [N]; arguments, ties and errors as for :func:`classification_metrics`."""
    if scores.ndim != 2 or np.shape(labels) != scores.shape[:1]:
        raise ValueError(f"scores: shape {scores.shape}, labels: {np.shape(labels)}; expected [N, C] and [N]")
    _require_classes(labels, scores.shape[1], "labels")
    own = np.take_along_axis(scores, np.asarray(labels, np.int64)[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < np.asarray(labels)[:, None]
    before = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return np.where(np.isnan(own[:, 0]), scores.shape[1], before)


def bootstrap(metric: Callable[[NDArray[np.int64]], float], n: int, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of a metric by the percentile bootstrap (Efron 1979).

    Args:
        metric: the metric of the sequences with the given indices [n], some of them several times.
        n: sequences; one or none tells nothing of the spread, the interval is NaN.
        resamples: how often n sequences are drawn with replacement; those of which the metric is NaN are left out.
        seed: of the drawing: equal seeds draw the same sequences for every metric.
    """
    rng = np.random.default_rng(seed)
    values = np.array([metric(rng.integers(0, n, n)) for _ in range(resamples)] if n > 1 else [])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def groups(values: Values) -> NDArray[np.int64]:
    """Return the number [N] of each value among the distinct ones, from 0, ascending."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def ranks(of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the ranks [N], from 1, of values given by their :func:`groups`; ties share their mean.

    A resample of the values keeps its groups, so it is ranked without being sorted again.
    """
    counts = np.bincount(of)
    return (np.cumsum(counts) - (counts - 1) / 2)[of]


def correlation(x: Values, y: Values) -> float:
    """Return Pearson's correlation of x [N] and y [N]; 0 if one of them is constant."""
    if x.min() == x.max() or y.min() == y.max():
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # so that the squares of very large or small values are finite and not 0
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def mean(values: NDArray[np.generic]) -> float:
    """Return the mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def _pair(predicted: Values, measured: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if np.ndim(predicted) != 1 or np.shape(predicted) != np.shape(measured):
        raise ValueError(f"predicted: shape {np.shape(predicted)}, measured: {np.shape(measured)}; expected [N] and [N]")
    return np.asarray(predicted, np.float64), np.asarray(measured, np.float64)


def _require_lengths(predicted: Sequence[Classes], labels: Sequence[Classes]) -> None:
    if [len(p) for p in predicted] != [len(label) for label in labels]:
        raise ValueError("predicted: not one class for each label of each sequence")


def _require_classes(numbers: Classes, classes: int, name: str) -> None:
    if len(numbers) and not (0 <= np.min(numbers) and np.max(numbers) < classes):
        raise ValueError(f"{name}: {np.min(numbers)} to {np.max(numbers)}, expected 0 to {classes - 1}")
