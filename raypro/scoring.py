"""The end of a fine-tuning run: its best checkpoint scored on the test splits, once, beside baselines; drawn, written, logged and said."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.data.corpus import Corpus, Overlap
from raypro.data.labelled import Examples, LabelledData
from raypro.data.labelled_source import Embedded
from raypro.delivery import Sent
from raypro.evaluate import task_plots
from raypro.evaluate.plots import save
from raypro.finetuning import FineTuned
from raypro.home import RUN_FILE
from raypro.outbox import Outbox

PICTURES, PREDICTIONS = "pictures", "predictions"
START = "start_"
"""Beginning of the tags that say what an encoder was before it was fine-tuned."""
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


@dataclass(frozen=True)
class Scores:
    """What a fine-tuned model reaches, by split."""

    model: FineTuned
    metrics: dict[str, Metrics]
    intervals: dict[str, dict[str, tuple[float, float]]]
    """95 % intervals of the metrics that matter."""
    baselines: dict[str, dict[str, Metrics]]
    """Baseline -> split -> metrics."""
    leaks: list[str] = field(default_factory=list)
    """What the splits share with train (:func:`leaks_of`)."""
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    """What the corpus of the encoder is known to share with a split."""

    @property
    def primary(self) -> str:
        """The metric that chose the checkpoint."""
        return self.model.experiment.task.primary

    def rows(self) -> list[list[str]]:
        """Return [split, metric, value with its interval, the baselines' values] as text, the primary metric of a split first."""
        rows = []
        for split, metrics in self.metrics.items():
            for name in sorted(self.intervals[split], key=lambda name: name != self.primary):
                low, high = self.intervals[split][name]
                others = [_cell(by_split[split].get(name)) for by_split in self.baselines.values()]
                rows.append([split, name, f"{metrics[name]:.3f} ({low:.3f} to {high:.3f})", *others])
        return rows

    def to_plain(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        figures = {"scores": self.metrics, "intervals": self.intervals, "baselines": self.baselines}
        return {"checkpoint": self.model.step, **figures, "corpus_overlap": plain_overlaps(self.overlaps), "warnings": self.warnings()}

    def warnings(self) -> list[str]:
        """Return what of the splits was trained on, or seen in pre-training as far as that is known, one sentence each."""
        return self.leaks + said_overlaps(self.overlaps)


def leaks_of(data: LabelledData, splits: Sequence[str]) -> list[str]:
    """Return, for each of the splits whose sequences are in train too, a sentence that says how many.

    ``raypro task import`` leaves such rows out of train, unless it is told to keep a published split as it is.
    """
    trained = set(data.read("train").sequences)
    shared = {split: sum(sequence in trained for sequence in data.read(split).sequences) for split in splits}
    return [
        f"{split}: {count:,} of its sequences are in train too, so that its scores are too good" for split, count in shared.items() if count
    ]


def known_overlaps(encoder: str | Path | None, data: LabelledData) -> dict[str, Overlap]:
    """Return what the corpus that an encoder was pre-trained on shares with each split, where ``raypro corpus overlap`` has counted it.

    Nothing is known of an encoder without a checkpoint or a corpus, nor where either is not there any more.
    """
    if not encoder:
        return {}
    try:
        corpus = checkpoint.load(encoder).experiment.get("corpus")
        overlaps = Corpus.open(corpus).manifest.overlaps if corpus else ()
    except InputError:
        return {}
    splits = {file.sha256: file.split for file in data.manifest.files}
    return {splits[overlap.sha256]: overlap for overlap in overlaps if overlap.sha256 in splits}


def plain_overlaps(overlaps: Mapping[str, Overlap]) -> dict[str, dict[str, int]]:
    """Return the counts of overlaps, by split, as plain values."""
    return {split: {name: getattr(overlap, name) for name in ("rows", "identical", "near")} for split, overlap in overlaps.items()}


def said_overlaps(overlaps: Mapping[str, Overlap]) -> list[str]:
    """Return a sentence for each split of which overlaps are known."""
    return [
        f"{split}: of {o.rows:,} sequences the corpus of the encoder holds {o.identical:,}, and near duplicates of {o.near:,} others"
        for split, o in overlaps.items()
    ]


def tags_of_start(start: str | Path | None) -> dict[str, str]:
    """Return tags that say which pre-training a checkpoint is of: ``start_run_id`` of MLflow, ``start_corpus_checksum``,
    ``start_objective`` and ``start_step``.

    What is not known is left out: the id of a run that MLflow has not got yet, and of a checkpoint that lies in no run, as imported
    ones, anything but its step: the objective that an import writes only stands in for that of its authors.
    """
    if start is None:
        return {}
    folder = Path(start)
    about, run = (_json_object(path) for path in (folder / checkpoint.MODEL_FILES[1], folder.parent / RUN_FILE))
    experiment, sent = about.get("experiment") or {}, None
    with suppress(OSError, ValueError, TypeError):  # damaged: a tag is not worth a run
        sent = Sent.load(folder.parent)
    found = {
        "run_id": sent.run_id if sent else None,
        "corpus_checksum": str(run.get("data_checksum", ""))[:12] if "objective" in experiment else None,
        "objective": (experiment.get("objective") or {}).get("kind") if run else None,
        "step": about.get("step"),
    }
    return {f"{START}{name}": str(value) for name, value in found.items() if value not in (None, "")}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def score_and_report(model: FineTuned, data: LabelledData, run: Path, outbox: Outbox) -> Scores:
    """Score a run's best checkpoint on validation and test splits, beside baselines; write, draw, log and say what was found.

    Predictions go to ``predictions/SPLIT.parquet`` of the run's folder, all figures to ``scores.json``, pictures to ``pictures``.
    """
    task, splits = model.experiment.task, ["valid", *test_splits(data)]
    for folder in (run / PREDICTIONS, run / PICTURES):
        folder.mkdir(exist_ok=True)
    metrics, intervals = {}, {}
    for split in splits:
        examples = data.read(split)
        predictions, metrics[split] = predict_split(model, examples, f"predicting {split}")
        intervals[split] = task.intervals(predictions, examples.labels)
        columns = {"id": examples.ids, "sequence": examples.sequences, **task.columns(predictions, examples)}
        path = run / PREDICTIONS / f"{split}.parquet"
        pq.write_table(pa.table(columns), path)
        outbox.artifact(path, PREDICTIONS)
        for picture in task.pictures(predictions, examples, run / PICTURES, split):
            outbox.artifact(picture, PICTURES)
    overlaps = known_overlaps(model.experiment.start, data)
    scores = Scores(model, metrics, intervals, task.baselines(data, splits), leaks_of(data, splits), overlaps)
    log_scores(scores, run, outbox)
    print_scores(scores, run)
    return scores


def log_scores(scores: Scores, run: Path, outbox: Outbox) -> None:
    """Log all figures, and draw the model beside its baselines."""
    primary = {split: metrics[scores.primary] for split, metrics in scores.metrics.items()}
    figure = task_plots.against_baselines(scores.primary, primary, scores.intervals, scores.baselines)
    outbox.artifact(save(figure, run / PICTURES / "against_baselines.png"), PICTURES)
    (run / "scores.json").write_text(json.dumps(scores.to_plain(), indent=1) + "\n")
    outbox.artifact(run / "scores.json")
    for split, metrics in scores.metrics.items():
        group = split if split.startswith("test") else f"best_{split}" if split == "valid" else f"test_{split}"
        seen = scores.overlaps.get(split)
        leaks = {"corpus_identical": float(seen.identical), "corpus_near": float(seen.near)} if seen else {}
        outbox.metrics(scores.model.step, {f"{group}/{name}": value for name, value in {**metrics, **leaks}.items()})
    outbox.description(describe_scores(scores))


def print_scores(scores: Scores, run: Path) -> None:
    """Print the table that a person looks at first."""
    console, checkpoint = Console(), run / f"step_{scores.model.step:08d}"
    table = Table(title=f"{run.name}: best on validation at step {scores.model.step}; 95 % intervals", title_justify="left")
    for column in ("split", "metric", "this model", *scores.baselines):
        table.add_column(column)
    for row in scores.rows():
        table.add_row(*row)
    console.print(table)
    for warning in scores.warnings():
        console.print(f"[bold]overlap[/]      {warning}", soft_wrap=True, highlight=False)
    for word, place in (("predictions", run / PREDICTIONS), ("pictures", run / PICTURES), ("checkpoint", checkpoint)):
        console.print(f"{word:12} {place}", soft_wrap=True, highlight=False)
    raypro = Path(sys.executable).with_name("raypro")
    console.print(f"to predict   {raypro} predict --model {checkpoint} FASTA --out FILE", soft_wrap=True, highlight=False)


def describe_scores(scores: Scores) -> str:
    """Return the head of the run's page, in Markdown."""
    experiment = scores.model.experiment
    start = experiment.start or "random weights"
    lines = [
        f"{type(experiment.task).__name__} on `{Path(experiment.data).name}`, {type(experiment.encoder).__name__} from {start}"
        f"{', frozen' if experiment.frozen else ''}; best on validation at step {scores.model.step}.",
        "",
        f"| split | metric | this model (95 % interval) | {' | '.join(scores.baselines)} |",
        "| --- " * (3 + len(scores.baselines)) + "|",
    ]
    table = [f"| {' | '.join(row)} |" for row in scores.rows()]
    return "\n".join([*lines, *table, *(f"\n{warning}." for warning in scores.warnings())])


def _cell(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"
