"""Charts of the report as SVG within the page: they take its colours, light and dark, and stay sharp in print.

No chart leans on colour alone: lines have patterns, points have numbers that the list below them names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 28, 12, 44
DASHES = ("", "7 4", "2 3", "10 3 2 3")
COLOURS = 6
"""Classes c0 to c5 of the page's style sheet."""


@dataclass(frozen=True)
class Series:
    """What one line, or one point, shows."""

    name: str
    """What the list below the chart says."""
    points: tuple[tuple[float, float], ...]
    """(x, y), in the order of x."""
    hollow: bool = False
    """A published figure, not one of ours."""


def lines(series: Sequence[Series], x_name: str, y_name: str, floor: tuple[str, float] | None = None) -> str:
    """Return a chart of lines, with the list that names them.

    Args:
        series: at least one, with a point or more each.
        x_name: what runs along x.
        y_name: what runs along y.
        floor: name and height of a level that is no series: what is reached without learning.
    """
    heights = [y for one in series for _, y in one.points] + ([floor[1]] if floor else [])
    axes = _Axes([x for one in series for x, _ in one.points], heights, log_x=False)
    drawn = [axes.frame(x_name, y_name)]
    if floor:
        y = axes.y(floor[1])
        drawn.append(f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for i, one in enumerate(series):
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in one.points)
        dash = DASHES[i // COLOURS % len(DASHES)] or DASHES[i % len(DASHES)]
        drawn.append(f'<polyline class="line c{i % COLOURS}" stroke-dasharray="{dash}" points="{path}"/>')
        drawn += [f'<circle class="dot c{i % COLOURS}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.6"/>' for x, y in one.points]
    keys = [_key(i, one.name) for i, one in enumerate(series)]
    if floor:
        line = '<svg viewBox="0 0 34 10" aria-hidden="true"><line class="floor" x1="1" x2="33" y1="5" y2="5"/></svg>'
        keys.append(f"<li>{line}{escape(floor[0])}</li>")
    return _figure(drawn, f"{y_name} over {x_name}", f'<ul class="keys">{"".join(keys)}</ul>')


def numbered_points(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Return a chart of points over a logarithmic x, each with the number by which the list below names it."""
    heights = [y for one in series for _, y in one.points]
    axes = _Axes([x for one in series for x, _ in one.points], [0.0, *heights], log_x=True)  # from 0: no difference looks larger than it is
    drawn = [axes.frame(x_name, y_name)]
    for i, one in enumerate(series, start=1):
        for x, y in one.points:
            place = f'cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}"'
            drawn.append(f'<circle class="{"published" if one.hollow else "ours"}" {place} r="8.5"/>')
            drawn.append(
                f'<text class="{"on-published" if one.hollow else "on-ours"}" x="{axes.x(x):.1f}" y="{axes.y(y) + 3.6:.1f}">{i}</text>'
            )
    names = "".join(f"<li{' class=paper' if one.hollow else ''}>{escape(one.name)}</li>" for one in series)
    return _figure(drawn, f"{y_name} over {x_name}", f'<ol class="keys numbers">{names}</ol>')


def _figure(drawn: Sequence[str], label: str, keys: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(drawn)}</svg>{keys}"


def _key(i: int, name: str) -> str:
    dash = DASHES[i // COLOURS % len(DASHES)] or DASHES[i % len(DASHES)]
    line = f'<line class="line c{i % COLOURS}" stroke-dasharray="{dash}" x1="1" x2="33" y1="5" y2="5"/>'
    return f'<li><svg viewBox="0 0 34 10" aria-hidden="true">{line}</svg>{escape(name)}</li>'


class _Axes:
    """Where values lie in the drawing."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], log_x: bool) -> None:
        self.log = log_x
        self.x_marks = _decades(min(xs), max(xs)) if log_x else round_marks(min(0.0, *xs), max(xs), 5)
        self.y_marks = round_marks(min(ys), max(ys), 5)
        self.left, self.right = (math.log10(min(xs)), math.log10(max(xs))) if log_x else (self.x_marks[0], self.x_marks[-1])
        if log_x:
            span = self.right - self.left
            margin = max(0.08 * span, (1 - span) / 2)  # a power of ten at least: what has nearly the same size stands nearly together
            self.left, self.right = self.left - margin, self.right + margin
        self.low, self.high = self.y_marks[0], self.y_marks[-1]

    def x(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return LEFT + (place - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def frame(self, x_name: str, y_name: str) -> str:
        """Return grid, marks and names."""
        parts = []
        for mark in self.y_marks:
            y = self.y(mark)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="mark" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{mark:.4g}</text>')
        for mark in self.x_marks:
            x = self.x(mark)
            if LEFT - 1 <= x <= WIDTH - RIGHT + 1:
                parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
                parts.append(f'<text class="mark" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{short(mark)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="name" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
        return "".join(parts)


def round_marks(low: float, high: float, about: int) -> list[float]:
    """Return some ``about`` round numbers, evenly apart, that begin at or below ``low`` and end at or above ``high``."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around a range; of a wide one the powers alone."""
    factors = (1, 2, 5) if high / low < 300 else (1,)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    return [factor * 10.0**exponent for exponent in exponents for factor in factors]


def short(value: float) -> str:
    """Return a count in few characters: ``1.7 M``, ``196 M``, ``2.5 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
