"""What the report is made of: a score of a model, with what it has to beat, and how the model was trained. Plain values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scipy.special import stdtrit

Stage = Literal["pre-training", "fine-tuning", "probe"]
Verdict = Literal["better", "unclear", "not better", ""]
Reach = tuple[float, float]
"""How far the 95 % interval of a figure goes below and above it."""


@dataclass(frozen=True)
class Trained:
    """The model that a score is of."""

    method: str
    """What a row of a table is called: objective and encoder."""
    about: str = ""
    """What tells it from others of the same method: the run, the data where they are not a task's own."""
    run_ids: tuple[str, ...] = ()
    """Its runs in MLflow, that which a link leads to first."""
    link: str = ""
    """Address of the run's page, or its path within the pages where their address is not known."""
    parameters: int | None = None
    """Weights of the encoder, without heads."""
    residues: float | None = None
    """Residues that its encoder was trained on, before and during fine-tuning; not those of a noiser's turns; the mean over seeds."""
    minutes: float | None = None
    """Time of that training, on the clock; the mean over seeds."""
    corpus: str = ""
    """Name of what the encoder was pre-trained on."""
    checksum: str = ""
    """Checksum of that corpus."""
    pretrained: bool = False
    """Whether the encoder was pre-trained, so that its corpus may hold what it is tested on."""
    trials: int = 1
    """Configurations that were tried, of which validation chose this one."""
    baseline: bool = False
    """Whether it is there only to be beaten."""


@dataclass(frozen=True)
class Score:
    """One figure that a model reaches."""

    model: Trained
    stage: Stage
    """What was done with the encoder: nothing but pre-training, fine-tuning to a task, or a probe of its vectors."""
    task: str
    """What is measured: a task, families, contrastive, or a group of validation metrics."""
    split: str
    """On which split."""
    metric: str
    """Its name in the run."""
    value: float
    """The score; of several seeds their mean."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end."""
    deviation: float | None = None
    """Standard deviation over seeds, of a sample."""
    seeds: int = 1
    """Runs that the mean is of."""
    probe: str = ""
    """Which probe, of several of a task."""
    baselines: tuple[tuple[str, float], ...] = ()
    """What it has to beat: (name, value)."""
    reaches: Mapping[str, Reach] = field(default_factory=dict)
    """How far the 95 % intervals of baselines go, by name, where that is known."""
    data: str = ""
    """Name of the labelled data."""
    data_checksum: str = ""
    """Their checksum."""
    chosen_by: float | None = None
    """The figure on validation that chooses between configurations, higher is better; None: not known."""
    others: int = 0
    """Configurations that were left for this one: by validation, or, where ``chosen_by`` is None, because they are older."""
    overlap: tuple[int, int] | None = None
    """Sequences of the split that the corpus holds: identical, near duplicates of others. None: not known."""
    in_train: int = 0
    """Sequences of the split that the task's train holds too, as far as that is known."""
    fitted: int = 0
    """Examples that a probe was fitted to; 0: none, or not known."""

    @property
    def reach(self) -> Reach:
        """How far its 95 % interval goes."""
        return reach(self.value, self.low, self.high, self.deviation, self.seeds)


def best_baseline(score: Score, higher: bool) -> tuple[str, float] | None:
    """Return the strongest of a score's baselines, (name, value); None where it has none."""
    choose = max if higher else min
    return choose(score.baselines, key=lambda pair: pair[1], default=None)


def verdict(score: Score, higher: bool = True) -> Verdict:
    """Return whether a score is better than the strongest of its baselines (:func:`judge`), as far as both intervals are known."""
    known = best_baseline(score, higher)
    if known is None or score.model.baseline:
        return ""
    return judge(score.value, known[1], score.reach, score.reaches.get(known[0], UNKNOWN), higher)


def judge(value: float, rival: float, own: Reach, rivals: Reach, higher: bool = True) -> Verdict:
    """Return whether a figure is better than a rival's.

    ``unclear``: it is, but by no more than both 95 % intervals reach towards one another, as independent errors add.

    Args:
        value: the figure.
        rival: what it has to beat.
        own: how far the figure's interval goes (:func:`reach`).
        rivals: how far the rival's does.
        higher: whether higher is better.
    """
    ahead = value - rival if higher else rival - value
    if ahead <= 0:
        return "not better"
    return "unclear" if ahead <= (math.hypot(own[0], rivals[1]) if higher else math.hypot(own[1], rivals[0])) else "better"


UNKNOWN: Reach = (0.0, 0.0)
"""Of a figure without an interval."""


def reach(value: float, low: float | None, high: float | None, deviation: float | None = None, seeds: int = 1) -> Reach:
    """Return how far the 95 % interval of a figure goes: its own, else that of its mean over seeds; :data:`UNKNOWN` where it has none.

    Of several seeds that are all the same to the last digit nothing is known of the spread: it is infinite.

    Args:
        value: the figure.
        low: lower end of its own interval.
        high: upper end.
        deviation: standard deviation over seeds.
        seeds: how many they are.
    """
    if low is not None and high is not None:
        return value - low, high - value
    if seeds < 2:
        return UNKNOWN
    half = reach_of_mean(deviation or 0.0, seeds)
    return (math.inf, math.inf) if half is None else (half, half)


def interval(score: Score) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a score: its own, or that of its mean over seeds; (None, None) if unknown."""
    if score.low is None and score.deviation is not None:
        reach = reach_of_mean(score.deviation, score.seeds)
        return (None, None) if reach is None else (score.value - reach, score.value + reach)
    return score.low, score.high


def reach_of_mean(deviation: float, seeds: int) -> float | None:
    """Return half the width of the 95 % interval of a mean over seeds: Student's t of ``seeds - 1`` degrees of freedom, standard errors.

    None where nothing is known of the spread: of one seed, or where all are the same to the last digit.

    Args:
        deviation: standard deviation of a sample.
        seeds: how many the mean is of.
    """
    return float(stdtrit(seeds - 1, 0.975)) * deviation / seeds**0.5 if seeds > 1 and deviation > 0 else None
