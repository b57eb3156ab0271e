"""What needs no model of proteins: ridge regression on one-hot residues, the mean, the most frequent classes.

Every result of a task stands beside one of these. On TAPE's fluorescence a linear model of the residues is as good as the papers'
pre-trained ones (Shanehsazzadeh et al. 2020). On its stability task, 53,614 sequences, ridge regression has Spearman's rho 0.57 on
validation and 0.49 on test.

Legend: N sequences, L residues of one sequence, P positions, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from raypro.core.alphabet import SIZE, STANDARD, TOKEN_TO_CLASS, encode
from raypro.evaluate.metrics import regression_metrics

ALPHAS: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Ridge penalties that are tried, in units of one sequence's squared error."""
POSITIONS = 1024
"""Residues beyond this position are not looked at: the matrix of long proteins stays in memory."""
TYPES = len(STANDARD) + 1
"""The 20 standard residues and one type for every other letter."""


@dataclass(frozen=True)
class OneHotRidge:
    """A fitted ridge regression on which residue is at which position, counted from the first."""

    coefficients: NDArray[np.float64]
    """[P x TYPES] in the unit of the label; P is the length of the longest training sequence, POSITIONS at most."""
    intercept: float
    alpha: float
    """The penalty, chosen on the validation split."""
    valid_spearman: float
    """Spearman's rho on the validation split."""

    def __call__(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """Return the predictions [N]. Residues beyond position P are ignored, missing ones add nothing."""
        return one_hot(sequences, len(self.coefficients) // TYPES) @ self.coefficients + self.intercept


def ridge_one_hot(
    train: Sequence[str],
    train_labels: NDArray[np.floating],
    valid: Sequence[str],
    valid_labels: NDArray[np.floating],
    alphas: Sequence[float] = ALPHAS,
) -> OneHotRidge:
    """Fit a ridge regression for each penalty and return the one of highest Spearman's rho on the validation split.

    Of equally good ones the greatest penalty is taken.

    Args:
        train: [N] sequences that are fitted.
        train_labels: [N].
        valid: sequences by which the penalty is chosen.
        valid_labels: their labels.
        alphas: the penalties.
    """
    from sklearn.linear_model import Ridge  # takes more than a second

    positions = min(POSITIONS, max(len(sequence) for sequence in train))
    x, x_valid = one_hot(train, positions), one_hot(valid, positions)
    best: OneHotRidge | None = None
    for alpha in sorted(alphas, reverse=True):
        model = Ridge(alpha=alpha, solver="sparse_cg").fit(x, train_labels)
        rho = regression_metrics(model.predict(x_valid), valid_labels)["spearman"]
        if best is None or rho > best.valid_spearman:
            best = OneHotRidge(model.coef_, float(model.intercept_), alpha, rho)
    if best is None:
        raise ValueError("alphas: none given")
    return best


def one_hot(sequences: Sequence[str], positions: int) -> csr_matrix:
    """Return a sparse matrix [N, positions x TYPES]: 1 at TYPES x position + type of each residue before ``positions``."""
    cut = [sequence[:positions] for sequence in sequences]
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in cut])]).astype(np.int64)
    types = residue_types("".join(cut))
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    return csr_matrix((np.ones(len(types)), TYPES * position + types, starts), shape=(len(cut), TYPES * positions))


def residue_types(sequence: str) -> NDArray[np.int64]:
    """Return each residue's type [L]: its place in STANDARD, the last type for every other letter."""
    types = TOKEN_TO_CLASS[encode(sequence)]
    return np.where(types < 0, TYPES - 1, types)


def mean_baseline(labels: NDArray[np.floating]) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Return what predicts the mean of the labels [N] for every sequence."""
    value = float(np.mean(labels))
    return lambda sequences: np.full(len(sequences), value)


def class_frequencies(labels: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """Return how large a share of the labels [N] each class has [C]: the scores by which every sequence is of the majority class."""
    counts = np.bincount(labels, minlength=classes)
    return counts / max(counts.sum(), 1)


def residue_type_classes(
    sequences: Sequence[str], labels: Sequence[NDArray[np.integer]], classes: int
) -> tuple[Callable[[str], NDArray[np.int64]], int]:
    """Return what predicts a class from the type of each residue alone, and the majority class of all residues.

    Residues that are not scored (-1) do not count; a letter that no scored residue has gets the majority class. Of equally frequent
    classes the one with the lower number is taken.

    Args:
        sequences: [N].
        labels: a class for each residue [L] of each sequence.
        classes: their number.

    Raises:
        ValueError: a sequence and its labels differ in length.
    """
    if [len(sequence) for sequence in sequences] != [len(label) for label in labels]:
        raise ValueError("labels: not one for each residue of each sequence")
    tokens = encode("".join(sequences)).astype(np.int64)
    true = np.concatenate([np.zeros(0, np.int64), *labels])
    counts = np.bincount((tokens * classes + true)[true >= 0], minlength=SIZE * classes).reshape(SIZE, classes)
    majority = int(counts.sum(axis=0).argmax())
    of_token = np.where(counts.any(axis=1), counts.argmax(axis=1), majority)
    return lambda sequence: of_token[encode(sequence)], majority
