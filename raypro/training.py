"""What one training worker does, on Ray or not: an experiment and a reader in, checkpoints and a record out."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import psutil
import torch

from raypro.core import checkpoint
from raypro.core.batch import Batch
from raypro.core.distributed import broadcast_model, max_over_workers, rank, world_size
from raypro.core.loop import TrainState, evaluate, fit
from raypro.core.random import seed_of
from raypro.data.corpus import Corpus
from raypro.data.plan import Cursor, Plan, WindowTask
from raypro.data.source import Reader, TrainingSource, to_batch
from raypro.experiment import Experiment
from raypro.outbox import Outbox

Report = Callable[[dict[str, float], Path | None], None]
"""Told, on every worker, the validation metrics and (on rank 0) the checkpoint just written."""


RESUMED = "resumed_at_step"
"""Tag of a run that went on from a checkpoint: the step of the last time."""
RECORD = "record"
"""Folder, within the run's, of the record of sequences used."""


def data_plan(experiment: Experiment, split: str = "train") -> Plan:
    """Return the data plan of a split; that of the validation split does not depend on the seed, so that runs compare."""
    batches = experiment.batches
    seed = experiment.seed if split == "train" else 0
    return Plan(Corpus.open(experiment.corpus), split, seed, batches.token_budget, batches.max_length, batches.window_row_groups)


def initial_state(experiment: Experiment, device: torch.device) -> TrainState:
    """Return the state before the first step: weights by the experiment's seed."""
    torch.manual_seed(seed_of(experiment.seed, 0))
    model = experiment.objective.build(experiment.encoder.build())
    bf16 = experiment.precision == "bf16"
    state = TrainState(
        experiment.objective,
        model,
        experiment.optimizer,
        seed=experiment.seed,
        total_steps=experiment.budget.steps,
        device=device,
        bf16=bf16,
    )
    if experiment.compile:
        state.model.encoder.compile(dynamic=True)  # type: ignore[union-attr, operator]
    return state


def train(experiment: Experiment, run: Path, reader_of: Callable[[Plan], Reader], report: Report, resume: Path | None) -> TrainState:
    """Train, as one of the workers of the process group if there is one; return the final state.

    Args:
        experiment: what to do.
        run: the run's folder; checkpoints go to ``step_...``, the record of sequences used to ``record``.
        reader_of: gives the reader of a plan.
        report: called after every validation.
        resume: checkpoint to continue from; None starts anew.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if experiment.workers.gpus else torch.device("cpu")
    state = initial_state(experiment, device)
    cursor = _restore(state, resume) if resume else None
    if rank() == 0:
        forget_after(run, state.step)
    broadcast_model(state.model)
    plan = data_plan(experiment)
    source = TrainingSource(
        plan,
        reader_of(plan),
        rank=rank(),
        workers=world_size(),
        accumulation=experiment.batches.accumulation,
        epochs=experiment.budget.epochs,
        cursor=cursor,
        step=state.step,
        device=device,
    )
    hooks = Hooks(experiment, run, source, report, state)
    if resume and hooks.outbox:
        hooks.outbox.tags({RESUMED: state.step})
    if not hooks.finished(state):
        fit(state, source, [hooks])
    if state.step != hooks.validated_at:
        hooks.log(state)
        hooks.validate(state)
    return state


def _restore(state: TrainState, path: Path) -> Cursor:
    saved = checkpoint.load_training(path)
    checkpoint.load_weights(state.model, checkpoint.load(path))
    state.load_state_dict(saved)
    return Cursor.from_plain(saved["cursor"])


def validation_batches(experiment: Experiment) -> Iterator[Batch]:
    """Yield this worker's share of the first windows of the validation split, the same (also masked the same) at every validation."""
    plan = data_plan(experiment, "valid")
    for window, groups in enumerate(plan.windows):
        if groups[0].first_row < experiment.validation.sequences:
            yield from map(to_batch, islice(plan.read(WindowTask(0, window, 0)), rank(), None, world_size()))


class Hooks:
    """What happens around the steps: logging, validation with a checkpoint, and the end of the budget."""

    def __init__(self, experiment: Experiment, run: Path, source: TrainingSource, report: Report, state: TrainState) -> None:
        self.experiment, self.run, self.source, self.report = experiment, run, source, report
        self.held_out = list(validation_batches(experiment))
        self.outbox = Outbox(run, "worker") if rank() == 0 else None
        self.validated_at = state.step if state.step else -1
        self.process = psutil.Process()

    def __call__(self, state: TrainState) -> bool:
        """Do what is due after a step; return whether training ends."""
        end, validate = self.finished(state), state.step % self.experiment.validation.every == 0
        if end or validate or state.step % self.experiment.tracking.every == 0:
            self.log(state)
            end = end or self.out_of_time(state)
        if end or validate:
            self.validate(state)
        return end or self.out_of_patience(state)

    def finished(self, state: TrainState) -> bool:
        """Return whether the budget's steps are taken."""
        return self.experiment.budget.steps is not None and state.step >= self.experiment.budget.steps

    def out_of_time(self, state: TrainState) -> bool:
        """Return whether the budget's minutes are over, on any worker."""
        minutes = self.experiment.budget.minutes
        return minutes is not None and max_over_workers(state.seconds, state.device) >= 60 * minutes

    def out_of_patience(self, state: TrainState) -> bool:
        """Return whether validation has not improved for too long."""
        patience = self.experiment.validation.patience
        return patience is not None and state.stale >= patience

    def log(self, state: TrainState) -> None:
        """Log the means since the last logging, if there was a step since."""
        if not state.meter.steps:
            return
        metrics = {f"{'speed' if name in SPEEDS else 'train'}/{name}": value for name, value in state.take_metrics().items()}
        metrics |= {"train/learning_rate": state.learning_rate, "train/epoch": self.source.epoch(), "train/tokens": state.tokens}
        metrics["system/memory_gb"] = self.process.memory_info().rss / 1e9
        if state.device.type == "cuda":
            metrics["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated(state.device) / 1e9
        if self.outbox:
            self.outbox.metrics(state.step, metrics)

    def validate(self, state: TrainState) -> None:
        """Measure the held-out loss, keep the record of what was used, and write a checkpoint."""
        metrics = {f"valid/{name}": value for name, value in evaluate(state, self.held_out).items()}
        loss = metrics["valid/loss"]
        state.best, state.stale = (loss, 0) if loss < state.best else (state.best, state.stale + 1)
        write_record(self.run, state.step, rank(), self.source)
        training = {**state.state_dict(), "cursor": self.source.cursor().to_plain()}
        path = self.run / f"step_{state.step:08d}" if rank() == 0 else None
        if path and self.outbox:
            checkpoint.save(path, state.model, self.experiment.to_plain(), state.step, metrics, training)
            self.outbox.metrics(state.step, metrics)
            self.outbox.checkpoint(path, state.step, metrics)
        self.report({**metrics, "step": state.step}, path)
        self.validated_at = state.step


SPEEDS = ("tokens_per_second", "steps_per_second", "padding_waste", "waiting_for_data")


def write_record(run: Path, step: int, worker: int, source: TrainingSource) -> None:
    """Write which batches a worker used since the last record, as JSON lines; all of them are in the checkpoint of the same step."""
    uses, source.record = source.record, []
    path = run / RECORD / f"step_{step:08d}.worker_{worker}.jsonl"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(asdict(use)) + "\n" for use in uses))
    os.replace(temporary, path)


def forget_after(run: Path, step: int) -> None:
    """Remove what a run wrote after the step that it is resumed at: that part of it is done again."""
    for path in [*run.glob("step_*"), *(run / RECORD).glob("step_*")]:
        if int(path.name.split(".")[0].removeprefix("step_")) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in run.glob(".step_*"):  # a checkpoint that was being written
        shutil.rmtree(path)
