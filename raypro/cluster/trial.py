"""One trial of a sweep, in a process that Ray Tune keeps for many: what all trials use comes out of Ray's object store."""

import fcntl
import json
import math
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from raypro.config import InputError, RunFailed, first_line
from raypro.core import checkpoint
from raypro.core.distributed import best_device
from raypro.core.loop import TrainState
from raypro.data.labelled import Examples
from raypro.data.labelled_source import Embedded
from raypro.data.plan import Plan
from raypro.data.source import Reader, read_here
from raypro.experiment import AnyExperiment, FineTuning, experiment_of
from raypro.finetuning import FineTuned, Finetuning
from raypro.home import RUN_FILE
from raypro.outbox import Outbox
from raypro.pretraining import Pretraining
from raypro.sweep import Result, Trial, logged
from raypro.training import Job, Source, train

FIRST_STEP = "first_step"
"""File in a trial's folder that is written when its training begins."""
FAILURE = "failure.txt"
"""File in a trial's folder with the whole trace of what ended it."""
LOCK = "lock"


@dataclass(frozen=True)
class Shared:
    """What the trials of a sweep use: made once by the driver, and not read by any of them."""

    splits: Mapping[str, "ray.ObjectRef[dict[str, Embedded]]"]
    """Of :func:`data_key`: the labelled splits, with the vectors of a frozen encoder."""
    starts: Mapping[str, "ray.ObjectRef[dict[str, np.ndarray]]"]
    """Of a checkpoint's path: its weights."""
    tests: Mapping[str, "ray.ObjectRef[Examples]"]
    """The test splits, where they are scored at the end."""
    halving: ActorHandle | None = None
    """A :class:`raypro.sweep.Halving`, where trials may be stopped early."""

    def job(self, experiment: AnyExperiment, reader_of: Callable[[Plan], Reader] = read_here) -> Job:
        """Return the job of a trial; ``reader_of`` gives the reader of a pre-training corpus."""
        if not isinstance(experiment, FineTuning):
            return Pretraining(experiment, reader_of)
        weights = ray.get(self.starts[experiment.start]) if experiment.start else None
        start = {name: torch.from_numpy(array.copy()) for name, array in weights.items()} if weights else None
        return Finetuning(experiment, ray.get(self.splits[data_key(experiment)]), start)


def data_key(experiment: FineTuning) -> str:
    """Return what a trial's data depend on: trials of one key share them."""
    if not experiment.frozen:
        return "sequences"
    random_weights = experiment.seed if experiment.start is None else None
    return json.dumps([experiment.to_plain()["encoder"], experiment.start, random_weights], sort_keys=True)


class StoppedEarly(Exception):
    """The trial does not keep up with the others."""


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Run the trial of the folder ``config["run"]`` to its end, from its latest checkpoint where there is one; never raises.

    What it did, or why it failed, is in its ``result.json``.
    """
    run, started = Path(config["run"]), time.time()
    experiment = experiment_of(json.loads((run / RUN_FILE).read_text())["experiment"])
    with (run / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the trial's process of a killed driver may live on for a moment
        (run / FIRST_STEP).unlink(missing_ok=True)
        try:
            result = probed(run, experiment, result_of(run, experiment, _train(experiment, run, shared)))
            result = replace(result, test=_test_scores(experiment, run, shared))
        except Exception as error:
            (run / FAILURE).write_text(traceback.format_exc())
            result = replace(result_of(run, experiment, "failed"), reason=_why(error))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next trial of this process needs what a failed one held
        first_step = (run / FIRST_STEP).stat().st_mtime if (run / FIRST_STEP).exists() else None
        Trial(run, experiment, ()).end(replace(result, started=started, first_step=first_step, ended=time.time()))
    from ray import tune  # the workers of a trial of several need it not

    tune.report({"score": result.score if result.score is not None else math.nan})


def _why(error: Exception) -> str:
    plain = isinstance(error, InputError | RunFailed | FloatingPointError)
    return first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"


def _train(experiment: AnyExperiment, run: Path, shared: Shared) -> str:
    """Train; return "finished" or "stopped"."""
    if experiment.workers.count > 1:
        from raypro.cluster.trial_workers import train_on_workers  # Ray Train: most trials need it not

        return train_on_workers(experiment, run, shared)
    torch.set_num_threads(max(1, int(experiment.workers.cpus or 1)))

    def report(metrics: dict[str, float], path: Path | None) -> None:
        forget_worse(run, experiment)
        require_going_on(experiment, run, shared, metrics)

    try:
        train(Watched(shared.job(experiment), run), run, report, max(run.glob("step_*"), default=None))
    except StoppedEarly:
        return "stopped"
    return "finished"


def require_going_on(experiment: AnyExperiment, run: Path, shared: Shared, metrics: Mapping[str, float]) -> None:
    """Raise StoppedEarly unless the trial may go on."""
    if shared.halving is not None:
        answer = shared.halving.goes_on.remote(run.name, int(metrics["step"]), metrics[experiment.selected_by[0]])
        if not ray.get(answer):
            raise StoppedEarly


@dataclass(frozen=True)
class Watched:
    """A job that notes when its training begins."""

    job: Job
    run: Path

    @property
    def experiment(self) -> AnyExperiment:
        """The job's."""
        return self.job.experiment

    def state(self, device: torch.device) -> TrainState:
        """Return the job's."""
        return self.job.state(device)

    def source(self, cursor: dict[str, Any] | None, step: int, device: torch.device) -> Source:
        """Return the job's: what comes next is the first step."""
        source = self.job.source(cursor, step, device)
        (self.run / FIRST_STEP).touch()
        return source

    def last_step(self, state: TrainState, cursor: dict[str, Any] | None) -> int | None:
        """Return the job's."""
        return self.job.last_step(state, cursor)

    def judge(self, state: TrainState) -> dict[str, float]:
        """Return the job's metrics."""
        return self.job.judge(state)


def forget_worse(run: Path, experiment: AnyExperiment) -> None:
    """Remove a trial's checkpoints but the best ``validation.keep`` and the latest, as Ray Train does where it runs the workers."""
    steps = _steps_by_score(run, experiment)
    kept = {*steps[: experiment.validation.keep], max(steps)}
    for step in set(steps) - kept:
        shutil.rmtree(_folder(run, step))


def _steps_by_score(run: Path, experiment: AnyExperiment) -> list[int]:
    """Return the steps of the checkpoints that are there, the best first; of equals the earlier."""
    metric, order = experiment.selected_by
    scores = {step: score if order == "max" else -score for step, score in logged(run, metric).items()}
    there = sorted(int(path.name.removeprefix("step_")) for path in run.glob("step_*"))
    return sorted(there, key=lambda step: scores.get(step, -math.inf), reverse=True)


def _folder(run: Path, step: int) -> Path:
    return run / f"step_{step:08d}"


def result_of(run: Path, experiment: AnyExperiment, status: Any) -> Result:
    """Return what a run's folder shows of it; a failed one has no score, so that it cannot win."""
    budget, counted = experiment.budget, experiment.budget.epochs is not None
    spent = {name: max(logged(run, f"train/{name}").values(), default=0.0) for name in ("epoch", "minutes", "residues")}
    step = float(max(logged(run, "train/loss"), default=0))
    limits = ((step, budget.steps), *zip(spent.values(), (budget.epochs, budget.minutes, budget.residues), strict=True))
    share = min(1.0, max(amount / limit for amount, limit in limits if limit))  # of the limit that comes first
    used = spent["epoch"] if counted else step
    progress = Result(status, used=used, allowed=used / share if share else None)
    steps = _steps_by_score(run, experiment)
    if status == "failed" or not steps:
        return progress
    metrics = checkpoint.load(_folder(run, steps[0])).metrics
    score = metrics[experiment.selected_by[0]]
    return replace(progress, score=score if math.isfinite(score) else None, step=steps[0], metrics=metrics)


def probed(run: Path, experiment: AnyExperiment, result: Result) -> Result:
    """Return the result of a trial ranked by what a probe finds in its best checkpoint, where its experiment says so.

    Raises:
        InputError: the probe cannot be made: the trial has no rank.
    """
    if isinstance(experiment, FineTuning) or experiment.probe.task is None or result.step is None:
        return result
    from raypro.checkpoint_probe import WRITER, probe_checkpoint  # scikit-learn: most trials need it not

    metrics = probe_checkpoint(_folder(run, result.step), experiment.probe)
    outbox = Outbox(run, WRITER)
    outbox.metrics(result.step, metrics)
    outbox.close()
    return replace(result, score=metrics[experiment.ranked_by[0]], metrics={**result.metrics, **metrics})


def _test_scores(experiment: AnyExperiment, run: Path, shared: Shared) -> dict[str, dict[str, float]]:
    """Return split -> metrics of the best checkpoint on the test splits."""
    if not shared.tests:
        return {}
    from raypro.scoring import predict_split  # matplotlib: most trials need it not

    model = FineTuned.load(_folder(run, _steps_by_score(run, experiment)[0]), best_device())
    examples = {split: ray.get(reference) for split, reference in shared.tests.items()}
    return {split: predict_split(model, one)[1] for split, one in examples.items()}
