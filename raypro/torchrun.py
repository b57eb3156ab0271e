"""The same training without Ray: ``torchrun --nproc-per-node N -m raypro.torchrun EXPERIMENT.json RUN_FOLDER``.

The process group is torchrun's and every worker reads its own windows as it needs them; all else is what Ray Train runs. It shows
what Ray costs (``jobs/benchmark.py``), and is a way to train where there is no Ray.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from raypro.arguments import one_line_errors
from raypro.config import InputError
from raypro.data.source import read_here
from raypro.experiment import Experiment
from raypro.pretraining import Pretraining
from raypro.training import train


def main(experiment_file: str, run: str) -> None:
    """Train as one of torchrun's processes; a run folder with checkpoints is continued from the latest."""
    path = Path(experiment_file)
    if not path.is_file():
        raise InputError(f"{path}: no such experiment file; a run keeps its own as run.json, under 'experiment'")
    plain = json.loads(path.read_text())
    experiment = Experiment.from_plain(plain.get("experiment", plain))
    gpu = experiment.workers.gpus > 0
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    dist.init_process_group("nccl" if gpu else "gloo")
    folder = Path(run).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        train(Pretraining(experiment, read_here), folder, lambda metrics, path: None, max(folder.glob("step_*"), default=None))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    with one_line_errors():
        main(*sys.argv[1:3])
