"""Proof, from a run's own record, that every sequence of an epoch was used exactly once, whatever happened in between."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raypro.core import checkpoint
from raypro.data.plan import Cursor, Plan, digest
from raypro.data.source import Use
from raypro.experiment import AnyExperiment, FineTuning
from raypro.finetuning import labelled_steps
from raypro.outbox import last_status
from raypro.training import RECORD


@dataclass
class EpochAudit:
    """What the record says of one epoch."""

    epoch: int
    windows: int
    """Windows of the plan."""
    whole: int = 0
    """Windows whose every row was used, once."""
    opened: int = 0
    """Windows begun and not finished: only where the run ended in mid-epoch."""
    rows: int = 0
    """Rows used, each use counted."""
    wrong: list[str] = field(default_factory=list)
    """What was used twice, or left out."""


def read_uses(run: Path) -> list[Use]:
    """Return what a run used, as of its last checkpoint."""
    files = sorted((run / RECORD).glob("step_*.jsonl"))
    return [Use(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


Windows = Callable[[int], Sequence[NDArray[np.int64]]]
"""The rows of each window of an epoch; in fine-tuning, of each step."""


def audit(windows: Windows, uses: list[Use], ended: int = 0) -> list[EpochAudit]:
    """Compare a record with the plan: the digests of a window's batches must add up to that of its rows.

    The digest of a set of rows is a sum of 64-bit hashes, so no other set that could come of a fault has it; a batch that was
    used twice is also seen by its number. In all epochs but the last every window must be whole, and in the last too where it is one of
    the ``ended`` epochs (:func:`epochs_ended`). An epoch without any use is one that was left out.
    """
    by_epoch: dict[int, dict[int, list[Use]]] = defaultdict(lambda: defaultdict(list))
    for use in uses:
        by_epoch[use.epoch][use.window].append(use)
    last = max(by_epoch, default=-1)
    epochs = range(max(last + 1, ended))
    return [_audit_epoch(epoch, windows(epoch), by_epoch.get(epoch, {}), finished=epoch < max(last, ended)) for epoch in epochs]


def epochs_ended(run: Path, experiment: AnyExperiment) -> int:
    """Return how many epochs a run has ended: by its last checkpoint, and where nothing but a number of epochs could end it, by that."""
    budget, latest = experiment.budget, max(run.glob("step_*"), default=None)
    whole = budget.steps is None and budget.minutes is None and budget.residues is None and experiment.validation.patience is None
    if budget.epochs is not None and whole and last_status(run) == "FINISHED":
        return budget.epochs
    if latest is None:
        return 0
    cursor = checkpoint.load_training(latest)["cursor"]
    if isinstance(experiment, FineTuning):
        steps = len(labelled_steps(experiment)(cursor["epoch"]))
        return cursor["epoch"] + (cursor["steps"] == steps)
    reached = Cursor.from_plain(cursor)
    return reached.epoch + (not any(reached.hand(rank) for rank in range(reached.workers)))


def planned(plan: Plan) -> Windows:
    """Return the windows of a plan, which are the same in every epoch."""
    return lambda epoch: [groups[0].first_row + np.arange(sum(group.rows for group in groups)) for groups in plan.windows]


def _audit_epoch(epoch: int, windows: Sequence[NDArray[np.int64]], by_window: dict[int, list[Use]], finished: bool) -> EpochAudit:
    found = EpochAudit(epoch, len(windows))
    for window, expected in enumerate(windows):
        uses = by_window.get(window, [])
        rows = sum(use.rows for use in uses)
        found.rows += rows
        twice = len(uses) - len({use.batch for use in uses})
        same = sum(use.digest for use in uses) % 2**64 == digest(expected)
        if twice or rows > len(expected) or (rows == len(expected) and not same):
            found.wrong.append(f"window {window}: {rows} rows used, {len(expected)} there, {twice} batches twice")
        elif rows == len(expected):
            found.whole += 1
        elif finished:
            found.wrong.append(f"window {window}: {rows} rows used, {len(expected)} there")
        else:
            found.opened += bool(uses)
    return found
