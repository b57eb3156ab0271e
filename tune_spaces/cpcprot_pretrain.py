"""What CPCProt depends on (Lu et al. 2020, figure 5): 27 runs; ``raypro tune tune_spaces/cpcprot_pretrain.py --data CORPUS``."""

from raypro.core.encoders.cpcprot import CPCPROT
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.experiment import Batches, Budget, Experiment, Validation
from raypro.presets import fresh_name
from raypro.space import Space


def space(data: str) -> Space:
    """Return the grid of batch size, steps ahead (K) and learning rate.

    Validation batches have one size, so that losses compare between batch sizes and rates; between values of K probes must judge.
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
    )
    return Space(
        base,
        {
            "batches.sequences": (16, 64, 256),
            "objective.steps_ahead": (2, 4, 6),
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
        },
    )
