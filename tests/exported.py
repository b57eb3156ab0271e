"""Models of random weights, saved as checkpoints to be exported, that tests share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raypro.core import checkpoint
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.loop import TrainState, train_step
from raypro.core.optimizer import Adam
from tests.small import batch_of, random_sequences, tiny_experiment

TINY = TransformerShape(layers=2, width=24, heads=2, hidden=40, dropout=0.1)
LONGEST = 60
PROTEINS = [*random_sequences(5, 3, LONGEST, seed=1), "MXBZUO", "A"]


def saved(
    folder: Path, shape: Any, objective: Any, steps: int = 0, corpus: Path = Path("elsewhere/corpus"), **changes: object
) -> tuple[Any, Path]:
    """A model whose every weight is random, norms and biases too, and its checkpoint; trained for some steps."""
    torch.manual_seed(3)
    batches = replace(tiny_experiment(corpus).batches, max_length=LONGEST)
    experiment = tiny_experiment(corpus, encoder=shape, objective=objective, batches=batches, **changes)
    model = objective.build(shape.build())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    state = TrainState(objective, model, Adam(learning_rate=1e-2, warmup_steps=0), seed=5, total_steps=40)
    for _ in range(steps):
        train_step(state, [batch_of(*PROTEINS)])
    path = folder / "step_00000007"
    checkpoint.save(path, model, experiment.to_plain(), 7, {"valid/loss": 2.5})
    return model.eval(), path
