"""The pictures of tasks: predicted against measured, which class is taken for which, contact maps, a sweep, a model beside baselines.

As in :mod:`raypro.evaluate.plots`, every function returns a Figure of its own; :func:`raypro.evaluate.plots.save` writes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from raypro.evaluate.contacts import RANGES
from raypro.evaluate.metrics import f1_scores, mean, regression_metrics
from raypro.evaluate.plots import BLUE, GREY, INK, ORANGE, STYLE, best_pairs, draw_contact_map, empty_figure, even_marks, new_figure

MANY = 1500
"""With more proteins than this a scatter plot shows how many lie where, not each one."""
SHOWN_CLASSES = 20
"""With more classes than this the most frequent confusions are listed in the place of a matrix."""
SHOWN_CONFUSIONS = 30
FEW_VALUES = 8
"""An axis of a sweep with more values than this has no line through the best trials: it was drawn at random."""
WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", "#9CC9E6", BLUE, "#00324F"])
PALE_TO_BLUE = LinearSegmentedColormap.from_list("pale to blue", ["#C3DEEF", BLUE, "#00324F"])
"""Its lightest still stands out from the page."""
UNRESOLVED = "#E9EBEF"
SERIES = (BLUE, "#B9BEC6", "#8A8F98", "#5B616B", "#E69F00", "#CC79A7")
"""The model first, baselines in greys, then what is more."""


@matplotlib.rc_context(STYLE)
def scatter(predicted: NDArray[np.floating], measured: NDArray[np.floating], name: str) -> Figure:
    """Draw predicted against measured, with the line where both are equal; with many proteins, how many lie in each hexagon.

    Args:
        predicted: [N].
        measured: [N] in the same unit.
        name: what the title says, for instance the split.
    """
    many = len(measured) > MANY
    figure, axes = new_figure(6.4 if many else 5.7, 6.0)
    values = np.concatenate([predicted, measured])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=ORANGE, linestyle="--", linewidth=1.3, label="predicted = measured", zorder=3)
    if many:
        hexagons = {"gridsize": 55, "extent": (*ends, *ends), "cmap": PALE_TO_BLUE, "norm": LogNorm(), "mincnt": 1, "linewidths": 0}
        bar = figure.colorbar(axes.hexbin(measured, predicted, **hexagons), ax=axes, fraction=0.04, pad=0.02, label="proteins", format="%g")
        bar.outline.set_visible(False)
    else:
        axes.scatter(measured, predicted, s=22, color=BLUE, alpha=0.45, linewidths=0)
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="measured", ylabel="predicted")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    found = regression_metrics(predicted, measured)
    _titles(axes, name, f"Spearman's ρ {found['spearman']:.3f}, mean squared error {found['mse']:.3g}, {_many(len(measured), 'protein')}")
    axes.legend(loc="upper left", borderaxespad=0.8)
    return figure


@matplotlib.rc_context(STYLE)
def confusion(counts: NDArray[np.int64], classes: Sequence[str], name: str) -> Figure:
    """Draw which classes are taken for which: a matrix, or of many classes the most frequent confusions.

    Args:
        counts: [C, C] of :func:`raypro.evaluate.metrics.confusion_matrix`: row = true class.
        classes: [C] their names.
        name: what the title says, for instance the split.
    """
    total, right = int(counts.sum()), int(np.trace(counts))
    accuracy = f"accuracy {right / total:.3f}" if total else "nothing to score"
    if len(classes) <= SHOWN_CLASSES:
        return _confusion_matrix(counts, classes, name, f"{accuracy} of {total:,}; macro F1 {_macro_f1(counts):.3f}")
    return _confusion_list(counts, classes, name, f"{accuracy} of {total:,}; {len(classes):,} classes")


@matplotlib.rc_context(STYLE)
def contact_maps(maps: Sequence[tuple[str, NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_]]], name: str) -> Figure:
    """Draw contact maps side by side: probabilities below the diagonal, true contacts above it; residues count from 1.

    The L/5 surest pairs at medium and long range are ringed, L without unresolved residues: blue where they are contacts, orange where
    not. Unresolved residues are bands of light grey. One scale of grey serves all maps.

    Args:
        maps: of each protein its title, predicted probabilities [L, L], true contacts [L, L] and whether each residue is resolved [L].
        name: what the title of the whole says, for instance the split.
    """
    figure = empty_figure(max(6.6, 5.0 * len(maps) + 0.8), 6.2)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    ranked = [np.where(resolved[:, None] & resolved, scores, np.nan) for _, scores, _, resolved in maps]
    pairs = [best_pairs(scores, RANGES["medium_long"][0], int(m[3].sum())) for scores, m in zip(ranked, maps, strict=True)]
    darkest = max(float(scores[i[-1], j[-1]]) if len(i) else 0.0 for scores, (i, j) in zip(ranked, pairs, strict=True))
    for axes, scores, best, (title, _, truth, resolved) in zip(panels, ranked, pairs, maps, strict=True):
        image = draw_contact_map(axes, scores, truth, best, darkest, 265.0)
        for start, end in _runs(~resolved):
            for span in (axes.axvspan, axes.axhspan):
                span(start + 0.5, end + 0.5, color=UNRESOLVED, linewidth=0, zorder=0.5)
        _titles(axes, title, f"of the {len(best[0])} surest, separation 12 and more, {int(truth[best].sum())} are contacts")
    figure.suptitle(f"Contacts, {name}", x=0.01, ha="left", fontsize=14, fontweight="bold")
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.01, extend="max", ticks=MaxNLocator(5), format="%g")
    bar.set_label("probability of a contact, lower triangle")
    bar.outline.set_visible(False)
    marks = [*panels[0].get_legend_handles_labels()[0], Patch(color=UNRESOLVED)]
    said = ["true contact", "predicted, true", "predicted, false", "not resolved"]
    even_marks(figure.legend(marks, said, loc="outside lower center", ncols=4, handletextpad=0.4))
    return figure


@matplotlib.rc_context(STYLE)
def against_baselines(
    metric: str,
    scores: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Figure:
    """Draw a metric of the model, with its 95 % interval, beside the baselines, split by split.

    Args:
        metric: its name.
        scores: split -> the model's value.
        intervals: split -> metric -> (low, high).
        baselines: baseline -> split -> metric -> value; what is missing or NaN is not drawn.
    """
    splits, names = list(scores), ["this model", *baselines]
    rows = [[scores[s] for s in splits], *([b.get(s, {}).get(metric, np.nan) for s in splits] for b in baselines.values())]
    width = 0.8 / len(names)
    figure, axes = new_figure(max(5.0, 1.6 + 0.62 * len(names) * len(splits)), 4.4)
    for row, (label, values) in enumerate(zip(names, rows, strict=True)):
        x = np.arange(len(splits)) + (row - (len(names) - 1) / 2) * width
        axes.bar(x, values, 0.92 * width, color=SERIES[row % len(SERIES)], label=label, zorder=2)
        for split, place, value in zip(splits, x, values, strict=True):
            low, high = intervals.get(split, {}).get(metric, (np.nan, np.nan)) if row == 0 else (np.nan, np.nan)
            if np.isfinite([value, low, high]).all():
                axes.plot([place, place], [low, high], color=INK, linewidth=1.6, solid_capstyle="butt", zorder=3)
            if np.isfinite(value):
                _value_at_bar(axes, place, value, np.nanmin([low, value]) if value < 0 else np.nanmax([high, value]))
    axes.axhline(0.0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(splits)), [split.replace("_", "\n") for split in splits])
    axes.set(ylabel=metric.replace("_", " "), xlim=(-0.6, len(splits) - 0.4))
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.1)
    _titles(axes, "Beside the baselines", "the line on a bar: 95 % bootstrap interval")
    figure.legend(loc="outside lower center", ncols=min(len(names), 3))
    return figure


@matplotlib.rc_context(STYLE)
def sweep(trials: Sequence[Mapping[str, Any]], scores: Sequence[float], metric: str, name: str) -> Figure:
    """Draw a metric over each axis of a sweep, a panel an axis: every trial a point, and the best one at each value joined.

    Numbers that span a factor of ten and more (of a hundred, where they are many) are on a logarithmic axis, a few others evenly
    spaced; what is no number is in the order in which it came.

    Args:
        trials: the value of each axis of each trial; all have the same axes.
        scores: the metric of each trial, higher is better; NaN of one that failed, which is not drawn but counted.
        metric: its name.
        name: what the title says.
    """
    kept = [i for i, score in enumerate(scores) if np.isfinite(score)]
    values = np.array([scores[i] for i in kept])
    keys = list(trials[0]) if trials else []
    figure = empty_figure(max(5.0, 3.4 * len(keys) + 0.6), 4.2)
    panels = figure.subplots(1, max(1, len(keys)), squeeze=False, sharey=True)[0]
    for axes, key in zip(panels, keys, strict=False):
        _sweep_axis(axes, key, [trials[i][key] for i in kept], [trial[key] for trial in trials], values)
    panels[0].set_ylabel(metric.replace("_", " "))
    failed = len(scores) - len(kept)
    best = f"best {values.max():.3f}" if len(kept) else "none finished"
    said = f"{name}: {_many(len(kept), 'trial')}, {best}{f'; {failed} failed' if failed else ''}"
    figure.suptitle(said, x=0.01, ha="left", fontsize=12, fontweight="bold")
    if keys:
        marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=3)
    return figure


def _sweep_axis(axes: Axes, key: str, found: Sequence[Any], every: Sequence[Any], scores: NDArray[np.floating]) -> None:
    """Draw one panel: the trials' ``scores`` [N] over their values ``found`` [N]; ``every`` holds the failed trials' values too."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in every)
    order = sorted(set(every)) if numbers else list(dict.fromkeys(map(str, every)))
    few = len(order) <= FEW_VALUES
    logarithmic = numbers and order[0] > 0 and order[-1] >= (10 if few else 100) * order[0]
    in_place = logarithmic or (numbers and not few)  # otherwise evenly spaced: a weight decay of 0 beside 0.0001 and 0.01
    x = np.array([v if in_place else order.index(v if numbers else str(v)) for v in found], dtype=float)
    if few:
        at = np.unique(x)
        axes.plot(at, [scores[x == v].max() for v in at], color=BLUE, alpha=0.7, label="best at each value", zorder=2)
    axes.scatter(x, scores, s=32, color=GREY, alpha=0.75, linewidths=0, label="a trial", zorder=3)
    if len(scores):
        best = int(scores.argmax())
        star = {"marker": "*", "color": ORANGE, "edgecolors": "white", "linewidths": 0.8, "label": "best trial"}
        axes.scatter(x[best], scores[best], s=150, zorder=4, **star)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if few or not numbers:
        axes.minorticks_off()
        axes.set_xticks(order if in_place else range(len(order)), [f"{v:g}" if numbers else v for v in order])
    axes.set_xlabel(key)
    axes.margins(x=0.12, y=0.1)
    axes.grid(axis="x", visible=False)


def _confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str], name: str, said: str) -> Figure:
    """Draw the matrix, each row as shares of its true class, with shares (and where there is room counts) written in."""
    number = len(classes)
    side = 2.6 + 0.62 * number if number <= 10 else 8.8
    figure, axes = new_figure(max(4.6, side), max(4.0, side - 0.5))
    of_row = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, of_row, out=np.full(counts.shape, np.nan), where=of_row > 0)
    image = axes.imshow(share, cmap=WHITE_TO_BLUE, vmin=0.0, vmax=1.0)
    for i, j in np.ndindex(*counts.shape):
        if of_row[i, 0] and (number <= 10 or share[i, j] >= 0.005):
            text = f"{100 * share[i, j]:.0f} %\n{counts[i, j]:,}" if number <= 10 else f"{100 * share[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=9 if number <= 10 else 8, color="white" if share[i, j] > 0.5 else INK)
    long = max(len(label) for label in classes) > 3
    axes.set_xticks(range(number), classes, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(number), classes)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    axes.tick_params(length=0)
    _titles(axes, name, said)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1.0, decimals=0, symbol=" %"))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def _confusion_list(counts: NDArray[np.int64], classes: Sequence[str], name: str, said: str) -> Figure:
    """Draw the most frequent confusions as bars, the most frequent on top."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    # Of equally frequent ones those that are a larger share of their true class come first.
    order = np.lexsort([-(wrong / np.maximum(counts.sum(axis=1, keepdims=True), 1)).reshape(-1), -wrong.reshape(-1)])[:SHOWN_CONFUSIONS]
    least = min(2, int(wrong.max()))  # what happened once tells nothing, unless nothing happened more often
    true, predicted = np.unravel_index(order[wrong.reshape(-1)[order] >= max(1, least)], wrong.shape)
    figure, axes = new_figure(7.6, 1.6 + 0.24 * max(4, len(true)))
    values = wrong[true, predicted]
    axes.barh(range(len(values)), values, color=BLUE, height=0.7)
    for place, (value, row) in enumerate(zip(values.tolist(), counts.sum(axis=1)[true].tolist(), strict=True)):
        axes.annotate(f"{value:,} of {row:,}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(values)), [f"{classes[i]} → {classes[j]}" for i, j in zip(true, predicted, strict=True)])
    axes.set(xlabel="true class → predicted class: how often, of all of the true class", xlim=(0, 1.15 * max([1, *values])))
    axes.set_ylim(max(len(values), 1) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _titles(axes, name, f"{said}; the {len(values)} most frequent confusions")
    return figure


def _value_at_bar(axes: Axes, place: float, value: float, end: float) -> None:
    """Write a bar's value beyond its end."""
    beyond = -3 if value < 0 else 3
    above = "top" if value < 0 else "bottom"
    axes.annotate(f"{value:.2f}", (place, end), xytext=(0, beyond), textcoords="offset points", ha="center", va=above, fontsize=9)


def _titles(axes: Axes, title: str, below: str) -> None:
    """Write a title, and a line of plain text under it."""
    axes.set_title(title, pad=24)
    axes.annotate(below, (0.0, 1.0), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points")


def _macro_f1(counts: NDArray[np.int64]) -> float:
    f1 = f1_scores(counts)
    return mean(f1[~np.isnan(f1)])


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first index of each run of True, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
