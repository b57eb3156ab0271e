"""What Ray Train runs on each worker."""

import os
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device

from raypro.cluster.ingest import ray_reader
from raypro.experiment import AnyExperiment, FineTuning, experiment_of
from raypro.finetuning import Finetuning
from raypro.pretraining import Pretraining
from raypro.training import RECORD, train


def run_worker(config: dict[str, Any]) -> None:
    """Train as one worker of the group, from the latest checkpoint where there is one.

    Args:
        config: ``experiment`` as plain values, and ``run``, the run's folder.
    """
    run, experiment = Path(config["run"]), experiment_of(config["experiment"])
    torch.set_num_threads(threads(experiment.workers.cpus, ray.train.get_context().get_local_world_size()))
    job = Finetuning.load(experiment, get_device()) if isinstance(experiment, FineTuning) else Pretraining(experiment, ray_reader)

    def report(metrics: dict[str, float], path: Path | None) -> None:
        hand_over(metrics, path, probed=path is not None and probe_is_due(experiment, run))

    train(job, run, report, latest_checkpoint())


def threads(cpus: float | None, workers_here: int) -> int:
    """Return the threads of a worker: the CPUs it was given where a person said how many, else its share of those it may use."""
    return max(1, int(cpus or len(os.sched_getaffinity(0)) // workers_here))


def probe_is_due(experiment: AnyExperiment, run: Path) -> bool:
    """Return whether the checkpoint just written is to be probed: each ``probe.every``-th, counted by the records beside them.

    A record is kept where its checkpoint is not, and goes only with the part of a run that is done again: so the same checkpoints
    are probed however often a run is resumed.
    """
    if isinstance(experiment, FineTuning) or experiment.probe.task is None:
        return False
    return len(list((run / RECORD).glob("step_*.worker_0.jsonl"))) % experiment.probe.every == 0


def hand_over(metrics: dict[str, float], path: Path | None, probed: bool = False) -> None:
    """Hand a checkpoint to Ray where it lies: it was written whole, by renaming, in the run's folder.

    One that is to be ``probed`` Ray does not remove before that is done.
    """
    checkpoint = Checkpoint.from_directory(str(path)) if path else None
    name = f"step_{int(metrics['step']):08d}"
    mode = CheckpointUploadMode.NO_UPLOAD
    ray.train.report(metrics, checkpoint, checkpoint_dir_name=name, checkpoint_upload_mode=mode, validation=probed)


def latest_checkpoint() -> Path | None:
    """Return the checkpoint that this worker goes on from."""
    latest = ray.train.get_checkpoint()
    return Path(latest.path) if latest else None
