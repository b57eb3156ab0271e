"""What is summed up between two loggings."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from raypro.core.batch import Batch


class Meter:
    """Sums since the last logging, kept on the device so that no step waits for it."""

    def __init__(self, quantities: int, counts: int, players: int, device: torch.device) -> None:
        self.sums = torch.zeros(quantities, dtype=torch.float64, device=device)
        self.counts = torch.zeros(counts, dtype=torch.float64, device=device)
        self.norms = torch.zeros(players, dtype=torch.float64, device=device)
        self.turns = [0] * players
        self.steps = self.tokens = self.residues = self.slots = 0
        self.waited = 0.0
        self.elsewhere = 0.0
        """Seconds spent on something else than steps: they do not count in speeds."""
        self.started = time.perf_counter()

    def add(self, sums: Tensor, counts: Tensor, batches: Sequence[Batch]) -> None:
        """Add one worker's part of a step or of a validation."""
        self.sums += sums
        self.counts += counts
        self.tokens += sum(batch.filled for batch in batches)
        self.slots += sum(batch.tokens.numel() for batch in batches)
