"""The picture of a comparison: what each encoder reaches on each task, beside what it has to beat."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from raypro.evaluate.plots import BLUE, GREY, INK, ORANGE, STYLE, empty_figure

Point = tuple[float, float, float]
"""A value, and both ends of its interval; NaN where there is none."""
Panel = tuple[str, Mapping[str, Mapping[str, Point]]]
"""A title, and the points by row (an encoder or a baseline) and by setting; those of a baseline have the empty setting."""


@matplotlib.rc_context(STYLE)
def compared(panels: Sequence[Panel], settings: Sequence[str], name: str) -> Figure:
    """Draw the points of every row, with their intervals: one colour a setting, baselines in grey.

    Args:
        panels: side by side; of all their rows each panel shows those that it has.
        settings: one or two.
        name: what the title of the whole says.
    """
    rows = list(dict.fromkeys(row for _, points in panels for row in points))
    baselines = {row for _, points in panels for row in points if "" in points[row]}
    rows.sort(key=lambda row: row in baselines)
    colours = {"": GREY, **dict(zip(settings, (BLUE, ORANGE), strict=False))}
    shifts = {"": 0.0, **dict(zip(settings, (-0.17, 0.17) if len(settings) > 1 else (0.0,), strict=False))}
    figure = empty_figure(3.2 + 3.3 * len(panels), 1.8 + 0.5 * len(rows))
    drawn = {}
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        for row, by_setting in points.items():
            for setting, (value, low, high) in by_setting.items():
                place = rows.index(row) + shifts[setting]
                if np.isfinite([low, high]).all():
                    axes.plot([low, high], [place, place], color=colours[setting], linewidth=2.2, solid_capstyle="butt")
                if np.isfinite(value):
                    (drawn[setting],) = axes.plot(value, place, "o", color=colours[setting], markersize=5.5)
                    said = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 7.5, "color": INK}
                    axes.annotate(f"{value:.3f}", (value, place), **said)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -0.8)
        task, _, metric = title.partition(": ")
        axes.set_title(task, fontsize=10)
        axes.set(xlabel=metric)
        axes.margins(x=0.14)
    shown = [(drawn[setting], setting or "baseline") for setting in (*settings, "") if setting in drawn]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=len(shown), fontsize=9)
    figure.suptitle(f"{name}; lines: 95 % intervals, or deviations over seeds", x=0.01, ha="left", fontsize=11)
    return figure
