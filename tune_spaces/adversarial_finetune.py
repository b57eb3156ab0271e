"""A grid for any task: ``raypro tune tune_spaces/adversarial_finetune.py --encoder CHECKPOINT --data DIR``.

The kind of the data's labels says what is learned. jobs/compare_adversarial.py sets adversarial beside random masking, and takes as
large a grid: ``--tuning.batch-sizes 16 64`` and so on.
"""

from raypro.cluster.comparing import PAPER_GRID
from raypro.data.labelled import LabelledData
from raypro.presets import fine_tuning
from raypro.space import Space


def space(encoder: str, data: str) -> Space:
    """Return 48 trials over what McDermott et al. 2020 varied: batch size, learning rate, weight decay, patience and most epochs.

    The paper lists no values: these are ours.
    """
    base = fine_tuning(LabelledData.open(data).kind, encoder, data)
    return Space(base, {**PAPER_GRID.axes, "budget.epochs": (PAPER_GRID.epochs // 2, PAPER_GRID.epochs)})
