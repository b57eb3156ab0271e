"""What Ray Train runs on each worker."""

import os
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device

from raypro.cluster.ingest import ray_reader
from raypro.experiment import FineTuning, experiment_of
from raypro.finetuning import Finetuning
from raypro.pretraining import Pretraining
from raypro.training import train


def run_worker(config: dict[str, Any]) -> None:
    """Train as one worker of the group, from the latest checkpoint where there is one.

    Args:
        config: ``experiment`` as plain values, and ``run``, the run's folder.
    """
    run, experiment = Path(config["run"]), experiment_of(config["experiment"])
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ray.train.get_context().get_local_world_size()))
    job = Finetuning.load(experiment, get_device()) if isinstance(experiment, FineTuning) else Pretraining(experiment, ray_reader)
    train(job, run, hand_over, latest_checkpoint())


def hand_over(metrics: dict[str, float], path: Path | None) -> None:
    """Hand a checkpoint to Ray where it lies: it was written whole, by renaming, in the run's folder."""
    checkpoint = Checkpoint.from_directory(str(path)) if path else None
    name = f"step_{int(metrics['step']):08d}"
    ray.train.report(metrics, checkpoint, checkpoint_dir_name=name, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


def latest_checkpoint() -> Path | None:
    """Return the checkpoint that this worker goes on from."""
    latest = ray.train.get_checkpoint()
    return Path(latest.path) if latest else None
