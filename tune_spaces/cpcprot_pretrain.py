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
CRITERIA = (("valid/loss", "min"), ("valid/accuracy_cpc", "max"), ("probe/families/accuracy", "max"))
"""What the authors' public code follows after each epoch (src/pretrain.py): the contrastive loss, its accuracy, and the family of the
nearest neighbour. Whether they are the three criteria of the paper's Appendix A could not be looked up."""


def space(data: str, probe: str | None = None) -> Space:
    """Return the grid of batch size, steps ahead (K) and learning rate: 27 runs.

    Validation batches are of one size, and all runs are judged at the distances that each has learned (``judged_ahead``), in the
    sequences that are long enough for them, so that losses and accuracies compare between all. With ``probe``, proteins with their
    families as ``raypro evaluate --probe families`` takes them, the family of the nearest neighbour is a third criterion.
    """
    base = Experiment(
        name=fresh_name("cpcprot"),
        corpus=data,
        objective=CPC(judged_ahead=min(STEPS_AHEAD)),
        encoder=CPCPROT,
        optimizer=Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=0, decay="constant", clip_norm=None),
        batches=Batches(token_budget=256 * 552, max_length=550, sequences=64),
        budget=Budget(epochs=19),
        validation=Validation(every=None, sequences=8192, batch=512, patience=5),
        probe=Probing("families", probe, examples=5000) if probe else Probing(),
    )
    return Space(
        base,
        {
            "batches.sequences": (16, 64, 256),
            "objective.steps_ahead": STEPS_AHEAD,
            "optimizer.learning_rate": (1e-5, 1e-4, 1e-3),
        },
        criteria=CRITERIA if probe else CRITERIA[:2],
    )
