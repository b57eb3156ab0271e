"""Objectives compared, at equal tokens and in equal time: ``python jobs/compare_objectives.py --corpus DIR --probes PROBE DATA``.

``--probes`` and ``--tasks`` take several pairs of a task and its data. What is finished is not run again: repeat the command to go on.
The objectives that mask residues train the same Transformer on the same batches; CPCProt's encoder has as many parameters.
"""

from dataclasses import replace

from pretrain_adversarial import small as adversarial
from pretrain_pmlm import small as pmlm

from raypro.cluster.compare_objectives import ObjectiveComparison, compare_objectives_main
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.settings import Batches, Tracking, Validation

LENGTH = 256
"""Residues that every sequence is cropped to."""


def runs() -> tuple[Experiment, ...]:
    """Return the four, on two workers: 0.8 M parameters, batches of 2 x 8 sequences (CPCProt, whose negatives they are: 2 x 16)."""
    masked = replace(
        pmlm(),
        name="mlm",
        objective=MLM(),
        optimizer=Adam(learning_rate=1e-3, warmup_steps=200, decay="constant"),
        batches=Batches(token_budget=8 * (LENGTH + 2), max_length=LENGTH),
        validation=Validation(every=200, sequences=512),
        tracking=Tracking(every=20),
    )
    contrasted = replace(
        masked,
        name="cpcprot",
        objective=CPC(max_length=LENGTH),
        encoder=CPCProtShape(filters=(64, 64, 340)),
        batches=Batches(token_budget=16 * (LENGTH + 2), max_length=LENGTH, sequences=16),
        validation=replace(masked.validation, every=400, batch=16),
    )
    noised = replace(masked, name="adversarial", objective=adversarial().objective, validation=replace(masked.validation, every=400))
    return (masked, replace(masked, name="pmlm", objective=pmlm().objective), contrasted, noised)


if __name__ == "__main__":
    compare_objectives_main(ObjectiveComparison("compare-objectives", runs(), ""))
