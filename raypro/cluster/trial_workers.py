"""A trial of several workers: Ray Train within a trial of Ray Tune."""

from pathlib import Path
from typing import Any

import torch

from raypro.cluster.group import fit_on_workers
from raypro.cluster.ingest import ray_reader
from raypro.cluster.trial import Shared, StoppedEarly, Watched, require_going_on
from raypro.cluster.worker import hand_over, latest_checkpoint
from raypro.experiment import AnyExperiment, experiment_of
from raypro.training import train

STOPPED, DIVERGED = "stopped_early", "diverged"
"""Files in a trial's folder that say so; the latter says how."""


def train_on_workers(experiment: AnyExperiment, run: Path, shared: Shared) -> str:
    """Train on the experiment's workers, from the latest checkpoint where there is one; return "finished" or "stopped".

    Raises:
        FloatingPointError: the loss is not finite.
        RunFailed: training failed otherwise, more often than it may be restarted.
    """
    (run / DIVERGED).unlink(missing_ok=True)
    try:
        fit_on_workers(experiment, run, experiment.workers.cpus or 1.0, train_worker, {"shared": shared})
    except Exception:
        require_finite(run)
        raise
    require_finite(run)
    return "stopped" if (run / STOPPED).exists() else "finished"


def require_finite(run: Path) -> None:
    """Raise FloatingPointError if a trial's loss was not."""
    if (run / DIVERGED).exists():
        raise FloatingPointError((run / DIVERGED).read_text())


def train_worker(config: dict[str, Any]) -> None:
    """Train as one of the workers; all return when the trial is stopped early, so that Ray Train ends and frees what they held.

    So they do where the loss is not finite: from the same checkpoint it would be so again, however often Ray starts them anew.
    """
    run, shared, experiment = Path(config["run"]), config["shared"], experiment_of(config["experiment"])
    torch.set_num_threads(max(1, int(experiment.workers.cpus or 1)))

    def report(metrics: dict[str, float], path: Path | None) -> None:
        hand_over(metrics, path)
        require_going_on(experiment, run, shared, metrics)

    try:
        train(Watched(shared.job(experiment, ray_reader), run), run, report, latest_checkpoint())
    except StoppedEarly:
        (run / STOPPED).touch()
    except FloatingPointError as error:
        (run / DIVERGED).write_text(str(error))
