"""The grid of McDermott et al. 2020 for any task: ``raypro tune tune_spaces/adversarial_finetune.py --encoder CHECKPOINT --data DIR``.

The kind of the data's labels says what is learned. For adversarial beside random masking see jobs/compare_adversarial.py.
"""

from raypro.data.labelled import LabelledData
from raypro.presets import fine_tuning
from raypro.space import Space


def space(encoder: str, data: str) -> Space:
    """Return 24 trials over batch size, learning rate, weight decay and patience; the paper varied these, and does not list the values."""
    return Space(
        fine_tuning(LabelledData.open(data).kind, encoder, data),
        {
            "batches.size": (16, 64),
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
            "optimizer.weight_decay": (0.0, 0.01),
            "validation.patience": (3, 10),
            "budget.epochs": (30,),
        },
    )
