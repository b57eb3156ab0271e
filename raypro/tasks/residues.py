"""A class for each residue: TAPE's secondary structure in 3 or 8 classes, or a user's own.

Loss: cross entropy over the residues that are scored. Head: two convolutions (tape-proteins 0.4; Rao et al. 2019).
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
from torch.nn.utils.rnn import pad_sequence

from raypro.core.batch import LabelledBatch
from raypro.core.heads import ResidueHead, residue_mask
from raypro.core.objectives.objective import Quantity
from raypro.data.labelled import Examples, LabelledData
from raypro.evaluate import metrics
from raypro.tasks.task import Interval, PreparedSequences, TaskModel, require_head, require_labels

UNSCORED = -1
"""Label of a residue that is not scored."""


@dataclass(frozen=True)
class ResidueClassification:
    """Classification of residues."""

    filters: int = 512
    """Filters of the head's first convolution."""
    dropout: float = 0.0
    """Probability of dropping a filter's output."""
    classes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """The classes, one letter each."""

    labels: ClassVar[str] = "residue_classification"
    primary: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        require_head(self.filters, self.dropout)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Cross entropy in nats, and accuracy, per scored residue."""
        return (Quantity("cross_entropy", "residues", 1.0), Quantity("hits", "residues", 0.0))

    def fitted_to(self, data: LabelledData) -> "ResidueClassification":
        """Return the task with the data's classes."""
        require_labels(self, data)
        return replace(self, classes=data.manifest.classes)

    def build(self, encoder: nn.Module) -> TaskModel:
        """Return the encoder with the head."""
        return TaskModel(encoder, ResidueHead(int(encoder.width), len(self.classes), self.filters, self.dropout))

    def prepare(self, batch: LabelledBatch) -> PreparedSequences:
        """Lay the labels beside the tokens [B, T]; control tokens and padding are not scored."""
        rows = [torch.from_numpy(np.concatenate([[UNSCORED], label, [UNSCORED]])) for label in batch.labels]
        target = pad_sequence(rows, batch_first=True, padding_value=UNSCORED) if rows else torch.full(batch.tokens.shape, UNSCORED)
        return PreparedSequences.of(batch, [target], {"residues": int((target != UNSCORED).sum())})

    def outputs(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return logits [B, T, C]."""
        return model.head(model.hidden(prepared), prepared.tokens).float()

    def sums_of(self, outputs: Tensor, prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies, correct ones] over the scored residues."""
        (target,) = prepared.targets
        hits = (outputs.detach().argmax(dim=2) == target).sum()
        loss = cross_entropy(outputs.flatten(0, 1), target.flatten(), ignore_index=UNSCORED, reduction="sum")
        return torch.stack([loss, hits.to(outputs.dtype)])

    def sums(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return [sum of cross entropies, correct ones] over the scored residues."""
        return self.sums_of(self.outputs(model, prepared), prepared)

    def predictions(self, outputs: Tensor, prepared: PreparedSequences) -> list[NDArray[np.float32]]:
        """Return each sequence's probabilities [L, C]."""
        probabilities = outputs.softmax(dim=2).cpu().numpy()
        inside = residue_mask(prepared.tokens).cpu().numpy()
        return [p[mask] for p, mask in zip(probabilities, inside, strict=True)]

    def score(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]]) -> dict[str, float]:
        """Return the accuracy over residues and each class' F1 (:func:`raypro.evaluate.metrics.residue_metrics`)."""
        return metrics.residue_metrics([p.argmax(axis=1) for p in predictions], labels, self.classes)

    def intervals(self, predictions: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]]) -> dict[str, Interval]:
        """Return the interval of the accuracy, over proteins."""
        return metrics.residue_intervals([p.argmax(axis=1) for p in predictions], labels)

    def baselines(self, data: LabelledData, splits: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Return the majority class, and the class most frequent for each type of residue."""
        from raypro.evaluate.baselines import residue_type_classes

        train = data.read("train")
        of_type, majority = residue_type_classes(train.sequences, train.labels, len(self.classes))
        guesses = {"majority class": lambda s: np.full(len(s), majority), "residue type alone": of_type}
        return {
            name: {
                split: metrics.residue_metrics([guess(s) for s in e.sequences], e.labels, self.classes)
                for split in splits
                for e in [data.read(split)]
            }
            for name, guess in guesses.items()
        }

    def pictures(self, predictions: Sequence[NDArray[np.float32]], examples: Examples, folder: Path, name: str) -> list[Path]:
        """Draw which classes are taken for which."""
        from raypro.evaluate import task_plots
        from raypro.evaluate.plots import save

        predicted, true = (np.concatenate(x) for x in ([p.argmax(axis=1) for p in predictions], examples.labels))
        counts = metrics.confusion_matrix(predicted[true != UNSCORED], true[true != UNSCORED], len(self.classes))
        return [save(task_plots.confusion(counts, self.classes, name), folder / f"confusion_{name}.png")]

    def columns(self, predictions: Sequence[NDArray[np.float32]], examples: Examples | None) -> dict[str, list[Any]]:
        """Return ``predicted`` and ``labels`` as strings of one letter a residue; ``-`` where a residue is not scored."""
        table = {"predicted": ["".join(self.classes[c] for c in p.argmax(axis=1)) for p in predictions]}
        return {**table, **({"labels": ["".join((*self.classes, "-")[c] for c in label) for label in examples.labels]} if examples else {})}
