"""Checkpoints: a folder that holds the weights, the experiment and the training state, and nothing that runs code when loaded.

model.safetensors   the weights
experiment.json     format version, the experiment as JSON, the step and its metrics
training.pt         optimizer, data cursor, progress: tensors and plain values, read with ``weights_only``
"""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raypro.config import InputError

FORMAT_VERSION = 1
_WEIGHTS, _EXPERIMENT, _TRAINING = "model.safetensors", "experiment.json", "training.pt"
MODEL_FILES = (_WEIGHTS, _EXPERIMENT)
"""What :func:`load` needs."""


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`load` found, on the CPU."""

    path: Path
    weights: dict[str, Tensor]
    experiment: dict[str, Any]
    """The experiment, as :func:`raypro.config.to_plain` made it."""
    step: int
    metrics: dict[str, float]


def save(
    path: Path, model: nn.Module, experiment: dict[str, Any], step: int, metrics: dict[str, float], training: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint to the folder ``path``, under a temporary name that is renamed at the end; one that is there is replaced.

    Args:
        path: the folder.
        model: its weights are kept.
        experiment: the resolved experiment as plain values.
        step: finished optimizer steps.
        metrics: validation metrics at this step.
        training: tensors and plain values that a resumed run needs; None for a model that is only used.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    about = {"format": "raypro-checkpoint", "version": FORMAT_VERSION, "step": step, "metrics": metrics, "experiment": experiment}
    try:
        temporary.mkdir(parents=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, temporary / _WEIGHTS)
        (temporary / _EXPERIMENT).write_text(json.dumps(about, indent=1) + "\n")
        if training is not None:
            torch.save(training, temporary / _TRAINING)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Watch over the writing of a folder that a person asked for.

    Raises:
        InputError: ``out`` is taken, or cannot be written.
    """
    if os.path.lexists(out):
        raise InputError(f"--out {out}: exists; choose another place, or remove it")
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"--out {out}: cannot be written ({getattr(error, 'strerror', None) or error}); choose another place") from None


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint's weights and experiment.

    Raises:
        InputError: there is no checkpoint, a damaged one, or one of another format version.
    """
    folder = Path(path)
    if not (folder / _EXPERIMENT).is_file():
        raise InputError(f"{path}: not a checkpoint: no {_EXPERIMENT} in it; checkpoints are the folders step_... of a run")
    try:
        about = json.loads((folder / _EXPERIMENT).read_text())
        if about.get("version") != FORMAT_VERSION:
            raise InputError(f"{path}: checkpoint of format version {about.get('version')}, this raypro reads {FORMAT_VERSION}")
        weights = load_file(folder / _WEIGHTS)
        return Checkpoint(folder, weights, about["experiment"], about["step"], about["metrics"])
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{path}: damaged checkpoint ({error}); take another one of the run") from None


def load_training(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's training state, never executing anything from it.

    Raises:
        InputError: there is none, or it holds anything but tensors and plain values.
    """
    file = Path(path) / _TRAINING
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no {_TRAINING} in it: it can be used, but not resumed") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{file}: damaged, or holds more than tensors and plain values ({str(error).splitlines()[0]})") from None
    return state


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        InputError: the model has another shape.
    """
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint.path}: its weights do not fit this model: {reason}") from None
