"""Fine-tune an encoder on a task: ``python jobs/finetune.py --task stability --encoder CHECKPOINT --data DIR``.

``--encoder`` is a checkpoint, or ``convolution`` or ``transformer`` from random weights, or ``onehot`` for a head alone.
"""

from raypro.cli import finetune_main
from raypro.presets import fine_tuning

if __name__ == "__main__":
    finetune_main(fine_tuning)
