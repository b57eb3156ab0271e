"""The grid that ARCHITECTURE.md shows: ``raypro tune tune_spaces/stability_convolution.py --encoder convolution --data DIR``."""

from dataclasses import replace

from raypro.presets import fine_tuning
from raypro.settings import Budget
from raypro.space import Space


def space(encoder: str, data: str) -> Space:
    """Return 12 trials of two epochs over learning rate, weight decay and dropout of the head."""
    base = replace(fine_tuning("stability", encoder, data), budget=Budget(epochs=2))
    axes = {"optimizer.learning_rate": (3e-4, 5e-4, 1e-3), "optimizer.weight_decay": (0.0, 0.01), "task.dropout": (0.0, 0.1)}
    return Space(base, axes)
