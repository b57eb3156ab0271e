"""What a task is. A new kind is one file beside this one and one name in the line ``Task = ...`` of ``raypro/experiment.py``.

A task is a frozen dataclass and a :class:`raypro.core.objectives.objective.Objective`, so that the one loop trains it: it says which
labels it wants, builds the head, gives the loss; and beyond that it predicts, is scored against chance and baselines, and drawn.
Drawing and baselines are imported where they are used: workers, which only train, start seconds sooner without matplotlib and scikit-learn.
Legend: B sequences, T tokens, L residues of one sequence, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.batch import LabelledBatch
from raypro.core.objectives.objective import Objective
from raypro.data.labelled import Examples, LabelledData

Interval = tuple[float, float]
"""A 95 % interval."""


class Task(Objective, Protocol):
    """What :class:`raypro.core.objectives.objective.Objective` asks for, and the rest of a task's life."""

    labels: ClassVar[str]
    """The kind of labels that it learns: one of :data:`raypro.data.labelled.KINDS`."""
    primary: ClassVar[str]
    """The metric, higher is better, that chooses the best checkpoint on the validation split."""

    def fitted_to(self, data: LabelledData) -> Self:
        """Return the task with what only the data know: classes, the labels' mean and spread."""

    def outputs(self, model: Any, prepared: Any) -> Any:
        """Return what the head gives for a prepared batch, differentiable."""

    def sums_of(self, outputs: Any, prepared: Any) -> Tensor:
        """Return the sums [number of quantities] of those outputs."""

    def predictions(self, outputs: Any, prepared: Any) -> list[Any]:
        """Return what is predicted for each sequence, as numbers and numpy arrays."""

    def score(self, predictions: Sequence[Any], labels: Sequence[Any]) -> dict[str, float]:
        """Return the metrics of predictions, one a sequence."""

    def intervals(self, predictions: Sequence[Any], labels: Sequence[Any]) -> dict[str, Interval]:
        """Return 95 % bootstrap intervals, over sequences, of the metrics that matter."""

    def baselines(self, data: LabelledData, splits: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Return baseline -> split -> metrics of what needs no model of proteins."""

    def pictures(self, predictions: Sequence[Any], examples: Examples, folder: Path, name: str) -> list[Path]:
        """Draw the predictions of a split (its name is the title's and the files') against what is true."""

    def columns(self, predictions: Sequence[Any], examples: Examples | None) -> dict[str, list[Any]]:
        """Return predictions (and, where examples are given, their labels) as the columns of a table, one row a sequence."""


@dataclass(frozen=True)
class PreparedSequences:
    """Sequences with their labels as tensors."""

    tokens: Tensor
    """[B, T] int64."""
    vectors: Tensor | None
    """[B, T, D] of a frozen encoder, or None."""
    targets: tuple[Tensor, ...]
    """The labels, as the task has them."""
    counts: Mapping[str, int]
    """How many terms the loss runs over."""

    @classmethod
    def of(cls, batch: LabelledBatch, targets: Sequence[Tensor], counts: Mapping[str, int]) -> "PreparedSequences":
        """Return a batch with its targets and counts."""
        return cls(batch.tokens, batch.vectors, tuple(targets), counts)

    def to(self, device: torch.device) -> "PreparedSequences":
        """Return the same with its tensors on ``device``."""
        vectors = None if self.vectors is None else self.vectors.to(device)
        return replace(self, tokens=self.tokens.to(device), vectors=vectors, targets=tuple(t.to(device) for t in self.targets))


class TaskModel(nn.Module):
    """An encoder and a task's head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def hidden(self, prepared: PreparedSequences) -> Tensor:
        """Return the encoder's vectors [B, T, D], in float32: those computed before where there are any."""
        if prepared.vectors is not None:
            return prepared.vectors
        vectors: Tensor = self.encoder(prepared.tokens)
        return vectors


def require_labels(task: Task, data: LabelledData) -> None:
    """Raise InputError if the data's labels are of another kind than the task learns."""
    if data.kind != task.labels:
        raise InputError(f"task: {type(task).__name__} learns {task.labels} labels, {data.path} holds {data.kind}; choose another --task")


def require_head(hidden: int, dropout: float) -> None:
    """Raise InputError for a head that cannot be built."""
    if hidden < 1:
        raise InputError(f"task: {hidden} hidden units; give 1 or more")
    if not 0 <= dropout < 1:
        raise InputError(f"task.dropout: {dropout} must be in [0, 1)")
