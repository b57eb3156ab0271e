"""Pre-train a masked language model: the baseline of He et al. 2021, on the models and with the budgets of its pairwise sibling."""

from dataclasses import replace

from pretrain_pmlm import PRESETS as PAIRWISE

from raypro.cli import pretrain_main
from raypro.core.objectives.mlm import MLM
from raypro.experiment import Experiment


def experiment(preset: str) -> Experiment:
    """Return the preset of the pairwise model with the plain objective."""
    pairwise = PAIRWISE[preset]()
    return replace(pairwise, name=pairwise.name.replace("pmlm", "mlm"), objective=MLM())


PRESETS = {name: (lambda name=name: experiment(name)) for name in PAIRWISE}

if __name__ == "__main__":
    pretrain_main(PRESETS)
