"""Fluorescence (Sarkisyan et al. 2016, TAPE's split): 48 trials; ``raypro tune tune_spaces/fluorescence.py --encoder ... --data DIR``."""

from raypro.presets import fine_tuning
from raypro.space import Space


def space(encoder: str, data: str) -> Space:
    """Return a grid over what McDermott et al. 2020 varied: batch size, learning rate, weight decay, patience and length of early stopping.

    The paper lists no values: these are ours. The length is most epochs, by whose end the rate has fallen to 0.
    """
    return Space(
        fine_tuning("fluorescence", encoder, data),
        {
            "batches.size": (32, 128),
            "optimizer.learning_rate": (1e-4, 3e-4, 1e-3),
            "optimizer.weight_decay": (0.0, 0.01),
            "validation.patience": (3, 10),
            "budget.epochs": (20, 40),
        },
    )
