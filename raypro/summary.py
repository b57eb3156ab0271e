"""The end of a run: what it learned against chance, measured, drawn, logged and said."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from raypro.checkpoint_probe import last_failure, recorded
from raypro.core.alphabet import STANDARD
from raypro.core.objectives.adversarial import BINS, SHOWN, Adversarial
from raypro.core.size import parameters
from raypro.data.corpus import Corpus
from raypro.data.synthetic import read_contacts
from raypro.evaluate import noiser_plots, plots, probe_plots
from raypro.experiment import Encoder, Experiment
from raypro.outbox import FOLDER, Outbox, read_records
from raypro.validation import Findings, load_model, unigram_floor, validate_model

PICTURES = "pictures"
MAP_TOKENS, MOST_SEQUENCES = 2_000_000, 8
"""What a family's contact map may cost at the end of a run, in tokens through the encoder, and the most sequences it is averaged over."""


def conclude(experiment: Experiment, run: Path, best: Path, outbox: Outbox) -> None:
    """Validate a run's best checkpoint, log metrics, pictures and a description, and print a summary."""
    model = load_model(best)
    corpus = Corpus.open(experiment.corpus)
    print(f"validating {best.name}", flush=True)
    sequences = affordable_sequences(max(map(len, read_contacts(corpus).values()), default=0))
    findings = validate_model(model, corpus, run / PICTURES, sequences)
    if not sequences and corpus.manifest.contacts:
        print(f"contact maps of long families take long on their own: raypro validate {best}", flush=True)
    outbox.metrics(model.step, {f"valid_{name}": value for name, value in findings.metrics.items()})  # so that pages show the curves first
    curves = (*draw_curves(experiment, run, corpus), *draw_noiser(experiment, run), *draw_probes(experiment, run))
    for picture in (*curves, *findings.pictures):
        outbox.artifact(picture, PICTURES)
    learned = [(CHANCE, compare_with_chance(findings)), (MASKED, compare_masking(model.metrics))]
    tables = [(head, rows) for head, rows in learned if rows]
    outbox.description(describe_run(experiment, corpus, model.step, tables, run))
    print_summary(run, tables, experiment)
    if failure := last_failure(run):
        print(f"warning: a probe failed, the last one at {failure}", flush=True)


def affordable_sequences(length: int) -> int:
    """Return how many sequences of ``length`` residues a contact map at the end of a run is averaged over: L (L - 1) / 2 passes each."""
    return min(MOST_SEQUENCES, MAP_TOKENS // max(1, length * (length - 1) // 2 * length))


def log_findings(run: Path, step: int, findings: Findings, folder: str) -> None:
    """Add later findings about a checkpoint to its run: as metrics, and as ``FOLDER/step_.../`` with the pictures and the figures."""
    outbox = Outbox(run, "validation")
    outbox.metrics(step, {f"{folder}/{name.replace('/', '_')}": value for name, value in findings.metrics.items()})
    place = f"{folder}/step_{step:08d}"
    outbox.text(f"{place}/metrics.json", json.dumps(findings.metrics, indent=1))
    for picture in findings.pictures:
        outbox.artifact(picture, place)
    outbox.close()


FLOORS: dict[str, Callable[[float], tuple[float | None, str]]] = {
    "masked": lambda unigram: (unigram, "masked residue"),
    "pairs": lambda unigram: (2 * unigram, "pair of masked residues"),
    "terms": lambda unigram: (None, "patch ahead"),
    "predicted": lambda unigram: (unigram, "residue"),
}
"""What each part of a loss is per, and what knowledge of residue frequencies alone reaches: nats, and in words."""


def logged_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) of each metric that the workers logged, in the order of the steps; what was done again counts."""
    points: dict[str, dict[int, float]] = {}
    for record, _ in read_records(run / FOLDER / "outbox-worker.jsonl", 0):
        if record and record["kind"] == "metrics":
            for name, value in record["values"].items():
                points.setdefault(name, {})[record["step"]] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def draw_curves(experiment: Experiment, run: Path, corpus: Corpus) -> tuple[Path, ...]:
    """Draw the learning curve of each part of the loss, from what the run logged."""
    points = logged_points(run)
    paths = []
    for quantity in experiment.objective.quantities:
        if quantity.weight:
            train, valid = (points.get(f"{split}/{quantity.name}", []) for split in ("train", "valid"))
            unigram = unigram_floor(corpus)
            # without context the two residues of a pair are independent; a contrast's floor changes with the batch
            floor, unit = FLOORS[quantity.per](unigram)
            figure = plots.learning_curves(train, valid, floor=floor, name=unit)
            paths.append(plots.save(figure, run / PICTURES / f"curve_{quantity.name}.png"))
    return tuple(paths)


def draw_noiser(experiment: Experiment, run: Path) -> tuple[Path, ...]:
    """Draw, of adversarial masking, how strong the noiser is and how it masks over the steps, and what it takes on validation."""
    if not isinstance(experiment.objective, Adversarial):
        return ()
    points = logged_points(run)
    last = {name.removeprefix("valid_"): values[-1][1] for name, values in points.items() if name.startswith("valid_noiser")}
    shares = {kind: {letter: last[f"noiser_{kind}/{letter}"] for letter in STANDARD} for kind in ("chosen", "candidates")}
    figures = {
        "habits": noiser_plots.habits(points["train_noiser/entropy"], {way: points[f"train_noiser/{way}"] for way in SHOWN}),
        "residues": noiser_plots.residues(**shares),
        "places": noiser_plots.places([last[f"noiser_place/{place}"] for place in range(BINS)]),
    }
    if "train/loss_random" in points:
        figures["strength"] = noiser_plots.strength(points["train/loss_adversarial"], points["train/loss_random"])
    return tuple(plots.save(figure, run / PICTURES / f"noiser_{name}.png") for name, figure in figures.items())


def draw_probes(experiment: Experiment, run: Path) -> tuple[Path, ...]:
    """Draw how the probe's figure went over the steps, where checkpoints were probed."""
    name = experiment.probe.metric
    points = [(step, metrics[name]) for step, metrics in recorded(run).items() if name in metrics]
    if not points:
        return ()
    task, metric = name.split("/")[1:]
    return (plots.save(probe_plots.over_steps(points, metric, task), run / PICTURES / f"probe_{task}.png"),)


Row = tuple[str, float, float]
"""What was measured, and two figures of it."""
Compared = tuple[tuple[str, str, str], list[Row]]
"""A table: what its columns are, and its rows."""
CHANCE = ("on sequences held out of training", "learned", "by chance")
MASKED = ("on sequences held out of training", "masked by the noiser", "masked at random")


def compare_with_chance(findings: Findings) -> list[Row]:
    """Return (what, learned, by chance) for a person: only what was measured."""
    metrics = findings.metrics
    rows = [("perplexity of a masked residue (1 is certain, 20 no idea)", "table2/perplexity", "chance/perplexity")]
    rows.append(("perplexity of the next residue (1 is certain, 20 no idea)", "next_token/perplexity", "chance/perplexity"))
    contacts = "contacts: true share of the L/5 surest pairs, 6 or more apart"
    rows.append((contacts, "contacts/P_at_L5_all", "contacts/random_precision_all"))
    rows.append((f"{contacts}; families never seen", "contacts_unseen/P_at_L5_all", "contacts_unseen/random_precision_all"))
    rows.append(("patches ahead told apart from those of other sequences", "contrast/accuracy_cpc", "contrast/chance_cpc"))
    return [(what, metrics[name], metrics[chance]) for what, name, chance in rows if math.isfinite(metrics.get(name, math.nan))]


def compare_masking(metrics: Mapping[str, float]) -> list[Row]:
    """Return, of adversarial masking, the loss on what the noiser masks and on what is masked at random, of the same model."""
    names = ("valid/loss_adversarial", "valid/loss_random")
    return [("loss of a masked residue, nats", metrics[names[0]], metrics[names[1]])] if all(name in metrics for name in names) else []


def describe_run(experiment: Experiment, corpus: Corpus, step: int, tables: list[Compared], run: Path) -> str:
    """Return the Markdown that heads the run's page in MLflow."""
    encoder, kind = type(experiment.encoder).__name__.removesuffix("Shape"), type(experiment.objective).__name__
    shown = ""
    for head, rows in tables:
        lines = "".join(f"| {what} | {one:.3f} | {other:.3f} |\n" for what, one, other in rows)
        shown += f"| {' | '.join(head)} |\n|---|---|---|\n{lines}\n"
    size = encoder_size(experiment.encoder)
    data = f"`{corpus.path.name}` ({corpus.rows('train'):,} sequences)"
    what = f"{kind}, {encoder} of {size:,} parameters, on {data}, best at step {step:,}"
    text = f"{what}. Pictures are artifacts under `{PICTURES}`; checkpoints are in `{run}`."
    units = "".join(f"| {names} | {unit} |\n" for names, unit in UNITS)
    return f"{shown}{text}\n\n| metric | what it is |\n|---|---|\n{units}"


UNITS = (
    ("`loss`, `loss_...`", "nats, a mean over what is predicted: masked residues, pairs of them, patches ahead"),
    ("`accuracy...`, `P_at_...`", "share of right ones, 0 to 1"),
    ("`perplexity`", "1 (certain) to 20 (no idea)"),
    ("`train/epoch`, `train/residues`, `train/tokens`", "since the start, of all workers; tokens are residues, and two more a sequence"),
    ("`train/minutes`", "minutes of training, validation included"),
    ("`speed/..._per_second`", "of all workers, in a second of training without validation"),
    ("`speed/padding_waste`, `speed/waiting_for_data`", "share of the tokens, share of the time, 0 to 1"),
    ("`system/..._gb`", "10^9 bytes, of the first worker"),
)
"""What the metrics of a run are: the end of its description."""


def encoder_size(shape: Encoder) -> int:
    """Return the number of weights of an encoder, without building them."""
    with torch.device("meta"):
        return parameters(shape.build())


def print_summary(run: Path, tables: list[Compared], experiment: Experiment) -> None:
    """Print what the run learned, and where to look."""
    console = Console()
    for number, ((what, one, other), rows) in enumerate(tables):
        table = Table(title=None if number else f"What {run.name} learned", title_justify="left", title_style="bold")
        table.add_column(what)
        table.add_column(one, justify="right", style="bold")
        table.add_column(other, justify="right")
        for name, *figures in rows:
            table.add_row(name, *(f"{figure:.3f}" for figure in figures))
        console.print(table)
    console.print(f"pictures     {run / PICTURES}", soft_wrap=True, highlight=False)
    console.print(f"checkpoints  {run}", soft_wrap=True, highlight=False)
    where = f"experiment '{experiment.tracking.experiment or experiment.stage}', run '{run.name}'"
    command = os.path.relpath(Path(sys.executable).with_name("raypro"))
    console.print(f"in MLflow    {where}; to browse: {command} ui", soft_wrap=True, highlight=False)
