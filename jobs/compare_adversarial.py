"""Adversarial against random masking: ``python jobs/compare_adversarial.py --adversarial.corpus DIR --tasks TASK DATA``.

``--tasks`` takes several pairs of a task and the folder of its labelled data. What is finished is not run again:
repeat the command to go on. The defaults are sized for two tasks within 45 minutes of two cores; ``--adversarial.budget.steps``,
``--tuning.residues None``, ``--tuning.epochs`` and the grid (``--tuning.learning-rates``, ``batch-sizes``, ``weight-decays``,
``patience``) make it as large as the paper's.
"""

from dataclasses import replace

from pretrain_adversarial import small

from raypro.cluster.compare import Comparison, compare_main
from raypro.cluster.comparing import Tuning
from raypro.settings import Budget, Validation


def comparison() -> Comparison:
    """Return the comparison of small encoders, fine-tuned on a part of the tasks' training data."""
    adversarial = replace(
        small(),
        optimizer=replace(small().optimizer, warmup_steps=100),
        budget=Budget(steps=800),
        validation=Validation(every=400, sequences=512),
    )
    tuning = Tuning(batch_sizes=(16,), epochs=2, warmup_steps=20, residues=200_000)
    return Comparison("compare-adversarial", adversarial, tuning=tuning)


if __name__ == "__main__":
    compare_main(comparison())
