"""What CPCProt depends on (Lu et al. 2020, figure 5): ``raypro tune tune_spaces/cpcprot_pretrain.py --data CORPUS --probe STABILITY``."""

from raypro.core.encoders.cpcprot import CPCPROT
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.presets import fresh_name
from raypro.settings import Batches, Budget, Probing, Validation
from raypro.space import Space


def space(data: str, probe: str | None = None) -> Space:
    """Return the grid of batch size, steps ahead (K) and learning rate: 27 runs.

    Validation batches have one size, so that losses compare between batch sizes and rates. Between values of K they do not: with
    ``probe``, labelled data of stability, runs are ranked by what a probe of their best checkpoint finds on its validation split.
    """
    base = Experiment(
        name=fresh_name("cpcprot"),
        corpus=data,
        objective=CPC(),
        encoder=CPCPROT,
        optimizer=Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=0, decay="constant"),
        batches=Batches(token_budget=256 * 552, max_length=550, sequences=64),
        budget=Budget(epochs=19),
        validation=Validation(every=None, sequences=8192, batch=512, patience=5),
        probe=Probing("stability", probe, examples=5000) if probe else Probing(),
    )
    return Space(
        base,
        {
            "batches.sequences": (16, 64, 256),
            "objective.steps_ahead": (2, 4, 6),
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
        },
    )
