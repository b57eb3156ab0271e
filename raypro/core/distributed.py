"""The few collectives of data-parallel training; each is a no-op in a single process.

Gradients live in one flat tensor and are summed by one call after the backward pass. What DistributedDataParallel adds, overlap
with the backward pass, it pays with buckets that are laid out anew after its first step: with three or more workers a resumed run
would add in another order than the run it resumes, and not be bit for bit the same.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypro.config import RunFailed

_PATIENCE = timedelta(days=30)


def best_device() -> torch.device:
    """Return the GPU where this process has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_distributed() -> bool:
    """Return whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return this worker's number, from 0."""
    return dist.get_rank() if is_distributed() else 0


def sum_over_workers(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over the workers, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def max_over_workers(value: float, device: torch.device) -> float:
    """Return the largest of the workers' values."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)


def gather_ints(values: list[int], device: torch.device) -> list[list[int]]:
    """Return every worker's list (all of one length), in the workers' order."""
    if world_size() == 1:
        return [values]
    mine = torch.tensor(values, dtype=torch.int64, device=device)
    every = [torch.zeros_like(mine) for _ in range(world_size())]
    dist.all_gather(every, mine)
    return [t.tolist() for t in every]


@contextmanager
def first_worker_first() -> Iterator[None]:
    """Let rank 0 go through a block before the others begin it, however long that takes: it may make what they only read.

    Other meetings of the workers end, with all of them, after the half hour or so that their process group allows.

    Raises:
        RunFailed: on the others, where rank 0 failed.
    """
    if world_size() == 1:
        yield
        return
    patient, succeeded = dist.new_group(timeout=_PATIENCE, backend="gloo"), torch.zeros(1)
    if rank() > 0:
        dist.all_reduce(succeeded, group=patient)
        if not succeeded:
            raise RunFailed("the first worker failed; what it says is the reason")
        yield
        return
    try:
        yield
        succeeded += 1
    finally:
        dist.all_reduce(succeeded, group=patient)


def broadcast_model(model: nn.Module) -> None:
    """Give every worker rank 0's parameters and buffers."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


class FlatGradients:
    """The gradients of some parameters as views of one flat tensor: zeroed, summed over workers and clipped by one call each."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        first = self.parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters), dtype=first.dtype, device=first.device)
        offset = 0
        for parameter in self.parameters:
            parameter.grad = self.flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

    def zero(self) -> None:
        """Set all gradients to zero."""
        self.flat.zero_()

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale the gradients down to a norm of at most ``max_norm`` (None: not at all); return their norm before, on the device."""
        norm = torch.linalg.vector_norm(self.flat)
        if max_norm is not None:
            self.flat.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
