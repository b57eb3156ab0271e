"""Pre-training as a job of :func:`raypro.training.train`: a corpus, its data plan, and the objective's loss on held-out sequences."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core.batch import Batch
from raypro.core.distributed import gather_ints, rank, world_size
from raypro.core.loop import TrainState, evaluate
from raypro.core.objectives.objective import Contrast, players_of
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

    def last_step(self, state: TrainState, cursor: dict[str, Any] | None) -> int | None:
        """Return :func:`last_step` of the experiment."""
        return last_step(self.experiment, state, Cursor.from_plain(cursor) if cursor else None)

    @cached_property
    def held_out(self) -> list[Batch]:
        """This worker's share of the validation sequences."""
        return list(validation_batches(self.experiment))

    def judge(self, state: TrainState) -> dict[str, float]:
        """Return the means of the objective's quantities on the validation sequences."""
        return evaluate(state, self.held_out)


def decays_with_budget(experiment: Experiment) -> bool:
    """Return whether the learning rate of the encoder, or of an adversary, falls to 0 at the end of the budget."""
    rates = [player.adam or experiment.optimizer for player in players_of(experiment.objective)]
    return any(rate.decay == "linear" and rate.decay_steps is None for rate in rates)


def last_step(experiment: Experiment, state: TrainState, cursor: Cursor | None) -> int | None:
    """Return the step at which the budget ends, for rates that fall until then; None where only minutes end it. All workers must call it.

    Epochs are counted exactly, for this number of workers: what is left from the cursor on, after the state's step. Residues are reckoned
    by their mean over an epoch, since there are so many workers. So a run that goes on by as many workers finds the same step.
    """
    budget = experiment.budget
    if not decays_with_budget(experiment) or (budget.epochs is None and budget.residues is None):
        return budget.steps
    plan = data_plan(experiment)
    batches, residues = count_batches(plan, state.device)
    limits = [budget.steps] if budget.steps else []
    if budget.epochs:
        first = cursor.dealt_to(world_size()) if cursor else plan.start(0, world_size())
        limits.append(end_of_epochs(experiment, plan, batches, budget.epochs, first, state.step))
    if budget.residues:
        players = players_of(experiment.objective)
        of_encoder = sum(player.steps for player in players if player.trains_encoder) / sum(player.steps for player in players)
        each = residues / end_of_epochs(experiment, plan, batches, 1, plan.start(0, world_size()), 0)
        _, since, used = state.workers_since
        limits.append(since + math.ceil((budget.residues - used) / (each * of_encoder)))
    return min(limits)


def count_batches(plan: Plan, device: torch.device) -> tuple[list[int], int]:
    """Return the batches of each window, the same in every epoch, and the residues of an epoch, cropped; each worker reads its share."""
    mine = range(rank(), len(plan.windows), world_size())
    counts, residues = [0] * len(plan.windows), 0
    for window in mine:
        lengths = plan.corpus.read(plan.windows[window], ["length"])["length"].to_numpy()
        counts[window] = len(plan.cut(lengths, 0, window))
        residues += int(np.minimum(lengths, plan.max_length).sum())
    *every, total = map(sum, zip(*gather_ints([*counts, residues], device), strict=True))
    return every, total


def end_of_epochs(experiment: Experiment, plan: Plan, batches: Sequence[int], epochs: int, first: Cursor, step: int) -> int:
    """Return the step at which so many epochs end, of which ``first`` is left after ``step``; of a budget's steps no more are looked at.

    Args:
        experiment: says how many batches make a step.
        plan: of the training split.
        batches: of each window.
        epochs: of a run from its beginning.
        first: how far this number of workers has come.
        step: the steps taken up to there.
    """
    workers, most = range(world_size()), experiment.budget.steps or math.inf
    for epoch in range(first.epoch, epochs):
        present = first if epoch == first.epoch else plan.start(epoch, world_size())
        left = max(sum(batches[task.window] - task.first for task in present.hand(worker)) for worker in workers)
        if not experiment.batches.accumulation_changes:
            step += math.ceil(left / experiment.batches.accumulation)
            left = 0
        while left > 0 and step < most:
            left -= experiment.batches.accumulation_at(experiment.budget.steps, step)
            step += 1
        if step >= most:
            break
    return step


def data_plan(experiment: Experiment, split: str = "train") -> Plan:
    """Return the data plan of a split; that of the validation split does not depend on the seed, so that runs compare."""
    batches, seed = experiment.batches, experiment.seed if split == "train" else 0
    corpus, windows = Corpus.open(experiment.corpus), batches.window_row_groups
    return Plan(corpus, split, seed, batches.token_budget, batches.max_length, windows, batches.sequences)


def validation_batches(experiment: Experiment) -> Iterator[Batch]:
    """Yield this worker's share of the validation sequences, the same (also masked the same) at every validation.

    They are ``validation.batch`` sequences each where that is given (:func:`fixed_batches`), else the batches of the first windows.
    """
    plan, most, mine = data_plan(experiment, "valid"), experiment.validation.sequences, slice(rank(), None, world_size())
    if experiment.validation.batch:
        yield from map(to_batch, plan.read_rows(fixed_batches(experiment)[mine]))
        return
    for window, groups in enumerate(plan.windows):
        if most is None or groups[0].first_row < most:
            yield from map(to_batch, plan.read(WindowTask(0, window, 0))[mine])


def held_out_rows(experiment: Experiment) -> NDArray[np.int64]:
    """Return the first ``validation.sequences`` rows of the validation split whose sequences are long enough for a contrast."""
    corpus = Corpus.open(experiment.corpus)
    lengths = corpus.read(corpus.row_groups("valid"), ["length"])["length"].to_numpy()
    rows = np.flatnonzero(np.minimum(lengths, experiment.batches.max_length) >= judged_length(experiment))
    return rows[: experiment.validation.sequences]


def judged_length(experiment: Experiment) -> int:
    """Return the residues that a validation sequence needs."""
    return experiment.objective.in_validation.min_length if isinstance(experiment.objective, Contrast) else 0


def fixed_batches(experiment: Experiment) -> list[NDArray[np.int64]]:
    """Return the rows of each validation batch of ``validation.batch`` sequences, of one batch of all where there are fewer."""
    rows = held_out_rows(experiment)
    size = max(1, min(experiment.validation.batch or 1, len(rows)))
    return list(rows[: len(rows) // size * size].reshape(-1, size))


def said_of_validation(experiment: Experiment) -> str:
    """Return how many sequences are looked at in validation batches of a fixed size, and how many there are."""
    batches, asked = fixed_batches(experiment), experiment.validation.batch
    size, there = len(batches[0]) if batches else 0, Corpus.open(experiment.corpus).rows("valid")
    least = judged_length(experiment)
    of = f" of {least} residues or more" if least else ""
    said = f"{len(batches)} x {size} sequences{of}, {len(batches) * size:,} of {there:,} in the split"
    return said if size == asked else f"{said}; validation.batch asks for {asked} in each, more than there are"


def require_contrasts(experiment: Experiment) -> None:
    """Check that an objective which tells sequences apart has two of them, in each batch and in validation.

    Raises:
        InputError: it has not; its loss would be a perfect 0.
    """
    if not isinstance(experiment.objective, Contrast):
        return
    for name, size in (("batches.sequences", experiment.batches.sequences), ("validation.batch", experiment.validation.batch)):
        if size is not None and size < 2:
            raise InputError(f"{name}: {size} sequence has no other to be told apart from; give 2 or more")
    batches = experiment.batches
    if batches.token_budget < 2 * (batches.max_length + CONTROL_TOKENS):
        raise InputError(
            f"batches.token_budget: {batches.token_budget} may hold one sequence alone, which has no other to be told apart from; "
            f"give {2 * (batches.max_length + CONTROL_TOKENS)} or more, for two of batches.max_length"
        )
    if (rows := len(held_out_rows(experiment))) < 2:
        raise InputError(
            f"{experiment.corpus}: {rows} of the validation sequences have {judged_length(experiment)} residues or more, "
            "of which a contrast takes two; lower --objective.steps-ahead, raise --validation.sequences, or take another corpus"
        )
