"""Contact prediction scored exactly: precision of the best-scored pairs of residues by separation along the chain.

Legend: L residues (or columns of an alignment). Contact maps and scores are [L, L].
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]

RANGES: dict[str, tuple[int, float]] = {
    "short": (6, 11),
    "medium": (12, 23),
    "long": (24, np.inf),
    "medium_long": (12, np.inf),
    "all": (6, np.inf),
}
"""Least and greatest separation |i - j| of each range."""

DEPTHS = {"L": 1, "L2": 2, "L5": 5}
"""How many pairs are taken: L, L/2 and L/5."""


def apc(scores: Scores) -> NDArray[np.float64]:
    """Return scores [L, L] with the average product correction (Dunn, Wahl and Gloor 2008).

    ``S_ij - mean_k(S_ik) mean_k(S_jk) / mean(S)``, where means leave out the diagonal and entries that are NaN. The input is
    symmetric; the diagonal of the result is zero. Where the mean is zero there is nothing to correct.
    """
    pairs = np.array(scores, dtype=np.float64)
    np.fill_diagonal(pairs, np.nan)
    known = np.isfinite(pairs)
    filled = np.where(known, pairs, 0.0)
    row_means = filled.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    mean = filled.sum() / max(known.sum(), 1)
    corrected = pairs - (np.outer(row_means, row_means) / mean if mean else 0.0)
    np.fill_diagonal(corrected, 0.0)
    return corrected


def contact_precision(
    scores: Scores,
    truth: Mask,
    *,
    resolved: Mask | None = None,
    scored: Mask | None = None,
    ranges: Mapping[str, tuple[int, float]] = RANGES,
) -> dict[str, float]:
    """Return the precision of a predicted contact map, by range of separation and number of pairs taken.

    The candidates of a range are the pairs i < j of resolved residues (and of ``scored`` pairs) with that separation; separations
    count all residues. Of n resolved residues the max(1, n // d) candidates of highest score are taken (d = 1, 2, 5), all
    candidates where there are fewer; the precision is the share of true contacts among them. Equal scores rank by (i, j), a
    pair without a score (NaN) last. A range without candidates has NaN, never 0.

    Args:
        scores: [L, L], higher means contact; the mean of both triangles counts.
        truth: [L, L] true contacts, symmetric.
        resolved: [L] residues whose place is known; all where None.
        scored: [L, L] pairs of which it is known whether they are contacts, symmetric; all where None.
        ranges: least and greatest separation of each range.

    Returns:
        For each range R ``contacts/P_at_L_R``, ``contacts/P_at_L2_R`` and ``contacts/P_at_L5_R``, and beside them
        ``contacts/random_precision_R``: the share of true contacts among all candidates, which a random ranking reaches.

    Raises:
        ValueError: shapes that do not fit together.
    """
    length = len(scores)
    for name, array, shape in (("scores", scores, 2), ("truth", truth, 2), ("resolved", resolved, 1), ("scored", scored, 2)):
        if array is not None and array.shape != (length,) * shape:
            raise ValueError(f"{name}: shape {array.shape}, expected {(length,) * shape}")
    resolved = np.ones(length, dtype=bool) if resolved is None else resolved
    i, j = np.triu_indices(length, k=1)
    candidates = resolved[i] & resolved[j] & (True if scored is None else scored[i, j])
    i, j = i[candidates], j[candidates]
    best_first = _best_first(scores, i, j)
    separation, hits = (j - i)[best_first], truth[i, j][best_first]
    residues = int(resolved.sum())
    metrics: dict[str, float] = {}
    for name, (least, greatest) in ranges.items():
        ranked = hits[(separation >= least) & (separation <= greatest)]
        for depth, divisor in DEPTHS.items():
            metrics[f"contacts/P_at_{depth}_{name}"] = _share(ranked[: max(1, residues // divisor)])
        metrics[f"contacts/random_precision_{name}"] = _share(ranked)
    return metrics


def tape_code_counts(scores: Scores, truth: Mask, resolved: Mask | None = None) -> tuple[int, int]:
    """Return (true contacts, pairs) among the L/5 best pairs that TAPE's released code takes; for :func:`pooled_precision`.

    Candidates are the pairs of resolved residues at separations of 6 and more, where the paper (Rao et al. 2019) says medium and long
    range. L // 5 are taken, none where that is 0; L counts unresolved residues too, other than in :func:`contact_precision`. Source:
    tape-proteins 0.4, ``PairwiseContactPredictionHead.compute_precision_at_l5``. Where there are fewer candidates than that, its
    code goes on with pairs that are none, whose labels may be -1; here all candidates are taken and no more.

    Args:
        scores: [L, L], higher means contact; the mean of both triangles counts; ties and NaN as for :func:`contact_precision`.
        truth: [L, L] true contacts, symmetric.
        resolved: [L] residues whose place is known; all where None.
    """
    length = len(scores)
    i, j = np.triu_indices(length, k=RANGES["all"][0])
    known = np.ones(len(i), dtype=bool) if resolved is None else resolved[i] & resolved[j]
    i, j = i[known], j[known]
    taken = _best_first(scores, i, j)[: length // 5]
    return int(truth[i, j][taken].sum()), len(taken)


def pooled_precision(counts: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Return ``contacts/P_at_L5_tape_code``: all true contacts by all pairs taken, so that long proteins weigh more.

    TAPE's code pools over the proteins of a batch; here all proteins are one batch. NaN where no pair was taken.

    Args:
        counts: (true contacts, pairs) of each protein, of :func:`tape_code_counts`.
    """
    hits, taken = (sum(column) for column in zip((0, 0), *counts, strict=True))
    return {"contacts/P_at_L5_tape_code": hits / taken if taken else float("nan")}


def average_metrics(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over proteins or families; those where it is NaN are left out, and NaN is left where all are."""
    rows = list(metrics)
    averages: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([row[name] for row in rows if name in row and not np.isnan(row[name])])
        averages[name] = float(values.mean()) if len(values) else float("nan")
    return averages


def _best_first(scores: Scores, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of pairs by falling score; equal ones as they come, those without a score last."""
    values = (scores[i, j] + scores[j, i]) / 2
    return np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")


def _share(hits: Mask) -> float:
    return float(hits.mean()) if len(hits) else float("nan")
