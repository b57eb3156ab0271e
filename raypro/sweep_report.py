"""What a sweep found: a ranking for the terminal, as CSV and as a picture; what the best combination reaches on test; what it cost."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from raypro.evaluate import task_plots
from raypro.evaluate.plots import save
from raypro.space import describe, shown
from raypro.sweep import Result, Sweep, Trial

MOST_ROWS, MOST_METRICS = 20, 4
"""Trials, and metrics of a test split, that the terminal shows; the CSV files hold all."""
RANKING, TEST, PICTURE = "ranking.csv", "test.csv", "axes.png"
MEAN_RANK = "mean rank"
AVERAGED, FAILED = "their average", "failed"
"""Columns of the test table that are no baselines: what the runs with several seeds predict on average; how many failed, and why."""
FIGURES = ("split", "metric", "mean", "deviation", "runs", FAILED, AVERAGED)
"""All of its columns that are no baselines."""

Ranked = list[tuple[Trial, Result]]
Baselines = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Baseline -> split -> metrics."""


@dataclass(frozen=True)
class Spread:
    """A metric over runs that differ in their seed."""

    mean: float
    deviation: float
    """Standard deviation of a sample; NaN for a single run."""
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}" if self.runs > 1 else f"{self.mean:.3f} (one run)"


def ranking_rows(sweep: Sweep, ranked: Ranked) -> list[dict[str, Any]]:
    """Return one row a trial, the best first: its place, values, metrics and costs."""
    metric = sweep.space.base.ranked_by[0]
    standing = sweep.standing([result for _, result in ranked])
    rows = []
    for place, (trial, result) in enumerate(ranked, start=1):
        row = {"rank": place if result.score is not None else None, "trial": trial.name, **sweep.space.values(trial.choice)}
        row |= {MEAN_RANK: standing[place - 1]} if sweep.space.criteria else {}
        row |= {metric: result.score, "status": result.status, "step": result.step, unit(sweep): result.used}
        rows.append(row | {"seconds": round(result.ended - result.started, 1), "reason": result.reason, **result.metrics})
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows, which may have different columns; return the path."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def unit(sweep: Sweep) -> str:
    """Return what the budget is counted in."""
    return "epochs" if sweep.space.base.budget.epochs is not None else "steps"


def ranking_table(sweep: Sweep, ranked: Ranked) -> Table:
    """Return the ranking for the terminal."""
    metric, order = sweep.space.base.ranked_by
    counted = unit(sweep)
    criteria = sweep.space.criteria or ((metric, order),)
    chosen = ", ".join(f"{name} ({'higher' if good == 'max' else 'lower'} is better)" for name, good in criteria)
    table = Table(title=f"{sweep.path.name}: {'mean rank by ' if len(criteria) > 1 else ''}{chosen}", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("trial", no_wrap=True)
    figure = MEAN_RANK if sweep.space.criteria else metric
    for column in (*(axis.split(".")[-1] for axis in sweep.space.axes), figure.split("/")[-1], counted, "seconds"):
        table.add_column(column, justify="right")
    table.add_column("ended")
    for row in ranking_rows(sweep, ranked)[:MOST_ROWS]:
        values = [shown(row[axis]) for axis in sweep.space.axes]
        score = "-" if row["rank"] is None else f"{row[figure]:.4f}"
        costs = (shown(round(row[counted] or 0.0, 1)), f"{row['seconds']:.0f}")
        table.add_row(str(row["rank"] or "-"), row["trial"], *values, score, *costs, row["status"])
    left, failed = len(ranked) - MOST_ROWS, sum(result.status == "failed" for _, result in ranked)
    said = [f"{left} more in {RANKING}"] * (left > 0) + [f"why {failed} failed: {RANKING}"] * (failed > 0)
    table.caption = "; ".join(said) or None
    return table


def draw_axes(sweep: Sweep, ranked: Ranked) -> Path:
    """Draw the metric over each axis; return the picture's path."""
    metric = sweep.space.base.ranked_by[0]
    values = [sweep.space.values(trial.choice) for trial, _ in ranked]
    scores = [float("nan") if result.score is None else sweep.sign * result.score for _, result in ranked]
    figure = task_plots.sweep(values, scores, metric if sweep.sign > 0 else f"minus {metric}", sweep.path.name)
    return save(figure, sweep.path / PICTURE)


def spared(ranked: Ranked) -> float | None:
    """Return which part of the epochs (or steps) was not run, because trials stopped early; failed trials do not count."""
    pairs = [(result.used, result.allowed) for _, result in ranked if result.status != "failed" and result.allowed]
    allowed = sum(limit for _, limit in pairs if limit)
    return 1 - sum(used or 0.0 for used, _ in pairs) / allowed if allowed else None


def lost_to_starting(results: Sequence[Result], at_once: int, launched: float) -> float | None:
    """Return which part of the time of ``at_once`` places went by, since ``launched``, before the trials in them took their first steps.

    A place is free from the launch, or from the end of the trial before, until the next one's first step.
    """
    free = [launched] * at_once
    waited = trained = 0.0
    for result in sorted((r for r in results if r.first_step is not None), key=lambda r: r.started):
        place = min(range(at_once), key=lambda p: free[p])
        assert result.first_step is not None
        waited += max(0.0, result.first_step - free[place])
        trained += result.ended - result.first_step
        free[place] = result.ended
    return waited / (waited + trained) if trained else None


def over_seeds(runs: Ranked) -> dict[str, dict[str, Spread]]:
    """Return split -> metric -> its mean and deviation over the runs that did not fail; validation, which chose, comes first."""
    scored = [result.by_split for _, result in runs if result.by_split]
    return {
        split: {
            metric: Spread(mean(values), stdev(values) if len(values) > 1 else float("nan"), len(values))
            for metric in metrics
            for values in [[by_split.get(split, {}).get(metric, float("nan")) for by_split in scored]]
        }
        for split, metrics in (scored[0] if scored else {}).items()
    }


def failed(runs: Ranked) -> str:
    """Return how many of the runs with several seeds failed, and why the first did; empty where none did."""
    reasons = [result.reason for _, result in runs if result.status == "failed"]
    return f"{len(reasons)} of {len(runs)} runs failed: {reasons[0]}" if reasons else ""


def rows_of_tests(runs: Ranked, baselines: Baselines) -> list[dict[str, Any]]:
    """Return one row a split and metric: mean, deviation, what failed, and the baselines."""
    return [
        {
            "split": split,
            "metric": metric,
            "mean": spread.mean,
            "deviation": spread.deviation,
            "runs": spread.runs,
            FAILED: failed(runs),
            **{name: by_split.get(split, {}).get(metric) for name, by_split in baselines.items()},
        }
        for split, metrics in over_seeds(runs).items()
        for metric, spread in metrics.items()
    ]


def shown_tests(primary: str, runs: Ranked, baselines: Baselines) -> list[list[str]]:
    """Return, as text, the first rows of each split, the metric that chooses first."""
    rows = []
    for split, metrics in over_seeds(runs).items():
        for metric in sorted(metrics, key=lambda name: name != primary)[:MOST_METRICS]:
            others = [by_split.get(split, {}).get(metric) for by_split in baselines.values()]
            rows.append([split, metric, str(metrics[metric]), *("-" if value is None else f"{value:.3f}" for value in others)])
    return rows


def table_of_tests(primary: str, runs: Ranked, baselines: Baselines) -> Table:
    """Return what the best combination reaches on validation and on the test splits, beside the baselines."""
    scored = sum(result.status != "failed" for _, result in runs)
    title = f"The best combination, {scored} run{'s' * (scored != 1)} with fresh seeds"
    table = Table(title="; ".join(filter(None, (title, failed(runs)))), title_justify="left")
    for column in ("split", "metric", "mean ± deviation", *baselines):
        table.add_column(column)
    for row in shown_tests(primary, runs, baselines):
        table.add_row(*row)
    return table


def markdown(sweep: Sweep, ranked: Ranked, runs: Ranked, baselines: Baselines, warnings: Sequence[str] = ()) -> str:
    """Return the head of the sweep's page."""
    metric = sweep.space.base.ranked_by[0]
    best, result = ranked[0]
    values = describe(sweep.space.values(best.choice))
    lines = [f"{len(ranked)} trials of `{Path(sweep.source).name}`; best {metric} {result.score:.4f}: {values}."]
    if sweep.space.criteria:
        lines.append(f"The best is so by the mean of its ranks by {', '.join(name for name, _ in sweep.space.criteria)}.")
    saved = spared(ranked)
    if saved is not None:
        lines.append(f"Early stopping saved {100 * saved:.0f} % of the {unit(sweep)}.")
    if runs:
        lines += ["", f"| split | metric | mean ± deviation over seeds | {' | '.join(baselines)} |", "| --- " * (3 + len(baselines)) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in shown_tests(metric.split("/")[-1], runs, baselines)]
        lines += [f"\n{failed(runs)}."] * bool(failed(runs))
    return "\n".join([*lines, *(f"\n{warning}." for warning in warnings)])


def say(sweep: Sweep, ranked: Ranked, runs: Ranked, baselines: Baselines, warnings: Sequence[str], lost: float | None) -> None:
    """Print the ranking, the test results with what a person has to know of them, and the costs."""
    console = Console()
    console.print(ranking_table(sweep, ranked))
    if runs:
        console.print(table_of_tests(sweep.space.base.ranked_by[0].split("/")[-1], runs, baselines))
    for warning in warnings:
        console.print(f"[bold]overlap[/]      {warning}", soft_wrap=True, highlight=False)
    saved = spared(ranked)
    if saved is not None:
        console.print(f"early stopping saved {100 * saved:.0f} % of the {unit(sweep)}", highlight=False)
    if lost is not None:
        console.print(f"{100 * lost:.1f} % of the trials' time went by before their first steps", highlight=False)
    for word, name in (("ranking", RANKING), ("test", TEST), ("picture", PICTURE)):
        if (sweep.path / name).exists():
            console.print(f"{word:12} {sweep.path / name}", soft_wrap=True, highlight=False)
