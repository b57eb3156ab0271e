"""What adversarial training costs, for ``jobs/benchmark.py``."""

from collections.abc import Callable
from dataclasses import replace

import torch
from pretrain_adversarial import paper, paper_random

from raypro.core.alphabet import CLASS_TO_TOKEN, CLS, SEP
from raypro.core.batch import Batch
from raypro.core.loop import TrainState, train_step
from raypro.evaluate.measuring import Benchmark, Goal, seconds
from raypro.experiment import Experiment

TURN = 2
"""Steps of a turn; ten, as in the paper, have the same ratio."""


def turns_of(experiment: Experiment, steps: int, sequences: int = 4, length: int = 256) -> Callable[[], None]:
    """Return the work of so many steps of an experiment's model on one random batch, float32 on the CPU."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    shape = replace(experiment.encoder, activation_checkpointing=False)
    state = TrainState(experiment.objective, experiment.objective.build(shape.build()), experiment.optimizer)
    tokens = torch.from_numpy(CLASS_TO_TOKEN)[torch.randint(len(CLASS_TO_TOKEN), (sequences, length + 2))]
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    batch = Batch(tokens, torch.arange(sequences), torch.arange(sequences))

    def work() -> None:
        for _ in range(steps):
            train_step(state, [batch])

    return work


def adversarial_cycle() -> Benchmark:
    """A turn of the noiser and a turn of the encoder beside as many steps of plain MLM: the paper's shapes, 4 x 256 residues, 2 threads.

    A ratio of 1 / 2.1 is a cost of 2.1 times.
    """
    adversarial = paper()
    both = replace(adversarial, objective=replace(adversarial.objective, noiser_steps=TURN, encoder_steps=TURN))
    plain, cycle = turns_of(paper_random(), TURN), turns_of(both, 2 * TURN)
    return Benchmark("adversarial-cycle", Goal("ratio", least=0.476), lambda: seconds(plain), lambda: seconds(cycle), "s", rounds=3)
