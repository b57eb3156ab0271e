"""Fine-tune an encoder on a task: ``python jobs/finetune.py --task stability --encoder CHECKPOINT --data DIR``.

``--encoder`` is a checkpoint or hf:FOLDER_OR_NAME; or one of ``raypro.presets.SCRATCH`` from random weights (``convolution``, ``transformer``,
``tape_resnet``, ...), or ``onehot`` for a head alone. A checkpoint and ``--start None`` is its encoder with random weights.
"""

from raypro.cli import finetune_main
from raypro.presets import fine_tuning

if __name__ == "__main__":
    finetune_main(fine_tuning)
