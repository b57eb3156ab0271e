"""Adversarial against random masking: ``python jobs/compare_adversarial.py --adversarial.corpus DIR --tasks TASK DATA``.

``--tasks`` takes several pairs of a task and the folder of its labelled data. What is finished is not run again:
repeat the command to go on.
"""

from dataclasses import replace

from pretrain_adversarial import small

from raypro.cluster.compare import Comparison, compare_main
from raypro.settings import Budget

if __name__ == "__main__":
    compare_main(Comparison("compare-adversarial", replace(small(), budget=Budget(steps=3000))))
