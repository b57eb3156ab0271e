"""The pictures of a noiser: how strong it is, how it masks, and what it takes.

As in :mod:`raypro.evaluate.plots`, every function returns a Figure of its own.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from raypro.evaluate.plots import BLUE, GREEN, GREY, INK, ORANGE, STYLE, empty_figure, new_figure

Points = Sequence[tuple[int, float]]
"""(step, value), in the order of the steps."""
WAYS = {"mask": ("shown as MASK", BLUE), "replace": ("replaced", ORANGE), "keep": ("left as it is", GREEN)}


@matplotlib.rc_context(STYLE)
def strength(adversarial: Points, random: Points) -> Figure:
    """Draw the loss, nats, on residues that the noiser masks and on those masked at random, at the same steps."""
    figure, axes = new_figure(7.2, 4.2)
    for points, colour, label in ((adversarial, ORANGE, "masked by the noiser"), (random, BLUE, "masked at random")):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, label=label)
    steps, high = np.array(adversarial).T
    low = np.array(random).T[1]
    stronger = {"where": high >= low, "interpolate": True}  # where chance is harder there is no strength to shade
    axes.fill_between(steps, low, high, color=ORANGE, alpha=0.15, linewidth=0, label="the noiser's strength", **stronger)
    axes.set(xlabel="optimizer step, of both players", ylabel="loss, nats per masked residue")
    axes.set_title("How much harder is what the noiser masks?")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02, y=0.08)
    return figure


@matplotlib.rc_context(STYLE)
def habits(entropy: Points, ways: Mapping[str, Points]) -> Figure:
    """Draw over steps how open the noiser's choice of residues is, and how it masks them: the share of each of :data:`WAYS`."""
    figure = empty_figure(7.2, 6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(*zip(*entropy, strict=True), color=INK, linewidth=1.4)
    above.set(ylim=(0, 1.04), ylabel="entropy, over that of\na uniform choice")
    above.set_title("Which residues: 1 is any, 0 always the same")
    steps = [step for step, _ in entropy]
    shares = [[value for _, value in ways[way]] for way in WAYS]
    labels, colours = zip(*WAYS.values(), strict=True)
    below.stackplot(steps, shares, labels=labels, colors=colours, alpha=0.8, linewidth=0)
    below.set(ylim=(0, 1), xlabel="optimizer step, of both players", ylabel="share of what it masks")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    below.set_title("How it masks them")
    below.margins(x=0)
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=3)
    return figure


@matplotlib.rc_context(STYLE)
def residues(chosen: Mapping[str, float], candidates: Mapping[str, float]) -> Figure:
    """Draw how often each amino acid is taken, over its share of the candidates, on a log scale; the most preferred first.

    Args:
        chosen: each amino acid's share of the residues that the noiser takes.
        candidates: its share of those that it chooses among; an amino acid that is none of them is left out.
    """
    ratios = {letter: chosen[letter] / share for letter, share in candidates.items() if share > 0}
    taken = [ratio for ratio in ratios.values() if ratio > 0]
    widest = 1.15 * max([1.5, *taken, *(1 / ratio for ratio in taken)])
    figure, axes = new_figure(7.2, 4.2)
    order = sorted(ratios, key=lambda letter: -ratios[letter])
    for place, letter in enumerate(order):
        ratio = ratios[letter]
        axes.bar(place, max(ratio, 1 / widest) - 1, bottom=1, width=0.72, color=ORANGE if ratio > 1 else BLUE, alpha=0.85)
        if not ratio:
            axes.annotate("never", (place, 1 / widest), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=8, color="white")
    axes.axhline(1, color=INK, linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(1 / widest, widest)
    marks = [mark for mark in (0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10, 20) if 1 / widest <= mark <= widest]
    axes.set_yticks(marks)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} x"))
    axes.set_xticks(range(len(order)), order)
    axes.set(ylabel="share of what it masks, over\nshare of what it could mask")
    axes.set_title("Which amino acids does the noiser prefer?")
    axes.grid(axis="x", visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def places(shares: Sequence[float]) -> Figure:
    """Draw where along the sequence the noiser masks: the share of what it takes in each of equal parts, from the first residues on."""
    figure, axes = new_figure(7.2, 3.6)
    axes.bar(range(len(shares)), shares, width=0.82, color=BLUE, alpha=0.85)
    axes.axhline(1 / len(shares), color=GREY, linestyle="--", linewidth=1.3, label="evenly")
    axes.set_xticks(np.arange(len(shares) + 1) - 0.5, [f"{100 * edge // len(shares)} %" for edge in range(len(shares) + 1)])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="place in the sequence", ylabel="share of what it masks", xlim=(-0.6, len(shares) - 0.4))
    axes.set_title("Where does the noiser mask?")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")
    axes.margins(y=0.18)
    return figure
