"""The one training loop, for any objective, one worker or many.

A step takes the same number of micro-batches on every worker. Its loss is a sum over all of them divided by a count over all of
them; the counts are known before the model runs, so each micro-batch goes backward at once and gradients only have to be added.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.batch import Batch
from raypro.core.distributed import FlatGradients, rank, sum_over_workers, world_size
from raypro.core.meter import Meter
from raypro.core.objectives.objective import Contrast, Objective, Player, Prepared, Reckoning, players_of
from raypro.core.optimizer import Adam
from raypro.core.random import seed_of


class PlayerState:
    """A player's parameters, the optimizer that changes them, and their gradients."""

    def __init__(self, player: Player, model: nn.Module, adam: Adam) -> None:
        self.player, self.adam = player, player.adam or adam
        self.parameters = [p for part in player.parts for p in model.get_submodule(part).parameters() if p.requires_grad]
        self.optimizer = self.adam.build(self.parameters)
        self.gradients = FlatGradients(self.parameters)


class TrainState:
    """Everything that changes in training: the model, its players' optimizers, and how far it has come."""

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        adam: Adam,
        *,
        seed: int = 0,
        total_steps: int | None = None,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        self.seed, self.total_steps = seed, total_steps
        self.device, self.bf16 = torch.device(device), bf16
        self.model = model.to(self.device)
        self.players = [PlayerState(player, self.model, adam) for player in players_of(objective)]
        self.step = 0
        """Optimizer steps taken, of all players."""
        self.epochs = 0
        """Passes over the data finished."""
        self.tokens = 0
        """Tokens (residues and control tokens) trained on, over all workers, as of the last logging."""
        self.trained_on = torch.zeros((), dtype=torch.float64, device=self.device)
        """What :attr:`residues` reads."""
        self.seconds = 0.0
        """Seconds of training, validation included, as of the last logging."""
        self.best = float("inf")
        """Best validation score so far, lower is better: the loss, or minus the metric that chooses the best checkpoint."""
        self.stale = 0
        """Validations since the best one."""
        self.workers_since = (world_size(), 0, 0)
        """The number of workers, and the step and the residues since which they are so many."""
        self.wrong_since: dict[str, int] = {}
        """What the objective finds wrong now, and the step of the last logging at which it did not."""
        self.warnings: dict[str, str] = {}
        """What a person was warned of, and the words."""
        self._measure_by(objective)
        self.meter = self.new_meter()

    def _measure_by(self, objective: Objective) -> None:
        self.objective, self.quantities = objective, objective.quantities
        self.count_names = list(dict.fromkeys(q.per for q in self.quantities))
        self.count_of = torch.tensor([self.count_names.index(q.per) for q in self.quantities], device=self.device)
        self.weights = torch.tensor([q.weight for q in self.quantities], dtype=torch.float64, device=self.device)

    def judging(self) -> "TrainState":
        """Return this state, with the same model, as it is judged: by the objective's own way for validation, where it has one."""
        if not isinstance(self.objective, Contrast):
            return self
        judged = copy.copy(self)
        judged._measure_by(self.objective.in_validation)
        return judged

    def new_meter(self) -> Meter:
        """Return an empty meter of the objective's quantities."""
        return Meter(len(self.quantities), len(self.count_names), len(self.players), self.device)

    @property
    def playing(self) -> PlayerState:
        """The player whose step is the next."""
        place = self.step % sum(state.player.steps for state in self.players)
        for state in self.players:
            if place < state.player.steps:
                return state
            place -= state.player.steps
        raise AssertionError("a turn without a player")

    @property
    def residues(self) -> int:
        """Residues that the encoder was trained on, over all workers and up to this step; to read it is to wait for the device.

        Those of another player's steps do not count: what an adversary learns from teaches the encoder nothing.
        """
        return int(self.trained_on)

    @property
    def learning_rate(self) -> float:
        """Rate of the next step, which every player's schedule counts over the steps of all."""
        return self.playing.adam.rate_at(self.step, self.total_steps, self.epochs)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Each player's rate if the next step were its own, by its name in the logs (:func:`of_player`)."""
        of = (self.step, self.total_steps, self.epochs)
        return {of_player(each.player, "learning_rate"): each.adam.rate_at(*of) for each in self.players}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights, as tensors and plain values."""
        optimizers = {state.player.name: state.optimizer.state_dict() for state in self.players}
        kept = ("epochs", "residues", "workers_since", "wrong_since", "warnings", *_PROGRESS)
        return {"optimizers": optimizers, **{name: getattr(self, name) for name in kept}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; the weights are loaded apart.

        What an older raypro did not write begins anew: epochs and residues at 0, and steps at which something is wrong.

        Raises:
            InputError: it is not the state of these players.
        """
        if list(saved.get("optimizers", ())) != [state.player.name for state in self.players]:
            raise InputError("this training state has other optimizers (an older raypro's?): it cannot be resumed, its weights can be used")
        for state in self.players:
            state.optimizer.load_state_dict(saved["optimizers"][state.player.name])
        self.epochs = saved.get("epochs", 0)
        self.trained_on.fill_(saved.get("residues", 0))
        for name in _PROGRESS:
            setattr(self, name, saved[name])
        since = tuple(saved.get("workers_since", ()))
        self.workers_since = since if since[:1] == (world_size(),) else (world_size(), self.step, self.residues)
        if "wrong_since" in saved:
            self.wrong_since, self.warnings = dict(saved["wrong_since"]), dict(saved["warnings"])

    def local_counts(self, prepared: Sequence[Prepared]) -> Tensor:
        """Return this worker's counts [number of counts] of some prepared batches, on the device."""
        counts = [sum(item.counts[name] for item in prepared) for name in self.count_names]
        return torch.tensor(counts, dtype=torch.float64).to(self.device, non_blocking=True)

    def sums(self, item: Prepared) -> Tensor:
        """Return the objective's sums [number of quantities] for one prepared batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.objective.sums(self.model, item.to(self.device))

    def means(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        """Return each quantity's mean and the loss, from sums and counts over all workers."""
        values = (sums / counts[self.count_of].clamp(min=1)).tolist()
        loss = sum(q.weight * value for q, value in zip(self.quantities, values, strict=True))
        means = {"loss": loss, **{q.name: value for q, value in zip(self.quantities, values, strict=True)}}
        if isinstance(self.objective, Reckoning):
            return self.objective.reckoned(means, dict(zip(self.count_names, counts.tolist(), strict=True)))
        return means

    def take_metrics(self) -> dict[str, float]:
        """Return means and speeds over all workers since the last call. Every worker must call it at the same step.

        Raises:
            FloatingPointError: the loss or the gradient is not finite.
        """
        meter, self.meter = self.meter, self.new_meter()
        local = torch.tensor([meter.tokens, meter.slots, meter.residues], dtype=torch.float64, device=self.device)
        total = sum_over_workers(torch.cat([meter.sums, meter.counts, local]))
        sums, counts, volume = total.split([len(meter.sums), len(meter.counts), 3])
        tokens, slots, residues = volume.tolist()
        seconds = time.perf_counter() - meter.started
        metrics = self.means(sums, counts)
        norms = self.gradient_norms(meter)
        metrics |= norms
        training = seconds - meter.elsewhere
        metrics["tokens_per_second"] = tokens / training
        metrics["residues_per_second"] = residues / training
        metrics["steps_per_second"] = meter.steps / training
        metrics["padding_waste"] = 1 - tokens / max(1.0, slots)
        metrics["waiting_for_data"] = meter.waited / training
        self.tokens += int(tokens)
        self.seconds += seconds
        if not all(map(math.isfinite, (metrics["loss"], *norms.values()))):
            raise FloatingPointError(
                f"the loss or its gradient is not finite at step {self.step} or shortly before; "
                "resume from the last checkpoint with a lower optimizer.learning_rate"
            )
        return metrics

    def gradient_norms(self, meter: Meter) -> dict[str, float]:
        """Return the mean norm, before clipping, of each player that took a step, by its name in the logs (:func:`of_player`)."""
        players = zip(self.players, meter.norms.tolist(), meter.turns, strict=True)
        return {of_player(each.player, "gradient_norm"): norm / turns for each, norm, turns in players if turns}


_PROGRESS = ("step", "tokens", "seconds", "best", "stale")


def of_player(player: Player, name: str) -> str:
    """Return what a player's quantity is called in the logs: the encoder's by the plain name, an adversary's in a section of its own."""
    return name if player.trains_encoder else f"{player.name}/{name}"


def train_step(state: TrainState, batches: Sequence[Batch]) -> None:
    """Take one optimizer step on the micro-batches of this worker, and those that the other workers give at the same time.

    It is the step of one player: only its parameters get gradients, which alone are summed over the workers.
    """
    state.model.train()
    playing = state.playing
    for other in state.players:
        for parameter in other.parameters:
            parameter.requires_grad_(other is playing)
    prepared = [state.objective.prepare(batch) for batch in batches]
    counts = state.local_counts(prepared)
    mine = sum(batch.residues for batch in batches)
    residues = torch.tensor([mine], dtype=torch.float64).to(state.device, non_blocking=True)
    every = sum_over_workers(torch.cat([counts, residues]))
    scales = playing.player.sign * state.weights / every[state.count_of].clamp(min=1)

    torch.manual_seed(seed_of(state.seed, state.step, rank()))  # dropout: a function of the step, so resuming needs no generator's state
    playing.gradients.zero()
    total = torch.zeros_like(state.meter.sums)
    for item in prepared:
        sums = state.sums(item)
        torch.dot(sums, scales.to(sums.dtype)).backward()
        total += sums.detach()
    sum_over_workers(playing.gradients.flat)
    place = state.players.index(playing)
    state.meter.norms[place] += playing.gradients.clip(playing.adam.clip_norm)
    state.meter.turns[place] += 1
    for group in playing.optimizer.param_groups:
        group["lr"] = state.learning_rate
    playing.optimizer.step()

    state.step += 1
    if playing.player.trains_encoder:
        state.trained_on += every[-1]
    state.meter.steps += 1
    state.meter.residues += mine
    state.meter.add(total, counts, batches)


def fit(state: TrainState, steps: Iterable[Sequence[Batch]], hooks: Sequence[Callable[[TrainState], bool | None]]) -> None:
    """Train until the steps (each this worker's micro-batches) end or a hook returns True; after every step all hooks are called."""
    state.meter = state.new_meter()
    waiting_since = time.perf_counter()
    for batches in steps:
        state.meter.waited += time.perf_counter() - waiting_since
        train_step(state, batches)
        if any([hook(state) for hook in hooks]):
            return
        waiting_since = time.perf_counter()


@torch.no_grad()
def evaluate(state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the means of the objective's quantities over the workers' batches, without dropout.

    Workers may have different numbers of batches: they meet only once, at the end.

    Raises:
        InputError: no term of the loss: a mean over nothing would pass for a perfect one.
    """
    state = state.judging()
    state.model.eval()
    meter = state.new_meter()
    for batch in batches:
        prepared = state.objective.prepare(batch)
        meter.add(state.sums(prepared), state.local_counts([prepared]), [batch])
    total = sum_over_workers(torch.cat([meter.sums, meter.counts]))
    sums, counts = total.split([len(meter.sums), len(meter.counts)])
    if not counts[state.count_of][state.weights != 0].any():
        loss = " or ".join(quantity.name for quantity in state.quantities if quantity.weight)
        raise InputError(f"validation: no term of {loss} in its sequences: too few, or too short; take a corpus with others")
    return state.means(sums, counts)
