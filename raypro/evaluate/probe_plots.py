"""The pictures of probes: proteins laid out by t-SNE, and every probe with its interval beside the baselines' ones.

As in :mod:`raypro.evaluate.plots`, every function returns a Figure of its own. Legend: N proteins, D dimension of a vector.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.sparse import issparse

from raypro.evaluate.plots import BLUE, GREY, INK, STYLE, empty_figure, new_figure
from raypro.evaluate.probes import Vectors

MOST_POINTS = 1500
"""Proteins on a map: more take long to lay out and hide one another."""
LEAST_POINTS = 3
"""Proteins that make a map: t-SNE's perplexity, the number of near neighbours, is above 0 from there on."""
COMPONENTS = 50
"""Principal components that t-SNE starts from, as its authors do (van der Maaten and Hinton 2008)."""
TEN = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#22262B", "#8A8F98", "#8C564B", "#B5BD00")
MARKERS = "osD^v"
"""With the ten colours, fifty families can be told apart."""

Row = tuple[str, str, float, float, float]
"""Representation, probe, value, and both ends of its 95 % interval."""
Map = tuple[str, NDArray[np.floating]]
"""A title, and the places [N, 2] of :func:`lay_out`."""


def lay_out(vectors: Vectors, seed: int = 0) -> NDArray[np.float32]:
    """Return places [N, 2] in a plane where near neighbours stay near: t-SNE of the first principal components.

    Dense vectors are standardised before, sparse ones are not; see :mod:`raypro.evaluate.probes`.

    Args:
        vectors: [N, D], :data:`LEAST_POINTS` to :data:`MOST_POINTS` of them.
        seed: of the principal components and of t-SNE.

    Raises:
        ValueError: too many vectors, or too few.
    """
    from sklearn.decomposition import PCA  # takes more than a second
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    count = vectors.shape[0]
    if not LEAST_POINTS <= count <= MOST_POINTS:
        raise ValueError(f"vectors: {count}, expected {LEAST_POINTS} to {MOST_POINTS}")
    dense = vectors.toarray() if issparse(vectors) else StandardScaler().fit_transform(vectors)
    dense = dense[:, dense.std(axis=0) > 0]
    if not dense.shape[1]:
        return np.zeros((count, 2), np.float32)  # all are the same
    dense = PCA(min(COMPONENTS, *dense.shape), random_state=seed).fit_transform(dense)
    return TSNE(perplexity=min(30.0, (count - 1) / 3), init="random", random_state=seed).fit_transform(dense)


@matplotlib.rc_context(STYLE)
def family_maps(
    maps: Sequence[tuple[str, NDArray[np.floating]]], labels: NDArray[np.integer], families: Sequence[str], name: str
) -> Figure:
    """Draw proteins coloured by family, as Figure 3 of Lu et al. 2020 does.

    Args:
        maps: side by side.
        labels: [N] number of each protein's family.
        families: their names, in order.
        name: what the title of the whole says.
    """
    figure, panels = _panels([title for title, _ in maps], name, 0.35 * min(5, -(-len(families) // 10)) * 4)
    for axes, (_, places) in zip(panels, maps, strict=True):
        for number, family in enumerate(families):
            mine = places[labels == number]
            look = {"marker": MARKERS[number // len(TEN) % len(MARKERS)], "color": TEN[number % len(TEN)]}
            axes.scatter(mine[:, 0], mine[:, 1], s=16, alpha=0.8, linewidths=0, label=family, **look)
    marks = panels[0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside right center", ncols=-(-len(families) // 25), fontsize=8, markerscale=1.4, title="family")
    return figure


@matplotlib.rc_context(STYLE)
def value_maps(maps: Sequence[Map], values: NDArray[np.floating], label: str, name: str) -> Figure:
    """Draw proteins coloured by a measured value, as Figure 4 of Lu et al. 2020 does; one scale of colour for all maps.

    Args:
        maps: side by side.
        values: [N]; the colours span all but the lowest and the highest hundredth.
        label: what the values are.
        name: what the title of the whole says.
    """
    figure, panels = _panels([title for title, _ in maps], name, 0.9)
    low, high = np.percentile(values, [1, 99])
    for axes, (_, places) in zip(panels, maps, strict=True):
        shown = axes.scatter(places[:, 0], places[:, 1], c=values, cmap="viridis", vmin=low, vmax=high, s=14, alpha=0.85, linewidths=0)
    bar = figure.colorbar(shown, ax=panels, fraction=0.03, pad=0.01, extend="both", ticks=MaxNLocator(6), label=label)
    bar.outline.set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def beside_baselines(panels: Sequence[tuple[str, Sequence[Row]]], metric: str, name: str) -> Figure:
    """Draw a metric of every probe, with its interval: the encoder, the first representation, in blue, what it has to beat in grey.

    Args:
        panels: side by side, each a title (the split) and its rows, the same ones in the same order.
        metric: its name.
        name: what the title of the whole says.
    """
    rows = panels[0][1]
    figure = empty_figure(3.0 + 3.4 * len(panels), 1.5 + 0.34 * len(rows))
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        for place, (representation, _, value, low, high) in enumerate(found):
            colour = BLUE if representation == rows[0][0] else GREY
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
            if np.isfinite(value):
                axes.plot(value, place, "o", color=colour, markersize=6)
                said = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 8, "color": INK}
                axes.annotate(f"{value:.3f}", (value, place), **said)
        axes.set_yticks(range(len(rows)), [f"{representation}, {probe}" for representation, probe, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.set(xlabel=metric.replace("_", " "))
        axes.set_title(title)
        axes.margins(x=0.12)
    figure.suptitle(f"{name}; lines: 95 % bootstrap intervals", x=0.01, ha="left", fontsize=11)
    return figure


@matplotlib.rc_context(STYLE)
def over_steps(points: Sequence[tuple[int, float]], metric: str, task: str) -> Figure:
    """Draw what a probe finds in the checkpoints of a run.

    Args:
        points: (step, value), in the order of the steps.
        metric: what the values are.
        task: what the title says.
    """
    figure, axes = new_figure(6.4, 4.2)
    axes.plot(*zip(*points, strict=True), "o-", color=BLUE, markersize=4)
    axes.set(xlabel="optimizer step", ylabel=metric.replace("_", " "))
    axes.set_title(f"Probe while training: {task}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(y=0.15)
    return figure


def _panels(titles: Sequence[str], name: str, beside: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with square panels without scales, and ``beside`` inches for what explains the colours."""
    figure = empty_figure(4.6 * len(titles) + beside, 5.2)
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        axes.grid(False)
    figure.suptitle(name, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure, panels
