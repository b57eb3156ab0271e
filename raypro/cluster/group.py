"""The workers of a run, and of a trial of several workers: Ray Train starts them, and starts them anew where one dies."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from raypro.cluster.probe import probes_of
from raypro.cluster.worker import run_worker
from raypro.config import RunFailed
from raypro.experiment import AnyExperiment


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    best: Path
    """The checkpoint that validation chose."""
    metrics: dict[str, Any]
    """Its validation metrics."""


def fit_on_workers(
    experiment: AnyExperiment,
    run: Path,
    cpus: float,
    worker: Callable[[dict[str, Any]], None] = run_worker,
    config: dict[str, Any] | None = None,
) -> Outcome:
    """Have Ray Train run ``worker`` on each worker; ``config`` is what it is told beside the experiment and the run's folder.

    Raises:
        RunFailed: training failed more often than it may be restarted; says why the last time.
    """
    workers, (selected, order) = experiment.workers, experiment.selected_by
    trainer = TorchTrainer(
        worker,
        train_loop_config={"experiment": experiment.to_plain(), "run": str(run), **(config or {})},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=workers.restarts, controller_failure_limit=workers.restarts),
            checkpoint_config=CheckpointConfig(experiment.validation.keep, selected, order),
        ),
        validation_config=probes_of(experiment),
    )
    try:
        with _interrupts_kept():
            result = trainer.fit()
    except TrainingFailedError as error:
        raise RunFailed(_cause(error)) from error
    choose, worst = (min, math.inf) if order == "min" else (max, -math.inf)  # what an older raypro saved may lack the metric
    checkpoint, metrics = choose(result.best_checkpoints, key=lambda pair: pair[1].get(selected, worst))
    return Outcome(run, Path(checkpoint.path), metrics)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Have Ctrl-C do afterwards what it did before: what Ray Train sets for it stays, and swallows it in all that follows."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _cause(error: TrainingFailedError) -> str:
    """Return what went wrong on the first worker that failed, in one line."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__
