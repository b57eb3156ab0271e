"""What CPCProt depends on (Lu et al. 2020, figure 5): ``raypro tune tune_spaces/cpcprot_pretrain.py --data CORPUS --probe FAMILIES``."""

from raypro.core.encoders.cpcprot import CPCPROT
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.presets import fresh_name
from raypro.settings import Batches, Budget, Probing, Validation
from raypro.space import Space

CRITERIA = (("valid/loss", "min"), ("valid/accuracy_cpc", "max"), ("probe/families/accuracy", "max"))
"""What the authors' public code follows after each epoch (src/pretrain.py): the contrastive loss, its accuracy, and the family of the
nearest neighbour. Whether they are the three criteria of the paper's Appendix A could not be looked up."""


def space(data: str, probe: str | None = None) -> Space:
    """Return the grid of batch size, steps ahead (K) and learning rate: 27 runs.

    Validation batches have one size, so that losses compare between batch sizes and rates. Between values of K they do not: so with
    ``probe``, proteins with their families as ``raypro evaluate --probe families`` takes them, runs are ranked by three criteria.
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
        probe=Probing("families", probe, examples=5000) if probe else Probing(),
    )
    return Space(
        base,
        {
            "batches.sequences": (16, 64, 256),
            "objective.steps_ahead": (2, 4, 6),
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
        },
        criteria=CRITERIA if probe else (),
    )
