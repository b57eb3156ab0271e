"""Untrained fine-tuned models, saved as checkpoints, that tests share."""

from pathlib import Path
from typing import Any

import torch

from raypro.core import checkpoint
from raypro.experiment import FineTuning
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification
from tests.small import TINY

TASKS: dict[str, Any] = {
    "regression": Regression(center=2.0, scale=0.5, hidden=16),
    "classification": Classification(classes=("alpha", "beta", "gamma"), hidden=16),
    "residues": ResidueClassification(classes=("H", "E", "C"), filters=8),
    "contacts": Contacts(),
}


def save_model(run: Path, task: str = "regression", step: int = 3, metric: float = 0.5, encoder: Any = TINY) -> Path:
    """Save a model of random weights, by the step, as a checkpoint of the folder ``run``."""
    experiment = FineTuning(name="tiny", data="nowhere", task=TASKS[task], encoder=encoder)
    torch.manual_seed(step)
    path = run / f"step_{step:08d}"
    metrics = {experiment.selected_by[0]: metric}
    checkpoint.save(path, experiment.task.build(experiment.encoder.build()), experiment.to_plain(), step, metrics)
    return path


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    """Write sequences by their ids."""
    path.write_text("".join(f">{name} of a protein\n{sequence}\n" for name, sequence in sequences.items()))
    return path
