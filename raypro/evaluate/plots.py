"""The pictures of a run, in one style: contact maps, the divergence histogram and learning curves.

Every function returns a matplotlib Figure that belongs to nobody else (no pyplot, no display); :func:`save` writes it as PNG.
Colours are Okabe and Ito's, which all kinds of colour vision tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from raypro.evaluate.contacts import RANGES

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8A8F98", "#22262B"
WHITE_TO_GREY = LinearSegmentedColormap.from_list("white to grey", ["white", "#50565E"])
"""Dark enough to see, light enough for a ring on top."""

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E6EA",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@matplotlib.rc_context(STYLE)
def contact_map(
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_],
    family: str,
    metrics: Mapping[str, float],
    scale: str = "mutual information, nats, APC-corrected",
) -> Figure:
    """Draw the predicted scores in the lower triangle and the true contacts in the upper one; residues count from 1.

    The L/5 pairs of highest score at separations of 6 and more are ringed, blue where they are contacts and orange where not.

    Args:
        scores: [L, L], symmetric, higher means contact; NaN is left blank.
        truth: [L, L] true contacts, symmetric.
        family: what the title says.
        metrics: of :func:`raypro.evaluate.contacts.contact_precision`; the precision at L/5 is under the title, against random.
        scale: what a score is, with its unit.
    """
    figure, axes = new_figure(6.6, 6.4)
    i, j = best_pairs(scores)
    # Neighbours in the chain may score far above everything else: the darkest is what is good enough to be ringed.
    darkest = float(scores[i[-1], j[-1]]) if len(i) else 1.0
    image = draw_contact_map(axes, scores, truth, (i, j), darkest, 280.0)
    axes.set_title(family, pad=24)
    precision, random = metrics["contacts/P_at_L5_all"], metrics["contacts/random_precision_all"]
    subtitle = f"precision of the L/5 best pairs, separation 6 and more: {precision:.2f} (random: {random:.2f})"
    axes.annotate(subtitle, (0.0, 1.0), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, extend="both", ticks=MaxNLocator(5), format="%g")
    bar.set_label(f"prediction, lower triangle: {scale}")
    bar.outline.set_visible(False)
    even_marks(axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=3, handletextpad=0.2))
    return figure


@matplotlib.rc_context(STYLE)
def column_maps(maps: Sequence[tuple[str, str, NDArray[np.floating]]], truth: NDArray[np.bool_] | None, family: str, least: int) -> Figure:
    """Draw contact maps of one family side by side, each with a scale of its own; columns of the alignment count from 1.

    The L/5 pairs of highest score at separations of ``least`` and more are ringed, L the number of columns: blue where they are contacts
    and orange where not, all blue where contacts are not known.

    Args:
        maps: of each its title, what its scores are, and the scores [L, L], symmetric, higher means contact; NaN is left blank.
        truth: [L, L] true contacts, symmetric; None where they are not known.
        family: what the title of the whole says.
        least: least separation of the pairs that are ringed.
    """
    figure = empty_figure(6.4 * len(maps), 6.4)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, scale, scores) in zip(panels, maps, strict=True):
        i, j = best_pairs(scores, least)
        darkest = float(scores[i[-1], j[-1]]) if len(i) else 1.0
        image = draw_contact_map(axes, scores, truth, (i, j), darkest, 280.0)
        axes.set(xlabel="column", ylabel="column")
        axes.set_title(title, pad=24)
        said = f"{len(i)} best pairs, separation {least} and more"
        if truth is not None:
            by_chance = len(i) * float(truth[np.tril_indices(len(truth), -least)].mean())
            said += f": {int(truth[i, j].sum())} are contacts (by chance {by_chance:.1f})"
        axes.annotate(said, (0.0, 1.0), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", annotation_clip=False)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, extend="both", ticks=MaxNLocator(5), format="%g")
        bar.set_label(f"lower triangle: {scale}")
        bar.outline.set_visible(False)
    marks, labels = panels[0].get_legend_handles_labels()
    names = [label.split(":")[0] for label in labels]  # how many they are is under each title
    even_marks(figure.legend(marks, names, loc="outside lower center", ncols=3, handletextpad=0.4))
    figure.suptitle(family, x=0.01, ha="left", fontsize=14, fontweight="bold")
    return figure


@matplotlib.rc_context(STYLE)
def divergence_histogram(counts: NDArray[np.int64], edges: NDArray[np.floating], mean: float) -> Figure:
    """Draw Figure 3 of He et al. 2021: the divergence of the product of single predictions from the joint one.

    Args:
        counts: [bins] ordered pairs of masked residues in each bin.
        edges: [bins + 1] edges of the bins, nats, evenly spaced in their logarithm.
        mean: mean divergence, nats; drawn as a line.
    """
    figure, axes = new_figure(7.2, 4.2)
    share = counts / max(counts.sum(), 1)
    axes.stairs(share, edges, fill=True, color=BLUE, alpha=0.85)
    axes.set_xscale("log")
    filled = np.flatnonzero(counts)
    if len(filled):
        axes.set_xlim(edges[max(filled[0] - 2, 0)], edges[min(filled[-1] + 3, len(edges) - 1)])
        axes.axvline(mean, color=ORANGE, linestyle="--", label=f"mean {mean:.3g} nats")
        axes.legend(loc="upper right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="KL( P(xᵢ) P(xⱼ) ‖ P(xᵢ, xⱼ) ), nats", ylabel="share of masked pairs")
    axes.set_title("How far residue pairs are from independent")
    axes.grid(axis="x", visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def learning_curves(
    train: Sequence[tuple[int, float]], valid: Sequence[tuple[int, float]], *, floor: float | None = None, name: str = "masked residue"
) -> Figure:
    """Draw training and validation loss over steps.

    Args:
        train: (step, loss in nats) at logging steps.
        valid: (step, loss in nats) at validations.
        floor: entropy of the residues' frequencies, nats: what is reached without looking at the context; drawn as a line.
        name: what the loss is a mean over.
    """
    figure, axes = new_figure(7.2, 4.2)
    if train:
        axes.plot(*zip(*train, strict=True), color=BLUE, alpha=0.55, linewidth=1.2, label="training")
    if valid:
        axes.plot(*zip(*valid, strict=True), color=ORANGE, marker="o", markersize=4, label="validation")
    if floor is not None:
        axes.axhline(floor, color=GREY, linestyle="--", linewidth=1.3, label=f"residue frequencies alone: {floor:.2f} nats")
    axes.set(xlabel="optimizer step", ylabel=f"loss, nats per {name}")
    axes.set_title("Learning curves")
    if axes.lines:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    axes.margins(x=0.02, y=0.08)
    return figure


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; return the path."""
    figure.savefig(path, dpi=150, format="png")
    return path


def draw_contact_map(
    axes: Axes,
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_] | None,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    darkest: float,
    width: float,
) -> AxesImage:
    """Draw scores below the diagonal, true contacts and rings around predicted ones above it; return the image of the scores.

    Args:
        axes: where to draw.
        scores: [L, L], symmetric, higher means contact; NaN is left blank.
        truth: [L, L] true contacts, symmetric; None where they are not known.
        pairs: the predicted pairs i > j, of :func:`best_pairs`: ringed blue where they are contacts (or not known) and orange where not.
        darkest: the score that is drawn darkest, and those above it.
        width: of the map, in points.
    """
    length, (i, j) = len(scores), pairs
    shown = np.where(np.tril(np.ones((length, length), dtype=bool), k=-1), scores, np.nan)
    ends = (0.5, length + 0.5)
    image = axes.imshow(shown, cmap=WHITE_TO_GREY, vmin=0.0, vmax=max(darkest, 1e-9), extent=(*ends, *ends[::-1]))
    size = (width / length) ** 2  # of a residue's square, in points squared
    rings = [(np.ones(len(i), dtype=bool), BLUE, "predicted")]
    if truth is not None:
        rows, columns = np.nonzero(np.triu(truth))
        axes.scatter(columns + 1, rows + 1, s=max(0.7 * size, 1.5), marker="s", color=GREEN, linewidths=0, label="true contact")
        rings = [(truth[i, j], BLUE, "predicted, true"), (~truth[i, j], ORANGE, "predicted, false")]
    ring = (width / 42) ** 2 * min(1.0, max(0.3, 200 / length))  # large enough to see, small enough for those of a long protein
    for hits, colour, label in rings:
        axes.scatter(
            j[hits] + 1,
            i[hits] + 1,
            s=max(size, ring),
            facecolors="none",
            edgecolors=colour,
            linewidths=width / 155,
            label=f"{label}: {hits.sum()}",
        )
    axes.plot(ends, ends, color=GREY, linewidth=0.8)
    axes.set(xlim=ends, ylim=ends[::-1], xlabel="residue", ylabel="residue")
    axes.grid(False)
    return image


def even_marks(legend: Legend) -> None:
    """Make the marks of a legend of :func:`draw_contact_map` one size: on the map they are as large as a residue."""
    for mark in legend.legend_handles:
        if isinstance(mark, PathCollection):
            mark.set_sizes([40])


def best_pairs(
    scores: NDArray[np.floating], least: int = RANGES["all"][0], residues: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the L/5 pairs i > j of highest score [L, L] at separations of ``least`` and more, best first; those with NaN are left out.

    ``residues`` is L, the number of all residues where it is None.
    """
    i, j = np.tril_indices(len(scores), k=-least)
    known = np.isfinite(scores[i, j])
    i, j = i[known], j[known]
    best = np.argsort(-scores[i, j], kind="stable")[: max(1, (len(scores) if residues is None else residues) // 5)]
    return i[best], j[best]


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure (inches) and its axes."""
    figure = empty_figure(width, height)
    return figure, figure.add_subplot()


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure (inches) without axes."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
