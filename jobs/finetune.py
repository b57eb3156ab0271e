"""Fine-tune an encoder on a task: ``python jobs/finetune.py --task stability --encoder CHECKPOINT --data DIR``.

``--encoder`` is a checkpoint or hf:FOLDER_OR_NAME; or ``onehot`` for a head alone, or an encoder of random weights: ``convolution``,
``transformer`` or what else ``raypro.presets.SCRATCH`` names. A checkpoint with ``--start None`` is its encoder with random weights.
"""

from raypro.job import finetune_main
from raypro.presets import fine_tuning

if __name__ == "__main__":
    finetune_main(fine_tuning)
