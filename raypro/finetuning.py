"""Fine-tuning as a job of :func:`raypro.training.train`: labelled sequences, a pre-trained encoder (or a new one) and a task's head."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypro.config import InputError, to_plain
from raypro.core import checkpoint
from raypro.core.batch import LabelledBatch
from raypro.core.distributed import first_worker_first, rank, sum_over_workers, world_size
from raypro.core.encoders.hugging_face import require_length
from raypro.core.loop import TrainState
from raypro.core.random import seed_of
from raypro.data.labelled import LabelledData
from raypro.data.labelled_source import Embedded, LabelledSource, steps_of
from raypro.embeddings import embedded
from raypro.experiment import FineTuning, experiment_of

_HELD_OUT = 21  # seed of the draw of validation sequences


@dataclass(frozen=True)
class Finetuning:
    """A :class:`raypro.training.Job`."""

    experiment: FineTuning
    splits: dict[str, Embedded]
    """The ``train`` and ``valid`` splits, with the vectors of a frozen encoder."""
    start: Mapping[str, Tensor] | None = None
    """The weights of the checkpoint to start from, where they were read before."""

    @classmethod
    def load(cls, experiment: FineTuning, device: torch.device | str = "cpu") -> "Finetuning":
        """Read the labelled data; where the encoder is frozen, its vectors too. Several workers may call it at the same time."""
        data = LabelledData.open(experiment.data)
        if not experiment.frozen:
            return cls(experiment, {split: Embedded(data.read(split)) for split in ("train", "valid")})
        encoder = initial_model(experiment).encoder.to(device).eval()
        with first_worker_first():  # it computes what is not there yet
            return cls(experiment, {split: embed_split(experiment, data, split, encoder, device) for split in ("train", "valid")})

    def state(self, device: torch.device) -> TrainState:
        """Return the state before the first step."""
        experiment = self.experiment
        model = initial_model(experiment, self.start)
        state = TrainState(
            experiment.task,
            model,
            experiment.optimizer,
            seed=experiment.seed,
            device=device,
            bf16=experiment.precision == "bf16",
        )
        if experiment.compile:
            model.encoder.compile(dynamic=True)
        return state

    def source(self, cursor: dict[str, Any] | None, step: int, device: torch.device) -> LabelledSource:
        """Return this worker's steps of the training split."""
        batches = self.experiment.batches
        return LabelledSource(
            self.splits["train"],
            seed=self.experiment.seed,
            size=batches.size,
            token_budget=batches.token_budget,
            rank=rank(),
            workers=world_size(),
            epochs=self.experiment.budget.epochs,
            cursor=cursor,
        )

    def last_step(self, state: TrainState, cursor: dict[str, Any] | None) -> int | None:
        """Return the step at which the budget ends, however often training is resumed; None where only minutes end it."""
        budget, batches = self.experiment.budget, self.experiment.batches
        epochs = budget.epochs * -(-len(self.splits["train"].examples) // batches.size) if budget.epochs else None
        return min((limit for limit in (budget.steps, epochs) if limit), default=None)

    @cached_property
    def held_out(self) -> list[tuple[np.ndarray, LabelledBatch]]:
        """This worker's share of the validation sequences, with their rows: of more than are used a draw, since neighbours may be a family.

        The draw is the same for every seed of the experiment, so that runs compare.
        """
        valid = self.splits["valid"]
        drawn = np.random.default_rng(_HELD_OUT).permutation(len(valid.examples))[: self.experiment.validation.sequences]
        return valid.batches(np.sort(drawn)[rank() :: world_size()], self.experiment.batches.token_budget)

    def judge(self, state: TrainState) -> dict[str, float]:
        """Return the loss and the task's metrics on the validation sequences."""
        task = self.experiment.task
        meter, predicted = state.new_meter(), {}
        for rows, prepared, outputs in forward(task, state.model, self.held_out, state.device, state.bf16):
            meter.add(task.sums_of(outputs, prepared), state.local_counts([prepared]), [])
            predicted |= dict(zip(rows.tolist(), task.predictions(outputs, prepared), strict=True))
        total = sum_over_workers(torch.cat([meter.sums, meter.counts]))
        sums, counts = total.split([len(meter.sums), len(meter.counts)])
        if world_size() > 1:
            parts: list[Any] = [None] * world_size()
            dist.all_gather_object(parts, predicted)
            predicted = {row: value for part in parts for row, value in part.items()}
        rows, labels = sorted(predicted), self.splits["valid"].examples
        return {**state.means(sums, counts), **task.score([predicted[row] for row in rows], [labels.label(row) for row in rows])}


@torch.no_grad()
def forward(
    task: Any, model: Any, batches: Iterable[tuple[np.ndarray, LabelledBatch]], device: torch.device | str, bf16: bool
) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """Yield (rows, prepared batch, the task's outputs) for batches with their rows, the model in evaluation mode."""
    model.eval()
    for rows, batch in batches:
        prepared = task.prepare(batch).to(torch.device(device))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            outputs = task.outputs(model, prepared)
        yield rows, prepared, outputs


def initial_model(experiment: FineTuning, start: Mapping[str, Tensor] | None = None) -> Any:
    """Return the model before the first step: weights by the experiment's seed, the encoder's from its checkpoint where there is one."""
    torch.manual_seed(seed_of(experiment.seed, 0))
    model = experiment.task.build(experiment.encoder.build())
    if experiment.start:
        load_start(model, experiment.start, start)
    if experiment.frozen:
        model.encoder.requires_grad_(False)
    return model


def embed_split(experiment: FineTuning, data: LabelledData, split: str, encoder: nn.Module, device: torch.device | str) -> Embedded:
    """Return a split with the frozen encoder's vectors."""
    return embedded(data, split, encoder, to_plain(experiment.encoder), experiment.batches.token_budget, torch.device(device))


def labelled_steps(experiment: FineTuning) -> Callable[[int], list[np.ndarray]]:
    """Return what gives the rows of each step of an epoch."""
    count = len(LabelledData.open(experiment.data).read("train"))
    return lambda epoch: steps_of(count, experiment.batches.size, experiment.seed, epoch)


def load_start(model: Any, path: str, weights: Mapping[str, Tensor] | None = None) -> None:
    """Put a checkpoint's encoder into a model and, where both have one, the first layer of the pair head.

    Raises:
        InputError: there is no checkpoint, or its encoder has another shape.
    """
    weights = weights or checkpoint.load(path).weights
    parts = {"encoder.": model.encoder, "pair_head.first.": getattr(model.head, "pair_layer", None)}
    for prefix, module in parts.items():
        found = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        if module is not None and found:
            try:
                module.load_state_dict(found)
            except RuntimeError as error:
                raise InputError(f"{path}: its encoder is not the experiment's: {' '.join(str(error).split())[:200]}") from None


def resolved(experiment: FineTuning, data: LabelledData) -> FineTuning:
    """Return the experiment with what only the data know filled in (see ``Task.fitted_to``).

    Raises:
        InputError: the data do not fit the task or the encoder, or lack a split.
    """
    for split in ("train", "valid"):
        if split not in data.splits:
            raise InputError(f"{data.path}: no {split} split; import the data with one")
    if getattr(experiment.encoder, "longest", None):
        for split in data.splits:  # the tests too: they are scored when all is done
            require_length(experiment.encoder, int(data.read(split).lengths.max(initial=0)), f"{data.path}: {split}")
    return replace(experiment, task=experiment.task.fitted_to(data))


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model with the experiment that made it."""

    model: Any
    experiment: FineTuning
    step: int
    metrics: dict[str, float]
    """Validation metrics of the checkpoint."""

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "FineTuned":
        """Load a checkpoint's model, in evaluation mode, onto a device.

        Raises:
            InputError: there is no usable checkpoint, or it is of a pre-training run.
        """
        loaded = checkpoint.load(path)
        experiment = experiment_of(loaded.experiment)
        if not isinstance(experiment, FineTuning):
            raise InputError(
                f"{path}: a pre-training checkpoint has no head that predicts; fine-tune it: jobs/finetune.py --encoder {path}"
            )
        model = experiment.task.build(experiment.encoder.build())
        checkpoint.load_weights(model, loaded)
        return cls(model.eval().to(device), experiment, loaded.step, loaded.metrics)

    def predict(self, batches: Iterable[tuple[np.ndarray, LabelledBatch]]) -> dict[int, Any]:
        """Return the predictions of batches by row, made where the model lies."""
        task, device = self.experiment.task, next(self.model.parameters()).device
        return {
            row: value
            for rows, prepared, outputs in forward(task, self.model, batches, device, self.experiment.precision == "bf16")
            for row, value in zip(rows.tolist(), task.predictions(outputs, prepared), strict=True)
        }
