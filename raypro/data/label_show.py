"""Labelled data as a person reads them: splits, lengths, the distribution of the labels, and where they came from."""

import json

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from raypro.data.labelled import Examples, LabelledData

_MOST_CLASSES = 12
_BINS = 12
_BAR = 40


def show(data: LabelledData, console: Console | None = None) -> None:
    """Print what labelled data hold.

    Args:
        data: the data.
        console: where to; the terminal by default.
    """
    console = console or Console()
    manifest = data.manifest
    console.print(f"[bold]{escape(str(data.path))}[/]: {data.kind}, {escape(manifest.label)}", soft_wrap=True)
    splits = {split: data.read(split) for split in data.splits}
    console.print(_lengths(splits))
    console.print(_LABELS[data.kind](splits, manifest.classes))
    rejected = [
        f"{count:,} {cause} ({split})" for split, causes in json.loads(manifest.rejected).items() for cause, count in causes.items()
    ]
    sources = [f"{source['file']} ({source['bytes']:,} bytes)" for source in json.loads(manifest.sources)]
    for name, text in (
        ("sources", "; ".join(sources)),
        ("splits", manifest.split_rule),
        ("left out", ", ".join(rejected) or "nothing"),
        ("created", manifest.created),
        ("checksum", manifest.checksum),
        *(("look", note) for note in manifest.notes),
    ):
        console.print(f"[bold]{name}[/]: {escape(text)}", soft_wrap=True, highlight=False)


def _table(title: str, *columns: str) -> Table:
    """A table whose columns but the first are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number else "left", no_wrap=True)
    return table


def _lengths(splits: dict[str, Examples]) -> Table:
    table = _table("Splits", "split", "sequences", "residues", "shortest", "median", "longest")
    for split, examples in splits.items():
        shortest, median, longest = np.quantile(examples.lengths, [0, 0.5, 1], method="lower")
        table.add_row(split, f"{len(examples):,}", f"{len(examples.tokens):,}", f"{shortest:,}", f"{median:,}", f"{longest:,}")
    return table


def _numbers(splits: dict[str, Examples], classes: tuple[str, ...]) -> Group:
    table = _table("Labels", "split", "mean", "deviation", "lowest", "median", "highest", "different")
    for split, examples in splits.items():
        v = examples.values
        figures = v.mean(), v.std(), v.min(), np.median(v), v.max()
        table.add_row(split, *(f"{figure:.4g}" for figure in figures), f"{len(np.unique(v)):,}")
    bars = _table("Labels of all splits", "from", "to", "sequences")
    bars.add_column("")
    counts, edges = np.histogram(np.concatenate([examples.values for examples in splits.values()]), bins=_BINS)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bars.add_row(f"{low:.4g}", f"{high:.4g}", f"{count:,}", "█" * round(_BAR * count / counts.max()))
    return Group(table, bars)


def _sequence_classes(splits: dict[str, Examples], classes: tuple[str, ...]) -> Table:
    counts = {split: np.bincount(examples.values, minlength=len(classes)) for split, examples in splits.items()}
    return _shares(counts, classes, f"Largest of {len(classes):,} classes" if len(classes) > _MOST_CLASSES else "Classes")


def _residue_classes(splits: dict[str, Examples], classes: tuple[str, ...]) -> Table:
    names = (*classes, "not scored")  # which is -1, so the last one of the counts
    counts = {split: np.bincount(examples.values % len(names), minlength=len(names)) for split, examples in splits.items()}
    return _shares(counts, names, "Classes of residues")


def _shares(counts: dict[str, NDArray[np.int64]], names: tuple[str, ...], title: str) -> Table:
    """Counts of each class by split, with the share; most frequent ones first where they are many."""
    table = _table(title, "class", *counts)
    total = sum(counts.values())
    order = np.argsort(-total, kind="stable")[:_MOST_CLASSES] if len(names) > _MOST_CLASSES else np.arange(len(names))
    for number in order:
        cells = [f"{n[number]:,} ({100 * n[number] / n.sum():.1f} %)" for n in counts.values()]
        table.add_row(escape(names[number]), *cells)
    if len(names) > _MOST_CLASSES:
        table.add_row("different ones", *(f"{np.count_nonzero(n):,}" for n in counts.values()))
    return table


def _contacts(splits: dict[str, Examples], classes: tuple[str, ...]) -> Table:
    table = _table("Contacts", "split", "all", "per residue", "6 apart or more", "per residue", "resolved")
    for split, examples in splits.items():
        apart = int((examples.values[:, 1] - examples.values[:, 0] >= 6).sum())
        total, residues = len(examples.values), len(examples.tokens)
        resolved = f"{100 * examples.resolved.mean():.1f} %"
        table.add_row(split, f"{total:,}", f"{total / residues:.2f}", f"{apart:,}", f"{apart / residues:.2f}", resolved)
    return table


_LABELS = {
    "regression": _numbers,
    "classification": _sequence_classes,
    "residue_classification": _residue_classes,
    "contacts": _contacts,
}
