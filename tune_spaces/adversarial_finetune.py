"""The grid of McDermott et al. 2020 for any task: ``raypro tune tune_spaces/adversarial_finetune.py --encoder CHECKPOINT --data DIR``.

The kind of the data's labels says what is learned. jobs/compare_adversarial.py sets adversarial beside random masking, and takes as
large a grid: ``--tuning.batch-sizes 16 64`` and so on.
"""

from dataclasses import replace

from raypro.cluster.comparing import PAPER_GRID
from raypro.data.labelled import LabelledData
from raypro.presets import fine_tuning
from raypro.settings import Budget
from raypro.space import Space


def space(encoder: str, data: str) -> Space:
    """Return 24 trials over batch size, learning rate, weight decay and patience; the paper varied these, and does not list the values."""
    base = fine_tuning(LabelledData.open(data).kind, encoder, data)
    return Space(replace(base, budget=Budget(epochs=PAPER_GRID.epochs)), PAPER_GRID.axes)
