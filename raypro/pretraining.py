"""Pre-training as a job of :func:`raypro.training.train`: a corpus, its data plan, and the objective's loss on held-out sequences."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch

from raypro.core.batch import Batch
from raypro.core.distributed import rank, world_size
from raypro.core.loop import TrainState, evaluate
from raypro.core.random import seed_of
from raypro.data.corpus import Corpus
from raypro.data.plan import CONTROL_TOKENS, Cursor, Plan, WindowTask
from raypro.data.source import Reader, TrainingSource, to_batch
from raypro.experiment import Experiment


@dataclass(frozen=True)
class Pretraining:
    """A :class:`raypro.training.Job`."""

    experiment: Experiment
    reader_of: Callable[[Plan], Reader]
    """Gives the reader of a plan."""

    def state(self, device: torch.device) -> TrainState:
        """Return the state before the first step: weights by the experiment's seed."""
        experiment = self.experiment
        torch.manual_seed(seed_of(experiment.seed, 0))
        state = TrainState(
            experiment.objective,
            experiment.objective.build(experiment.encoder.build()),
            experiment.optimizer,
            seed=experiment.seed,
            total_steps=experiment.budget.steps,
            device=device,
            bf16=experiment.precision == "bf16",
        )
        if experiment.compile:
            state.model.encoder.compile(dynamic=True)  # type: ignore[union-attr, operator]
        return state

    def source(self, cursor: dict[str, Any] | None, step: int, device: torch.device) -> TrainingSource:
        """Return this worker's steps of the training split."""
        plan = data_plan(self.experiment)
        return TrainingSource(
            plan,
            self.reader_of(plan),
            rank=rank(),
            workers=world_size(),
            accumulation_at=partial(self.experiment.batches.accumulation_at, self.experiment.budget.steps),
            epochs=self.experiment.budget.epochs,
            cursor=Cursor.from_plain(cursor) if cursor else None,
            step=step,
            device=device,
        )

    @cached_property
    def held_out(self) -> list[Batch]:
        """This worker's share of the validation sequences."""
        return list(validation_batches(self.experiment))

    def judge(self, state: TrainState) -> dict[str, float]:
        """Return the means of the objective's quantities on the validation sequences."""
        return evaluate(state, self.held_out)


def data_plan(experiment: Experiment, split: str = "train") -> Plan:
    """Return the data plan of a split; that of the validation split does not depend on the seed, so that runs compare."""
    batches, fixed = experiment.batches, experiment.validation.batch
    corpus, windows = Corpus.open(experiment.corpus), batches.window_row_groups
    if split == "train":
        return Plan(corpus, split, experiment.seed, batches.token_budget, batches.max_length, windows, batches.sequences)
    budget = max(batches.token_budget, (fixed or 0) * (batches.max_length + CONTROL_TOKENS))
    return Plan(corpus, split, 0, budget, batches.max_length, windows, fixed or batches.sequences)


def validation_batches(experiment: Experiment) -> Iterator[Batch]:
    """Yield this worker's share of the first windows of the validation split, the same (also masked the same) at every validation."""
    plan, most = data_plan(experiment, "valid"), experiment.validation.sequences
    for window, groups in enumerate(plan.windows):
        if most is None or groups[0].first_row < most:
            yield from map(to_batch, islice(plan.read(WindowTask(0, window, 0)), rank(), None, world_size()))
