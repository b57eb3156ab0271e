"""What one training worker does, whatever it trains, on Ray or not: a job in, checkpoints and a record out."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from raypro.core import checkpoint
from raypro.core.batch import Batch
from raypro.core.distributed import broadcast_model, max_over_workers, rank
from raypro.core.loop import TrainState, fit
from raypro.core.objectives.objective import Watched
from raypro.data.source import Use
from raypro.experiment import AnyExperiment
from raypro.outbox import Outbox

Report = Callable[[dict[str, float], Path | None], None]
"""Told, on every worker, the validation metrics and (on rank 0) the checkpoint just written."""


RESUMED = "resumed_at_step"
"""Tag of a run that went on from a checkpoint: the step of the last time."""
WARNING = "warning"
"""Tag of a run in which something is wrong that does not end it: all of that, and for how long when it was said."""
RECORD = "record"
"""Folder, within the run's, of the record of sequences used."""


class Source(Protocol):
    """A worker's steps, each its micro-batches, that knows how far it has come."""

    record: list[Use]
    """What was used since the record was last taken."""

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        """Yield the steps' micro-batches."""

    def cursor(self) -> dict[str, Any]:
        """Return, as plain values, how far all workers have come; every worker must call it at the same step."""

    def epoch(self) -> float:
        """Return the number of epochs consumed so far, the present one by its fraction."""

    def at_epoch_end(self) -> bool:
        """Return whether the step last yielded is the last of its epoch."""


class Job(Protocol):
    """What is trained, on what, and how it is judged: one for pre-training, one for fine-tuning."""

    @property
    def experiment(self) -> AnyExperiment:
        """What to do."""

    def state(self, device: torch.device) -> TrainState:
        """Return the state before the first step, a function of the experiment and its seed."""

    def source(self, cursor: dict[str, Any] | None, step: int, device: torch.device) -> Source:
        """Return this worker's steps after ``step``, from a source's cursor on."""

    def last_step(self, state: TrainState, cursor: dict[str, Any] | None) -> int | None:
        """Return the step at which the budget ends, for rates that fall until then; None where that is not known.

        Every worker must call it, with the state as it goes on and the cursor of a source.
        """

    def judge(self, state: TrainState) -> dict[str, float]:
        """Return validation metrics over all workers, ``loss`` among them; the same data, masked the same, every time."""


def train(job: Job, run: Path, report: Report, resume: Path | None) -> TrainState:
    """Train, as one of the workers of the process group if there is one; return the final state.

    Args:
        job: what to do.
        run: the run's folder; checkpoints go to ``step_...``, the record of sequences used to ``record``.
        report: called after every validation.
        resume: checkpoint to continue from; None starts anew.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if job.experiment.workers.gpus else torch.device("cpu")
    state = job.state(device)
    cursor = _restore(state, resume, job.experiment.selected_by[0]) if resume else None
    state.total_steps = job.last_step(state, cursor)
    if rank() == 0:
        forget_after(run, state.step)
    broadcast_model(state.model)
    source = job.source(cursor, state.step, device)
    hooks = Hooks(job, run, source, report, state)
    if resume and hooks.outbox:
        hooks.outbox.tags({RESUMED: state.step})
    if not (hooks.finished(state) or hooks.out_of_time(state) or hooks.out_of_patience(state)):
        fit(state, source, [hooks])
    if state.step != hooks.validated_at:
        hooks.log(state)
        hooks.validate(state)
    return state


def _restore(state: TrainState, path: Path, selected: str) -> dict[str, Any]:
    saved, found = checkpoint.load_training(path), checkpoint.load(path)
    checkpoint.load_weights(state.model, found)
    state.load_state_dict(saved)
    # An older raypro's, which chose by another metric, or judged by other sequences: its best does not compare.
    if selected not in found.metrics or "epochs" not in saved:
        state.best, state.stale = math.inf, 0
    cursor: dict[str, Any] = saved["cursor"]
    return cursor


class Hooks:
    """What happens around the steps: logging, validation with a checkpoint, and the end of the budget."""

    def __init__(self, job: Job, run: Path, source: Source, report: Report, state: TrainState) -> None:
        self.job, self.experiment, self.run, self.source, self.report = job, job.experiment, run, source, report
        self.outbox = Outbox(run, "worker") if rank() == 0 else None
        self.validated_at = state.step if state.step else -1
        self.watched_at = state.step
        self.process = psutil.Process()

    def __call__(self, state: TrainState) -> bool:
        """Do what is due after a step; return whether training ends."""
        every, epoch_ends = self.experiment.validation.every, self.source.at_epoch_end()
        state.epochs += epoch_ends
        end, validate = self.finished(state), state.step % every == 0 if every else epoch_ends
        if end or validate or state.step % self.experiment.tracking.every == 0:
            self.log(state)
            end = end or self.out_of_time(state)
        if end or validate:
            began = time.perf_counter()
            self.validate(state)
            state.meter.elsewhere += time.perf_counter() - began
        return end or self.out_of_patience(state)

    def finished(self, state: TrainState) -> bool:
        """Return whether the budget's steps are taken, or its residues used."""
        budget = self.experiment.budget
        if budget.steps is not None and state.step >= budget.steps:
            return True
        return budget.residues is not None and state.residues >= budget.residues

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
        means = state.take_metrics()
        self.watch(state, means)
        metrics = {grouped("speed" if name in SPEEDS else "train", name): value for name, value in means.items()}
        metrics |= {grouped("train", name): rate for name, rate in state.learning_rates.items()}
        metrics |= {"train/epoch": self.source.epoch(), "train/minutes": state.seconds / 60}
        metrics |= {"train/tokens": state.tokens, "train/residues": state.residues}
        metrics["system/memory_gb"] = self.process.memory_info().rss / 1e9
        if state.device.type == "cuda":
            metrics["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated(state.device) / 1e9
        if self.outbox:
            self.outbox.metrics(state.step, metrics)

    def watch(self, state: TrainState, means: dict[str, float]) -> None:
        """Warn, once a run of each thing, restarts or not, of what the objective says has been wrong for too long."""
        objective = state.objective
        if not isinstance(objective, Watched):
            return
        state.wrong_since = {wrong: state.wrong_since.get(wrong, self.watched_at) for wrong in objective.warnings(means)}
        self.watched_at = state.step
        lasting = {wrong: state.step - since for wrong, since in state.wrong_since.items() if state.step - since >= objective.warn_after}
        new = {
            wrong: f"{wrong} (for {steps} steps, at step {state.step})" for wrong, steps in lasting.items() if wrong not in state.warnings
        }
        state.warnings |= new
        if new and self.outbox:
            self.outbox.tags({WARNING: "; ".join(state.warnings.values())})

    def validate(self, state: TrainState) -> None:
        """Judge the model, keep the record of what was used, and write a checkpoint."""
        metrics = {grouped("valid", name): value for name, value in self.job.judge(state).items()}
        name, order = self.experiment.selected_by
        score = metrics[name] if order == "min" else -metrics[name]
        state.best, state.stale = (score, 0) if score < state.best else (state.best, state.stale + 1)
        write_record(self.run, state.step, rank(), self.source)
        training = {**state.state_dict(), "cursor": self.source.cursor()}
        path = self.run / f"step_{state.step:08d}" if rank() == 0 else None
        if path and self.outbox:
            checkpoint.save(path, state.model, self.experiment.to_plain(), state.step, metrics, training)
            self.outbox.metrics(state.step, metrics)
            self.outbox.checkpoint(path, state.step, metrics)
        self.report({**metrics, "step": state.step}, path)
        self.validated_at = state.step


def grouped(group: str, name: str) -> str:
    """Return a metric's name within a group; one that has a section of its own keeps it: ``train_noiser/entropy``."""
    return f"{group}_{name}" if "/" in name else f"{group}/{name}"


SPEEDS = ("tokens_per_second", "residues_per_second", "steps_per_second", "padding_waste", "waiting_for_data")


def write_record(run: Path, step: int, worker: int, source: Source) -> None:
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
