"""A number for each protein: TAPE's fluorescence and stability, or a user's own measurement.

Loss: mean squared error of the standardised label. Head: pooling over the residues, then one hidden layer (TAPE's, Rao et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from raypro.core.batch import LabelledBatch
from raypro.core.heads import PooledHead, PoolingKind
from raypro.core.objectives.objective import Quantity
from raypro.data.labelled import Examples, LabelledData
from raypro.evaluate import metrics
from raypro.tasks.task import Interval, PreparedSequences, TaskModel, require_head, require_labels


@dataclass(frozen=True)
class Regression:
    """Regression of one number a sequence."""

    pooling: PoolingKind = "attention"
    """How a protein's vectors become one: TAPE's attention, mean, max, or the encoder's own summary."""
    hidden: int = 512
    """Units of the head's hidden layer."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit of the head."""
    center: Annotated[float, tyro.conf.Suppress] = 0.0
    """Mean of the training labels."""
    scale: Annotated[float, tyro.conf.Suppress] = 1.0
    """Standard deviation of the training labels."""

    labels: ClassVar[str] = "regression"
    primary: ClassVar[str] = "spearman"

    def __post_init__(self) -> None:
        require_head(self.hidden, self.dropout)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Squared error, in units of the labels' variance."""
        return (Quantity("squared_error", "sequences", 1.0),)

    def fitted_to(self, data: LabelledData) -> "Regression":
        """Return the task with the training labels' mean and standard deviation."""
        require_labels(self, data)
        values = np.array(data.read("train").labels, dtype=float)
        return replace(self, center=float(values.mean()), scale=float(values.std()) or 1.0)

    def build(self, encoder: nn.Module) -> TaskModel:
        """Return the encoder with the head."""
        return TaskModel(encoder, PooledHead(self.pooling, encoder, 1, self.hidden, self.dropout))

    def prepare(self, batch: LabelledBatch) -> PreparedSequences:
        """Standardise the labels."""
        target = (torch.tensor(batch.labels, dtype=torch.float32) - self.center) / self.scale
        return PreparedSequences.of(batch, [target], {"sequences": len(batch.labels)})

    def outputs(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return the standardised predictions [B]."""
        return model.head(model.hidden(prepared), prepared.tokens)[:, 0].float()

    def sums_of(self, outputs: Tensor, prepared: PreparedSequences) -> Tensor:
        """Return [sum of squared errors]."""
        return (outputs - prepared.targets[0]).square().sum()[None]

    def sums(self, model: TaskModel, prepared: PreparedSequences) -> Tensor:
        """Return [sum of squared errors]."""
        return self.sums_of(self.outputs(model, prepared), prepared)

    def predictions(self, outputs: Tensor, prepared: PreparedSequences) -> list[float]:
        """Return predictions in the label's unit."""
        return (self.center + self.scale * outputs.double()).tolist()

    def score(self, predictions: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
        """Return Spearman's rho, mean squared error and others (:func:`raypro.evaluate.metrics.regression_metrics`)."""
        return metrics.regression_metrics(np.array(predictions), np.array(labels))

    def intervals(self, predictions: Sequence[float], labels: Sequence[float]) -> dict[str, Interval]:
        """Return the intervals of Spearman's rho and the mean squared error."""
        return metrics.regression_intervals(np.array(predictions), np.array(labels))

    def baselines(self, data: LabelledData, splits: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
        """Return the mean of the training labels, and ridge regression on one-hot residues."""
        from raypro.evaluate.baselines import mean_baseline, ridge_one_hot

        train, valid = data.read("train"), data.read("valid")
        ridge = ridge_one_hot(train.sequences, np.array(train.labels), valid.sequences, np.array(valid.labels))
        mean = mean_baseline(np.array(train.labels))
        return {
            name: {split: self.score(list(predict(e.sequences)), e.labels) for split in splits for e in [data.read(split)]}
            for name, predict in (("mean of train", mean), ("ridge on one-hot", ridge))
        }

    def pictures(self, predictions: Sequence[float], examples: Examples, folder: Path, name: str) -> list[Path]:
        """Draw predicted against measured."""
        from raypro.evaluate import task_plots
        from raypro.evaluate.plots import save

        figure = task_plots.scatter(np.array(predictions), np.array(examples.labels), name)
        return [save(figure, folder / f"scatter_{name}.png")]

    def columns(self, predictions: Sequence[float], examples: Examples | None) -> dict[str, list[Any]]:
        """Return ``predicted`` and ``measured``."""
        return {"predicted": list(predictions), **({"measured": examples.labels} if examples else {})}
