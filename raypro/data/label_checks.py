"""What is checked of labelled sequences together: sequences in two splits, classes that cannot be learned, repeated sequences.

Published splits are kept as they are but for what leaks: a sequence that is in two splits stays in the later one of train, valid,
test sets. Test sets are each kept whole, and so are repeated sequences within a split; both are said, and what is kept in several
splits is listed.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from raypro.core.batch import ContactLabel
from raypro.data.label_arrays import UNSCORED
from raypro.data.label_records import MISSING_ELSEWHERE

LEAK = "sequence that is also in a later split"
UNKNOWN_CLASS = "class that never occurs in train"
NO_SPLIT = "none"
"""Split of a rejected record that was not given one."""


@dataclass(frozen=True)
class Record:
    """One labelled sequence, and where it comes from."""

    source: str
    row: int
    id: str
    split: str
    sequence: str
    label: Any


class Rejects:
    """The records that are not used, and why.

    Attributes:
        counts: their number, by split and cause.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._rows: list[tuple[str, int, str, str, str, str]] = []

    def add(self, source: str, row: int, split: str, name: str, cause: str, detail: str = "") -> None:
        """Add a record: file, row from 1, split, id, and why it is not used."""
        self._rows.append((source, row, split, name, cause, detail))
        self.counts[split][cause] += 1

    def add_record(self, record: Record, cause: str, detail: str) -> None:
        """Add a record that was read well but is not used."""
        self.add(record.source, record.row, record.split, record.id, cause, detail)

    def write(self, path: Path) -> None:
        """Write them as a table, tab-separated."""
        _write(path, ("source", "row", "split", "id", "cause", "detail"), self._rows)


def in_order(splits: Iterable[str]) -> list[str]:
    """Return the splits, each once: train, valid, then the test sets as they come."""
    return sorted(dict.fromkeys(splits), key=_rank)


def without_leaks(records: Sequence[Record], rejects: Rejects) -> list[Record]:
    """Return the records whose sequence is in no later split of train, valid, test sets; the others go to ``rejects``."""
    latest: dict[str, str] = {}
    for record in records:
        if _rank(record.split) >= _rank(latest.get(record.sequence, record.split)):
            latest[record.sequence] = record.split
    kept = []
    for record in records:
        if _rank(record.split) < _rank(latest[record.sequence]):
            rejects.add_record(record, LEAK, f"kept in {latest[record.sequence]}")
        else:
            kept.append(record)
    return kept


def write_shared(records: Sequence[Record], path: Path) -> None:
    """Write the records whose sequence is in other splits too as a table, tab-separated; no file where there are none."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.sequence].add(record.split)
    shared = [(record, in_order(splits[record.sequence] - {record.split})) for record in records if len(splits[record.sequence]) > 1]
    if shared:
        rows = sorted(((r.source, r.row, r.split, r.id, ", ".join(others), r.sequence) for r, others in shared), key=lambda row: row[-1])
        _write(path, ("source", "row", "split", "id", "also in", "sequence"), rows)


def classes_in(records: Sequence[Record], kind: str) -> tuple[str, ...]:
    """Return the classes that occur in train, by number where all are numbers, else by the alphabet; none for other kinds."""
    labels = (record.label for record in records if record.split == "train")
    found = set[str]()
    if kind == "classification":
        found.update(labels)
    elif kind == "residue_classification":
        found = found.union(*map(set, labels)) - {UNSCORED}
    numbers = all(name.isdecimal() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))


def of_known_classes(records: Sequence[Record], kind: str, classes: Sequence[str], rejects: Rejects) -> list[Record]:
    """Return the records whose classes are among ``classes``; the others go to ``rejects``."""
    if not kind.endswith("classification"):
        return list(records)
    known, kept = {*classes, UNSCORED} if kind == "residue_classification" else set(classes), []
    for record in records:
        strange = set(record.label if kind == "residue_classification" else [record.label]) - known
        if strange:
            rejects.add_record(record, UNKNOWN_CLASS, ", ".join(sorted(strange)))
        else:
            kept.append(record)
    return kept


def notes_on(records: Sequence[Record], kind: str, classes: Sequence[str]) -> Iterator[str]:
    """Yield what a person should know of the records that are kept, one sentence each."""
    splits: dict[str, list[Record]] = {split: [] for split in in_order(record.split for record in records)}
    for record in records:
        splits[record.split].append(record)
    for split in ("train", "valid"):
        if split not in splits:
            yield f"there is no {split} split; fine-tuning needs one"
    for split, its in splits.items():
        first: dict[str, Any] = {}
        repeats = other = 0
        for record in its:
            value = _comparable(record.label)
            repeats += record.sequence in first
            other += first.setdefault(record.sequence, value) != value
        if repeats:
            differing = f"{other:,} of them with another label; " if other else ""
            yield f"{split}: {repeats:,} repeat an earlier sequence of the split, {differing}all are kept"
    sequences = {split: {record.sequence for record in its} for split, its in splits.items()}
    for (a, in_a), (b, in_b) in combinations(sequences.items(), 2):
        shared = len(in_a & in_b)
        if shared and _rank(a) < _rank(b):
            yield f"{shared:,} sequences of {a} are also in {b}, as you asked: scores on {b} are too good"
        elif shared:
            yield f"{a} and {b} share {shared:,} sequences; each test set is kept whole"
    odd = [name for name in classes if kind == "classification" and name.lower() in MISSING_ELSEWHERE]
    if odd:
        yield f"a class is called {', '.join(odd)}: if that means a missing label, leave those cells empty"
    train = len(splits.get("train", ()))
    if kind == "classification" and len(classes) > max(train / 2, 1):
        yield f"{len(classes):,} classes for {train:,} sequences of train: are the labels numbers (--kind regression)?"


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _rank(split: str) -> int:
    return {"train": 0, "valid": 1}.get(split, 2)


def _comparable(label: Any) -> Any:
    return (label.pairs.tobytes(), label.resolved.tobytes()) if isinstance(label, ContactLabel) else label
