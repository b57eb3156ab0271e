"""A frozen encoder's vectors of labelled sequences: computed once, kept in raypro's home, and mapped into memory by every run that asks."""

import hashlib
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from raypro.config import InputError
from raypro.data.labelled import LabelledData
from raypro.data.labelled_source import Embedded, token_spans
from raypro.home import home

ABANDONED = 3600.0
"""Seconds for which nothing was written to a file that is taken for a dead writer's."""


def embedded(
    data: LabelledData, split: str, encoder: nn.Module, shape: dict[str, Any], token_budget: int, device: torch.device
) -> Embedded:
    """Return a split with the encoder's vectors of it, computed now unless they were before.

    Args:
        data: the labelled data.
        split: its split.
        encoder: in evaluation mode, on ``device``.
        shape: the encoder's shape as plain values: with its weights, what the vectors are known by.
        token_budget: most tokens that go through at once.
        device: where.
    """
    examples = data.read(split)
    path = home() / "embeddings" / digest_of(data, encoder, shape) / f"{split}.npy"
    if not path.is_file():
        _remove_abandoned(path)
        _require_space(path, int(token_spans(examples)[1].sum()) * int(encoder.width) * 4)  # type: ignore[arg-type]
        _compute(path, Embedded(examples), encoder, token_budget, device)
    return Embedded(examples, np.load(path, mmap_mode="r"))


def digest_of(data: LabelledData, encoder: nn.Module, shape: dict[str, Any]) -> str:
    """Return what the vectors of labelled data depend on, as a short digest."""
    known = hashlib.sha256(f"{data.manifest.checksum} {json.dumps(shape, sort_keys=True)}".encode())
    for name, weight in sorted(encoder.state_dict().items()):
        known.update(name.encode())
        known.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return known.hexdigest()[:20]


@torch.no_grad()
def _compute(path: Path, data: Embedded, encoder: nn.Module, token_budget: int, device: torch.device) -> None:
    """Write all vectors, to a temporary name that is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    starts, widths = token_spans(data.examples)
    vectors: NDArray[np.float32] = np.lib.format.open_memmap(
        temporary,
        mode="w+",
        dtype=np.float32,
        shape=(int(widths.sum()), int(encoder.width)),  # type: ignore[arg-type]
    )
    batches = data.batches(np.arange(len(data.examples)), token_budget)
    for rows, batch in track(batches, f"embedding {path.stem}", transient=True, disable=len(batches) < 2):
        for row, vector in zip(rows, encoder(batch.tokens.to(device)).float().cpu().numpy(), strict=True):
            vectors[starts[row] : starts[row] + widths[row]] = vector[: widths[row]]
    vectors.flush()
    os.replace(temporary, path)


def _remove_abandoned(path: Path) -> None:
    """Remove what writers on this machine that live no more have left of these vectors: containers may share its name, so what is old."""
    for left in path.parent.glob(f".{path.name}.{platform.node()}.*"):
        try:
            if left.stem != f".{path.name}.{platform.node()}" or time.time() - left.stat().st_mtime < ABANDONED:
                continue
            os.kill(int(left.suffix[1:]), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except OSError:
            pass  # another person's, which lives


def _require_space(path: Path, needed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(
            f"{path.parent}: the frozen encoder's vectors need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; train without --frozen"
        )
