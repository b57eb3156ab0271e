"""A class for each protein: TAPE's remote homology (1,195 folds), or a user's own.

Loss: cross entropy. Head: pooling over the residues, then one hidden layer (TAPE's, Rao et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypro.core.batch import LabelledBatch
from raypro.core.heads import PooledHead, PoolingKind
from raypro.core.objectives.objective import Quantity
from raypro.data.labelled import Examples, LabelledData
from raypro.evaluate import metrics
from raypro.tasks.task import Interval, PreparedSequences, TaskModel, require_head, require_labels


@dataclass(frozen=True)
class Classification:
    """Classification of sequences."""

    pooling: PoolingKind = "attention"
    """How a protein's vectors become one: TAPE's attention, mean, max, or the encoder's own summary."""
    hidden: int = 512
    """Units of the head's hidden layer."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit of the head."""
    classes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """The names of the classes."""

    labels: ClassVar[str] = "classification"
    primary: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        require_head(self.hidden, self.dropout)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Cross entropy in nats, and accuracy."""
        return (Quantity("cross_entropy", "sequences", 1.0), Quantity("hits", "sequences", 0.0))

    def fitted_to(self, data: LabelledData) -> "Classification":
        """Return the task with the data's classes."""
        require_labels(self, data)
        return replace(self, classes=data.manifest.classes)

    def build(self, encoder: nn.Module) -> TaskModel:
        """Return the encoder with the head."""
        return TaskModel(encoder, PooledHead(self.pooling, encoder, len(self.classes), self.hidden, self.dropout))

    def prepare(self, batch: LabelledBatch) -> PreparedSequences:
        """Return the labels as a tensor."""
        return PreparedSequences.of(batch, [torch.tensor(batch.labels, dtype=torch.int64)], {"sequences": len(batch.labels)})

    def outputs(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return logits [B, C]."""
        return model.head(model.hidden(prepared), prepared.tokens).float()

    def sums_of(self, outputs: Tensor, prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies, correct ones]."""
        (target,) = prepared.targets
        hits = (outputs.detach().argmax(dim=1) == target).sum()
        return torch.stack([cross_entropy(outputs, target, reduction="sum"), hits.to(outputs.dtype)])

    def sums(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies, correct ones]."""
        return self.sums_of(self.outputs(model, prepared), prepared)

    def predictions(self, outputs: Tensor, prepared: PreparedSequences) -> list[NDArray[np.float32]]:
        """Return each sequence's probabilities [C]."""
        return list(outputs.softmax(dim=1).cpu().numpy())

    def score(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[int]) -> dict[str, float]:
        """Return top-1 and top-10 accuracy (:func:`raypro.evaluate.metrics.classification_metrics`)."""
        return metrics.classification_metrics(np.stack(predictions), np.array(labels))

    def intervals(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[int]) -> dict[str, Interval]:
        """Return the intervals of top-1 and top-10 accuracy."""
        return metrics.classification_intervals(np.stack(predictions), np.array(labels))

    def baselines(self, data: LabelledData, splits: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Return the majority class: every sequence scored by how frequent the classes are in the training split."""
        from raypro.evaluate.baselines import class_frequencies

        frequencies = class_frequencies(np.array(data.read("train").labels), len(self.classes))
        return {"majority class": {split: self.score([frequencies] * len(e), e.labels) for split in splits for e in [data.read(split)]}}

    def pictures(self, predictions: Sequence[NDArray[np.float32]], examples: Examples, folder: Path, name: str) -> list[Path]:
        """Draw which classes are taken for which."""
        from raypro.evaluate import task_plots
        from raypro.evaluate.plots import save

        counts = metrics.confusion_matrix(np.stack(predictions).argmax(axis=1), np.array(examples.labels), len(self.classes))
        return [save(task_plots.confusion(counts, self.classes, name), folder / f"confusion_{name}.png")]

    def columns(self, predictions: Sequence[NDArray[np.float32]], examples: Examples | None) -> dict[str, list[Any]]:
        """Return ``predicted`` with its ``probability``, and the true ``class``."""
        best = [int(p.argmax()) for p in predictions]
        table = {"predicted": [self.classes[c] for c in best], "probability": [float(p[c]) for p, c in zip(predictions, best, strict=True)]}
        return {**table, **({"class": [self.classes[c] for c in examples.labels]} if examples else {})}
