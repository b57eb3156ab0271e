"""What CPCProt depends on (Lu et al. 2020, figure 5): ``raypro tune tune_spaces/cpcprot_pretrain.py --data CORPUS [--probe FAMILIES]``."""

from raypro.core.encoders.cpcprot import CPCPROT
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.presets import fresh_name
from raypro.settings import Batches, Budget, Probing, Validation
from raypro.space import Space

STEPS_AHEAD = (2, 4, 6)
"""K."""


def space(data: str, probe: str | None = None) -> Space:
    """Return the grid of batch size, steps ahead (K) and learning rate: 27 runs.

    A run's own contrastive loss and accuracy, which the authors' public code follows, do not compare between values of K: the distances
    differ, and so do the sequences that are long enough. They choose a run's checkpoint; runs are ranked by what is the same for all:
    with ``probe``, proteins with their families as ``raypro evaluate --probe families`` takes them, by the family of the nearest
    neighbour; without, by the contrastive accuracy at the distances that every run has learned, in validation batches of one size.
    """
    common = Probing("contrastive", data, examples=8192, steps_ahead=min(STEPS_AHEAD))
    base = Experiment(
        name=fresh_name("cpcprot"),
        corpus=data,
        objective=CPC(),
        encoder=CPCPROT,
        optimizer=Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=0, decay="constant", clip_norm=None),
        batches=Batches(token_budget=256 * 552, max_length=550, sequences=64),
        budget=Budget(epochs=19),
        validation=Validation(every=None, sequences=8192, batch=512, patience=5),
        probe=Probing("families", probe, examples=5000) if probe else common,
    )
    return Space(
        base,
        {
            "batches.sequences": (16, 64, 256),
            "objective.steps_ahead": STEPS_AHEAD,
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
        },
    )
