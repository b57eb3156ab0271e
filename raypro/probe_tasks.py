"""An encoder judged by probes: on labelled data, or by the nearest neighbours among families; always beside its baselines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypro.config import InputError, nearest
from raypro.data.corpus import Overlap
from raypro.data.labelled import LabelledData
from raypro.data.records import Limits
from raypro.encoder import LoadedEncoder
from raypro.evaluate.families import Grouped, draw_families, read_families
from raypro.evaluate.metrics import bootstrap
from raypro.evaluate.probes import Probe, class_probes, draw_residues, logistic_probe, nearest_neighbour, value_probes
from raypro.representations import Representation, map_residues, with_baselines
from raypro.tasks.contacts import Contacts
from raypro.tasks.residues import ResidueClassification
from raypro.tasks.tape import TASKS, require_task
from raypro.tasks.task import Interval

FAMILIES, CONTRASTIVE = "families", "contrastive"
PROBES = (*(name for name, task in TASKS.items() if task is not Contacts), FAMILIES, CONTRASTIVE)
"""What an encoder may be probed on: tasks that have a number or a class for a sequence or a residue, families, and its own contrast."""
TRAIN_PROTEINS, VALID_PROTEINS, TRAIN_RESIDUES = 1000, 300, 50_000
"""Per residue: proteins of the training split that residues are drawn from, those of the validation split, residues that are fitted."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class Split:
    """Proteins of a split with their labels, as :class:`raypro.data.labelled.Examples` has them, those without a vector left out."""

    ids: list[str]
    sequences: list[str]
    labels: list[Any]

    def some(self, most: int, seed: int) -> "Split":
        """Return at most so many of the proteins, drawn at random, in their order."""
        rows = sorted(np.random.default_rng(seed).permutation(len(self.ids))[:most].tolist())
        return Split(*([values[row] for row in rows] for values in (self.ids, self.sequences, self.labels)))


@dataclass(frozen=True)
class Finding:
    """What one probe finds in one representation."""

    representation: str
    probe: str
    setting: str
    """What validation chose, as ``k = 5``; empty where there was no choice."""
    tried: Metrics
    """The primary metric on validation of each setting."""
    note: str
    scores: dict[str, Metrics]
    """Split -> metric -> value."""
    intervals: dict[str, dict[str, Interval]]
    """Split -> metric -> 95 % bootstrap interval."""
    predictions: dict[str, list[Any]]
    """Split -> a prediction a protein; empty where nothing is predicted of one protein alone."""


@dataclass(frozen=True)
class Evaluation:
    """An encoder's probes on one task."""

    probe: str
    """One of :data:`PROBES`."""
    primary: str
    """The metric that settings are chosen by."""
    task: Any
    """The task, see :mod:`raypro.tasks.task`; None for families and the contrast."""
    splits: dict[str, Split]
    """What is predicted: ``valid`` where settings are chosen, and the test splits."""
    findings: list[Finding]
    """The encoder's own first, then those of the baselines."""
    representations: list[Representation]
    """The encoder first."""
    notes: list[str]
    """What the figures rest on, a sentence each."""
    train_size: int
    """Sequences (residues, where each has a label) that probes were fitted to, or that are known."""
    families: tuple[str, ...] = ()
    """Names of the families, in the order of the labels."""
    overlaps: Mapping[str, Overlap] = field(default_factory=dict)
    """What the corpus of the encoder is known to share with a split."""

    def beside_baselines_of(self, other: "Evaluation") -> "Evaluation":
        """Return this evaluation with the baselines of another one: of an encoder of the same shape, on the same data."""
        mine, first = self.representations[:1], other.representations[0].name
        baselines = [finding for finding in other.findings if finding.representation != first]
        return replace(self, findings=self.own + baselines, representations=mine + other.representations[1:])

    @property
    def about(self) -> dict[str, str]:
        """How each representation is made."""
        residues = isinstance(self.task, ResidueClassification)
        return {representation.name: representation.about(residues) for representation in self.representations}

    @property
    def own(self) -> list[Finding]:
        """What was found in the encoder itself."""
        return [finding for finding in self.findings if finding.representation == self.representations[0].name]

    @property
    def metrics(self) -> Metrics:
        """The figures of the encoder itself: ``<probe>_<metric>_<split>``."""
        return {
            f"{finding.probe}_{name}_{split}".replace(" ", "_"): value
            for finding in self.own
            for split, metrics in finding.scores.items()
            for name, value in metrics.items()
        }


def evaluate_labelled(
    encoder: LoadedEncoder,
    probe: str,
    data: LabelledData,
    pooling: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    fitted: int | None = None,
    predicted: int | None = None,
    tests: bool = True,
) -> Evaluation:
    """Probe an encoder on labelled data.

    Args:
        encoder: the encoder, which is not changed.
        probe: one of :data:`PROBES` on labelled data.
        data: with the splits ``train``, which probes are fitted to, and ``valid``, which chooses; all others are tests.
        pooling: how the encoder makes one vector of a sequence; None: its default.
        baselines: probe random weights, one-hot, composition and k-mers too.
        seed: of random weights and of what is drawn.
        fitted: most proteins of ``train``, drawn at random; None: all.
        predicted: most proteins of each other split, drawn at random; None: all.
        tests: look at the test splits, and not only at ``valid``, as while a model is still being trained.

    Raises:
        InputError: the data hold other labels, lack a split, or leave nothing to probe.
    """
    task = require_labels(probe, data).fitted_to(data)
    splits, notes = _read(data, data.splits if tests else ("train", "valid"), encoder.limits)
    for name, split in splits.items():
        most = fitted if name == "train" else predicted
        if most is not None and most < len(split.ids):
            notes.append(f"{name}: {most:,} of {len(split.ids):,} sequences, drawn at random")
            splits[name] = split.some(most, seed)
    train, residues = splits.pop("train"), isinstance(task, ResidueClassification)
    if residues:
        train, splits["valid"] = train.some(TRAIN_PROTEINS, seed), splits["valid"].some(VALID_PROTEINS, seed)
    outputs = len(getattr(task, "classes", ())) or 1
    shown = with_baselines(encoder, pooling, max(map(len, train.sequences)), outputs, seed)[: None if baselines else 1]
    size = len(train.ids)
    if residues:
        kept = draw_residues(train.labels, TRAIN_RESIDUES, seed)
        size = sum(map(len, kept))
        notes.append(f"fitted to {size:,} residues of {len(train.ids):,} training proteins, chosen by {len(splits['valid'].ids):,}")
        findings = [_probe_residues(task, r, train, kept, splits) for r in shown]
    else:
        findings = [finding for r in shown for finding in _probe_sequences(task, r, train, splits)]
    notes += ["dense vectors are standardised with the training vectors' mean and standard deviation"]
    return Evaluation(probe, task.primary, task, splits, findings, shown, notes, size)


def evaluate_families(
    encoder: LoadedEncoder,
    path: str | Path,
    pooling: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    families: int = 50,
    members: int = 120,
    column: str = "family",
) -> Evaluation:
    """Ask for the family of each protein's nearest neighbour; see :mod:`raypro.evaluate.families`, :func:`evaluate_labelled` for the rest.

    Args:
        encoder: the encoder.
        path: proteins with families, as :func:`raypro.evaluate.families.read_families` takes them.
        pooling: how the encoder makes one vector of a sequence.
        baselines: probe the baselines too.
        seed: of the drawing, and of random weights.
        families: families to take, the largest.
        members: distinct sequences of each.
        column: what proteins are grouped by.
    """
    proteins = read_families(path, column, encoder.limits)
    draw = draw_families(proteins, families, members, seed=seed)
    known, asked = (_rows(proteins, draw.labels, rows) for rows in (draw.train, draw.test))
    shown = with_baselines(encoder, pooling, max(map(len, known.sequences)), 1, seed)[: None if baselines else 1]
    findings, true = [], np.array(asked.labels)
    for representation in shown:
        vectors = representation.of_sequences(known.sequences)
        predicted = nearest_neighbour(vectors, np.array(known.labels), representation.of_sequences(asked.sequences))
        hits = predicted == true
        interval = bootstrap(lambda index, hits=hits: float(hits[index].mean()), len(hits), seed=seed)
        score = {"accuracy": float(hits.mean())}
        findings.append(
            Finding(
                representation.name,
                "nearest neighbour",
                "",
                {},
                "",
                {"test": score},
                {"test": {"accuracy": interval}},
                {"test": predicted.tolist()},
            )
        )
    notes = [f"{draw.said}; by chance {1 / len(draw.families):.3f}", "dense vectors are standardised with the known ones' statistics"]
    return Evaluation(FAMILIES, "accuracy", None, {"test": asked}, findings, shown, notes, len(known.ids), draw.families)


def require_probe(name: str) -> None:
    """Raise InputError if there is no such probe."""
    if name not in PROBES:
        raise InputError(f"--probe {name}: no such probe{nearest(name, list(PROBES))}")


def require_labels(probe: str, data: LabelledData) -> Any:
    """Return the task of a probe on labelled data.

    Raises:
        InputError: there is none, or the data hold other labels, are of another task or lack a split.
    """
    require_probe(probe)
    task = TASKS[probe]() if probe in TASKS else None
    if task is None or data.kind != task.labels:
        wants = f"needs {task.labels} labels, {data.path} holds {data.kind}" if task else "is no probe on labelled data"
        raise InputError(f"--probe {probe}: {wants}; choose another --probe or other --data")
    require_task(probe, data, "--probe")
    if absent := {"train", "valid"} - {*data.splits}:
        raise InputError(f"{data.path}: no {min(absent)} split; probes are fitted to train and chosen by valid: import the data with both")
    return task


def _probe_sequences(task: Any, representation: Representation, train: Split, splits: dict[str, Split]) -> Iterator[Finding]:
    """Yield what the probes of whole sequences find in a representation."""
    x, y = representation.of_sequences(train.sequences), np.array(train.labels)
    of_split = {name: representation.of_sequences(split.sequences) for name, split in splits.items()}
    valid, valid_labels = of_split["valid"], np.array(splits["valid"].labels)
    if task.labels == "classification":
        probes = class_probes(x, y, valid, valid_labels, len(task.classes))
    else:
        probes = value_probes(x, y, valid, valid_labels)
    for probe in probes:
        predictions = {name: list(probe.predict(vectors)) for name, vectors in of_split.items()}
        yield _finding(task, representation, probe, predictions, splits)


def _probe_residues(
    task: Any, representation: Representation, train: Split, kept: Sequence[NDArray[np.int64]], splits: dict[str, Split]
) -> Finding:
    """Return what a logistic regression finds in a representation's vectors of residues; ``kept`` are those of each training protein."""
    x = np.concatenate(map_residues(representation, train.sequences, lambda row, vectors: vectors[kept[row]]))
    y = np.concatenate([label[places] for label, places in zip(train.labels, kept, strict=True)])
    valid = splits["valid"]
    scored = [np.flatnonzero(label >= 0) for label in valid.labels]
    v = np.concatenate(map_residues(representation, valid.sequences, lambda row, vectors: vectors[scored[row]]))
    v_labels = np.concatenate([label[places] for label, places in zip(valid.labels, scored, strict=True)])
    probe = logistic_probe(x, y, v, v_labels, len(task.classes))

    def predict(_: int, vectors: NDArray[np.float32]) -> NDArray[np.floating]:
        return probe.predict(vectors)

    predictions = {name: map_residues(representation, split.sequences, predict) for name, split in splits.items()}
    return _finding(task, representation, probe, predictions, splits)


def _finding(
    task: Any, representation: Representation, probe: Probe, predictions: dict[str, list[Any]], splits: dict[str, Split]
) -> Finding:
    scores = {name: task.score(predictions[name], split.labels) for name, split in splits.items()}
    intervals = {name: task.intervals(predictions[name], split.labels) for name, split in splits.items()}
    return Finding(representation.name, probe.method, probe.setting, probe.tried, probe.note, scores, intervals, predictions)


def _read(data: LabelledData, names: Sequence[str], limits: Limits) -> tuple[dict[str, Split], list[str]]:
    """Return the splits without the proteins that are too short or too long, and what a person should know of that."""
    splits, notes = {}, []
    for name in names:
        examples = data.read(name)
        rows = np.flatnonzero([limits.allow(length) for length in examples.lengths])
        if not len(rows):
            raise InputError(f"{data.path}: {name}: no sequence of {limits.said}, as this encoder needs")
        if left_out := len(examples) - len(rows):
            notes.append(f"{name}: {left_out:,} sequences left out: the encoder has vectors for {limits.said} only")
        ids = examples.ids
        splits[name] = Split([ids[r] for r in rows], [examples.sequence(r) for r in rows], [examples.label(r) for r in rows])
    return splits, notes


def _rows(proteins: Grouped, labels: NDArray[np.int64], rows: NDArray[np.int64]) -> Split:
    return Split([proteins.ids[r] for r in rows], [proteins.sequences[r] for r in rows], labels[rows].tolist())
