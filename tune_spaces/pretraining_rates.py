"""Rates to pre-train with: 12 of 18 trials, most ended early; ``raypro tune tune_spaces/pretraining_rates.py --data CORPUS``."""

from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.pmlm import PMLM
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.presets import fresh_name
from raypro.settings import Batches, Budget, Validation
from raypro.space import ASHA, Space


def space(data: str) -> Space:
    """Return learning rate, warm-up and batch size of a pairwise masked language model."""
    base = Experiment(
        name=fresh_name("pretraining-rates"),
        corpus=data,
        objective=PMLM(),
        encoder=TransformerShape(layers=4, width=128, heads=4, hidden=512, dropout=0.0),
        optimizer=Adam(decay="constant"),
        batches=Batches(token_budget=1024, max_length=256),
        budget=Budget(steps=2700),
        validation=Validation(every=100, sequences=1024),
    )
    axes = {
        "optimizer.learning_rate": (3e-4, 1e-3, 3e-3),
        "optimizer.warmup_steps": (100, 300, 1000),
        "batches.token_budget": (1024, 4096),
    }
    return Space(base, axes, ASHA(trials=12, factor=3))
