"""Adam and its learning rate over steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from raypro.config import InputError, require_finite


@dataclass(frozen=True)
class Adam:
    """Adam with decoupled weight decay; the default is He et al. 2021, section 4.1, for the base model."""

    learning_rate: float = 3e-4
    """Peak learning rate; the paper's is 3e-4 for base, 1e-4 for large and xl."""
    beta1: float = 0.9
    """Decay of the mean of gradients, per step."""
    beta2: float = 0.98
    """Decay of the mean of squared gradients, per step."""
    epsilon: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.0
    """Decoupled weight decay (Loshchilov and Hutter 2019), per step and unit of learning rate; of matrices, not of biases and norms."""
    warmup_steps: int = 20_000
    """Steps over which the rate rises linearly from 0."""
    decay: Literal["linear", "constant", "exponential"] = "linear"
    """After the warm-up: fall linearly to 0 at ``decay_steps``, stay, or fall to ``decay_factor`` of itself every ``decay_steps``."""
    decay_steps: int | None = None
    """Step at which a linear decay ends (None: the budget's number of steps), or steps between falls of an exponential one (None: an
    epoch, whatever its number of steps)."""
    decay_factor: float = 0.85
    """What an exponential decay multiplies the rate by."""
    clip_norm: float | None = 1.0
    """The gradient's norm is scaled down to this; None: gradients are taken as they are."""

    def __post_init__(self) -> None:
        require_finite(self, "optimizer")
        for name in ("learning_rate", "epsilon", "clip_norm"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"optimizer.{name}: {getattr(self, name)} must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name}: {getattr(self, name)} must be in [0, 1)")
        if not 0 < self.decay_factor <= 1:
            raise InputError(f"optimizer.decay_factor: {self.decay_factor} must be in (0, 1]")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise InputError(f"optimizer.decay_steps: {self.decay_steps} must be 1 or more")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise InputError("optimizer.warmup_steps and weight_decay must not be negative")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """Return the optimizer of those parameters that ask for a gradient."""
        trained = [p for p in parameters if p.requires_grad]
        matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, self.learning_rate, betas, self.epsilon, self.weight_decay, fused=True)

    def rate_at(self, step: int, total_steps: int | None, epochs: int = 0) -> float:
        """Return the learning rate of the step after ``step`` finished ones.

        Args:
            step: steps taken.
            total_steps: those of the whole run; None: not known.
            epochs: epochs that were finished in those steps, the warm-up's among them.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.decay == "exponential":
            falls = (step - self.warmup_steps) // self.decay_steps if self.decay_steps else epochs
            return self.learning_rate * self.decay_factor**falls
        end = self.decay_steps or total_steps
        if self.decay == "constant" or end is None:
            return self.learning_rate
        return self.learning_rate * max(0.0, (end - step) / max(1, end - self.warmup_steps))
