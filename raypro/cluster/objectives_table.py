"""The tables and the picture of a comparison of objectives: what each run cost, what its encoder reaches, and what it has to beat."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from raypro.cluster.comparing import Pretrained, markdown
from raypro.core.size import parameters
from raypro.evaluate import comparison_plots
from raypro.evaluate.plots import save
from raypro.evaluate.report_scores import Reach, Verdict, judge, reach
from raypro.experiment import Experiment
from raypro.outbox import Outbox
from raypro.sweep_report import Spread

PROBED, TUNED = "probe", "fine-tuned"
MARK, UNCLEAR = "†", "≈"
"""Stand behind a figure that is not better than the best of its baselines, or not by more than the intervals of both reach."""
UNTRAINED = "random weights"
SHOWN_COSTS = ["run", "parameters", "steps", "residues", "minutes"]
"""What a terminal shows of the costs; the files hold all."""


@dataclass(frozen=True)
class Competitor:
    """A finished pre-training run of a comparison."""

    setting: str
    """What is held equal."""
    label: str
    """What it is called."""
    experiment: Experiment
    finished: Pretrained

    @cached_property
    def parameters(self) -> tuple[int, int]:
        """Parameters of the encoder, and of all that is trained: heads and an adversary too."""
        with torch.device("meta"):
            encoder = self.experiment.encoder.build()
            return parameters(encoder), parameters(self.experiment.objective.build(encoder))


@dataclass(frozen=True)
class Measured:
    """A figure, higher is better, and how sure it is."""

    value: float
    low: float = float("nan")
    """Ends of the 95 % bootstrap interval of a single model; NaN where there are several seeds."""
    high: float = float("nan")
    deviation: float = float("nan")
    """Standard deviation over seeds; NaN for one."""
    seeds: int = 1

    @classmethod
    def over(cls, spread: Spread) -> "Measured":
        """Return the mean over seeds."""
        return cls(spread.mean, deviation=spread.deviation, seeds=spread.runs)

    @property
    def reach(self) -> Reach:
        """How far the 95 % interval goes."""
        low, high, deviation = (None if math.isnan(figure) else figure for figure in (self.low, self.high, self.deviation))
        return reach(self.value, low, high, deviation, self.seeds)

    def __str__(self) -> str:
        if not math.isnan(self.low):
            return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}" if math.isnan(self.deviation) else f"{self.value:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class Score:
    """What one encoder reaches on one test split."""

    setting: str
    label: str
    how: str
    """``probe`` or ``fine-tuned``."""
    task: str
    split: str
    metric: str
    method: str
    """Of several probes the one that is best on validation, with what validation chose."""
    reached: Measured
    baselines: Mapping[str, Measured] = field(default_factory=dict)
    """What it has to beat, by name, each by its own best method."""

    @property
    def column(self) -> str:
        """What is measured, in words."""
        return f"{self.task}, {self.split}, {self.how}: {self.metric.replace('_', ' ')}"

    @property
    def best_baseline(self) -> str:
        """Name of the highest baseline."""
        return max(self.baselines, key=lambda name: self.baselines[name].value)

    @property
    def verdict(self) -> Verdict:
        """Whether it is better than the best of its baselines, as the report judges it."""
        best = self.baselines[self.best_baseline]
        return judge(self.reached.value, best.value, self.reached.reach, best.reach)

    def __str__(self) -> str:
        return " ".join(filter(None, [str(self.reached), {"not better": MARK, "unclear": UNCLEAR}.get(self.verdict, "")]))


def scores_of_probe(competitor: Competitor, said: Mapping[str, Any], untrained: str) -> list[Score]:
    """Return the scores in the figures that an evaluation left (``probes.json``), one a test split.

    Args:
        competitor: whose encoder was probed.
        said: the figures.
        untrained: what the baseline of random weights is called.
    """
    best: dict[str, Any] = {}
    for probe in said["probes"]:
        name, figure = probe["representation"], probe["tried"].get(probe["setting"], 0.0)
        if name not in best or figure > best[name]["tried"].get(best[name]["setting"], 0.0):
            best[name] = probe
    own, *baselines = best
    metric = said["primary"]
    return [
        Score(
            competitor.setting,
            competitor.label,
            PROBED,
            said["probe"],
            split,
            metric,
            " ".join([best[own]["probe"], *([f"({best[own]['setting']})"] if best[own]["setting"] else [])]),
            _measured(best[own], split, metric),
            {untrained if name == UNTRAINED else name: _measured(best[name], split, metric) for name in baselines},
        )
        for split in best[own]["scores"]
        if split != "valid"
    ]


def _measured(probe: Mapping[str, Any], split: str, metric: str) -> Measured:
    return Measured(probe["scores"][split][metric], *probe["intervals"][split][metric])


def report(
    name: str, folder: Path, competitors: Sequence[Competitor], scores: Sequence[Score], notes: Sequence[str], outbox: Outbox
) -> None:
    """Write the tables as CSV and Markdown, and the picture; log all three, and print the tables.

    Args:
        name: of the comparison.
        folder: where to.
        competitors: the runs.
        scores: what they reach.
        notes: what a person should know, a sentence each.
        outbox: of the comparison's run in MLflow.
    """
    settings = list(dict.fromkeys(competitor.setting for competitor in competitors))
    console = Console()
    lines = []
    for setting in settings:
        costs, reached = _costs([c for c in competitors if c.setting == setting]), _reached([s for s in scores if s.setting == setting])
        lines += [f"## {setting.capitalize()}", ""]
        for (columns, rows), shown, title in (
            (costs, SHOWN_COSTS, "pre-training"),
            (reached, reached[0], f"95 % intervals; {MARK}: not better than the best baseline, {UNCLEAR}: not clearly"),
        ):
            lines += [*markdown(columns, rows), ""]
            table = Table(*shown, title=f"{name}, {setting}: {title}", title_justify="left")
            for row in rows:
                table.add_row(*(cell for column, cell in zip(columns, row, strict=True) if column in shown))
            console.print(table)
    marked = (
        f"{MARK} not better than the best of its baselines, the rows below the encoders; of random weights, those of its own shape; "
        f"{UNCLEAR} better, but by no more than the 95 % intervals of both reach"
    )
    text = "\n".join([*lines, *(f"- {line}" for line in (marked, *notes))]) + "\n"
    (folder / "table.md").write_text(text)
    _write_csv(folder / "table.csv", competitors, scores)
    save(comparison_plots.compared(_panels(scores), settings, name), folder / "comparison.png")
    for file in ("table.csv", "table.md", "comparison.png"):
        outbox.artifact(folder / file)
    outbox.description(text)
    outbox.metrics(0, {f"{s.setting}/{s.label}_{s.how}_{s.task}_{s.split}_{s.metric}": s.reached.value for s in scores})
    console.print(f"tables, picture  {folder}", soft_wrap=True, highlight=False)


def _costs(competitors: Sequence[Competitor]) -> tuple[list[str], list[list[str]]]:
    columns = ["run", "objective", "encoder", "parameters", "with heads", "steps", "residues", "minutes"]
    rows = []
    for competitor in competitors:
        experiment, finished = competitor.experiment, competitor.finished
        kinds = [type(experiment.objective).__name__, type(experiment.encoder).__name__.removesuffix("Shape")]
        counts = [f"{n:,}" for n in (*competitor.parameters, finished.steps, finished.residues)]
        rows.append([competitor.label, *kinds, *counts, f"{finished.seconds / 60:.1f}"])
    return columns, rows


def _reached(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Return a row an encoder, below them a row a baseline; a column a test split."""
    columns = list(dict.fromkeys(score.column for score in scores))
    rows: dict[str, dict[str, str]] = {}
    for score in scores:
        rows.setdefault(score.label, {})[score.column] = str(score)
    for score in scores:
        for name, measured in score.baselines.items():
            rows.setdefault(name, {}).setdefault(score.column, str(measured))
    return ["vectors of", *columns], [[name, *(cells.get(column, "") for column in columns)] for name, cells in rows.items()]


def _panels(scores: Sequence[Score]) -> list[comparison_plots.Panel]:
    """Return a panel a test split: its rows by name, each with its points by setting, those of baselines by none."""
    panels: dict[str, dict[str, dict[str, comparison_plots.Point]]] = {}
    for score in scores:
        point = (score.reached.value, *_ends(score.reached))
        panels.setdefault(score.column, {}).setdefault(score.label, {})[score.setting] = point
    for score in scores:
        for name, measured in score.baselines.items():
            panels[score.column].setdefault(name, {}).setdefault("", (measured.value, *_ends(measured)))
    return list(panels.items())


def _ends(measured: Measured) -> tuple[float, float]:
    if math.isnan(measured.deviation):
        return measured.low, measured.high
    return measured.value - measured.deviation, measured.value + measured.deviation


def _write_csv(path: Path, competitors: Sequence[Competitor], scores: Sequence[Score]) -> None:
    """Write one row a score, with its run's costs and its baselines."""
    of = {(c.setting, c.label): c for c in competitors}
    names = list(dict.fromkeys(name for score in scores for name in score.baselines))
    about = ["setting", "run", "objective", "encoder", "parameters", "parameters_with_heads", "steps", "residues", "minutes"]
    figures = ["how", "task", "split", "metric", "method", "value", "low", "high", "deviation", "seeds", "best_baseline", "verdict"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*about, *figures, *(f"baseline: {name}" for name in names), "checkpoint"])
        for score in scores:
            run, reached = of[score.setting, score.label], score.reached
            kinds = (type(run.experiment.objective).__name__, type(run.experiment.encoder).__name__)
            costs = (*run.parameters, run.finished.steps, run.finished.residues, run.finished.seconds / 60)
            said = (score.how, score.task, score.split, score.metric, score.method)
            exact = (reached.value, reached.low, reached.high, reached.deviation, reached.seeds, score.best_baseline, score.verdict)
            beaten = [score.baselines[name].value if name in score.baselines else "" for name in names]
            writer.writerow([score.setting, score.label, *kinds, *costs, *said, *exact, *beaten, run.finished.checkpoint])
