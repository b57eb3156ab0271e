"""The end of a fine-tuning run: its best checkpoint scored on the test splits, once, beside baselines; drawn, written, logged and said."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from raypro.data.labelled import Examples, LabelledData
from raypro.data.labelled_source import Embedded
from raypro.evaluate import task_plots
from raypro.evaluate.plots import save
from raypro.finetuning import FineTuned
from raypro.outbox import Outbox

PICTURES, PREDICTIONS = "pictures", "predictions"
Metrics = dict[str, float]


def test_splits(data: LabelledData) -> list[str]:
    """Return the splits that are neither trained on nor chosen by."""
    return [split for split in data.splits if split not in ("train", "valid")]


def predict_split(model: FineTuned, examples: Examples, progress: str | None = None) -> tuple[list[Any], Metrics]:
    """Return the predictions of a split, one a sequence, and their metrics; ``progress`` is what a progress bar says."""
    batches = Embedded(examples).batches(np.arange(len(examples)), model.experiment.batches.token_budget)
    shown = track(batches, progress or "", transient=True, disable=progress is None, console=Console(stderr=True))
    predicted = model.predict(shown)
    predictions = [predicted[row] for row in range(len(examples))]
    return predictions, model.experiment.task.score(predictions, examples.labels)


def score_and_report(model: FineTuned, data: LabelledData, run: Path, outbox: Outbox) -> dict[str, Metrics]:
    """Score a run's best checkpoint on validation and test splits; return split -> metrics.

    Predictions go to ``predictions/SPLIT.parquet`` of the run's folder, all figures to ``scores.json``, pictures to ``pictures``.
    """
    task = model.experiment.task
    scores: dict[str, Metrics] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    splits = ["valid", *test_splits(data)]
    for split in splits:
        examples = data.read(split)
        predictions, scores[split] = predict_split(model, examples, f"predicting {split}")
        intervals[split] = task.intervals(predictions, examples.labels)
        columns = {"id": examples.ids, "sequence": examples.sequences, **task.columns(predictions, examples)}
        path = run / PREDICTIONS / f"{split}.parquet"
        for folder in (path.parent, run / PICTURES):
            folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)
        outbox.artifact(path, PREDICTIONS)
        for picture in task.pictures(predictions, examples, run / PICTURES, split):
            outbox.artifact(picture, PICTURES)
    baselines = task.baselines(data, splits)
    figure = task_plots.against_baselines(task.primary, {s: scores[s][task.primary] for s in splits}, intervals, baselines)
    outbox.artifact(save(figure, run / PICTURES / "against_baselines.png"), PICTURES)
    found = {"checkpoint": model.step, "scores": scores, "intervals": intervals, "baselines": baselines}
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    outbox.artifact(run / "scores.json")
    for split, metrics in scores.items():
        group = split if split.startswith("test") else f"best_{split}" if split == "valid" else f"test_{split}"
        outbox.metrics(model.step, {f"{group}/{name}": value for name, value in metrics.items()})
    outbox.description(describe_scores(model, scores, intervals, baselines))
    print_scores(model, data, run, scores, intervals, baselines)
    return scores


def _rows(
    primary: str, scores: dict[str, Metrics], intervals: dict[str, dict[str, tuple[float, float]]], baselines: dict[str, dict[str, Metrics]]
) -> list[tuple[str, str, str, Sequence[str]]]:
    """Return (split, metric, value with its interval, the baselines' values) of the metrics that have an interval, the primary first."""
    rows = []
    for split, metrics in scores.items():
        for name in sorted(intervals[split], key=lambda name: name != primary):
            low, high = intervals[split][name]
            rows.append(
                (split, name, f"{metrics[name]:.3f} ({low:.3f} to {high:.3f})", [_cell(b[split].get(name)) for b in baselines.values()])
            )
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def print_scores(
    model: FineTuned,
    data: LabelledData,
    run: Path,
    scores: dict[str, Metrics],
    intervals: dict[str, dict[str, tuple[float, float]]],
    baselines: dict[str, dict[str, Metrics]],
) -> None:
    """Print the table that a person looks at first."""
    console = Console()
    table = Table(title=f"{run.name}: best on validation at step {model.step}; 95 % intervals", title_justify="left")
    for column in ("split", "metric", "this model", *baselines):
        table.add_column(column)
    for split, name, value, others in _rows(model.experiment.task.primary, scores, intervals, baselines):
        table.add_row(split, name, value, *others)
    console.print(table)
    for word, place in (("predictions", run / PREDICTIONS), ("pictures", run / PICTURES), ("checkpoint", run / f"step_{model.step:08d}")):
        console.print(f"{word:12} {place}", soft_wrap=True, highlight=False)
    raypro = Path(sys.executable).with_name("raypro")
    console.print(f"to predict   {raypro} predict --model {run}/step_{model.step:08d} FASTA --out FILE", soft_wrap=True, highlight=False)


def describe_scores(
    model: FineTuned,
    scores: dict[str, Metrics],
    intervals: dict[str, dict[str, tuple[float, float]]],
    baselines: dict[str, dict[str, Metrics]],
) -> str:
    """Return the head of the run's page, in Markdown."""
    experiment = model.experiment
    start = experiment.start or "random weights"
    lines = [
        f"{type(experiment.task).__name__} on `{Path(experiment.data).name}`, {type(experiment.encoder).__name__} from {start}"
        f"{', frozen' if experiment.frozen else ''}; best on validation at step {model.step}.",
        "",
        f"| split | metric | this model (95 % interval) | {' | '.join(baselines)} |",
        "| --- " * (3 + len(baselines)) + "|",
    ]
    rows = _rows(experiment.task.primary, scores, intervals, baselines)
    return "\n".join([*lines, *(f"| {split} | {name} | {value} | {' | '.join(others)} |" for split, name, value, others in rows)])
