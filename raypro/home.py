"""raypro's home: the one folder that holds whatever a run leaves by default."""

import os
from pathlib import Path

RUN_FILE = "run.json"
"""What a run keeps of itself in its folder: the experiment, and its data's checksum."""


def home() -> Path:
    """Return ``$RAYPRO_HOME``, else ``~/.raypro``, as an absolute path.

    It holds ``runs/NAME`` (a run's checkpoints, record and outbox), ``mlflow.db`` with ``artifacts`` (the MLflow store)
    and ``demo-corpus``; the same whether a job is run directly or submitted to a cluster.
    """
    return Path(os.environ.get("RAYPRO_HOME") or "~/.raypro").expanduser().absolute()


def run_folder(name: str) -> Path:
    """Return the folder of the run ``name``."""
    return home() / "runs" / name
