"""What a pre-training objective is. A new one is one file beside this one and one line in ``raypro/experiment.py``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raypro.core.batch import Batch
from raypro.core.optimizer import Adam


@dataclass(frozen=True)
class Quantity:
    """One sum that an objective gives for a batch, and what it is a mean over."""

    name: str
    """Its mean's name in the logs."""
    per: str
    """The count that its sum is divided by, over all workers and accumulation steps: a key of ``Prepared.counts``."""
    weight: float
    """Its mean's weight in the loss; 0 for what is only watched."""


@dataclass(frozen=True)
class Player:
    """One of those who take turns at training a model, with parameters, an optimizer and gradients of its own."""

    name: str
    """Its name in the logs."""
    parts: tuple[str, ...] = ("",)
    """The model's submodules that it owns, by name; the empty name is the whole model."""
    steps: int = 1
    """Optimizer steps of a turn."""
    sign: float = 1.0
    """What it minimises is the loss times this: -1 for a player that wants the loss to be high."""
    adam: Adam | None = None
    """Its optimizer; None: the experiment's."""

    @property
    def trains_encoder(self) -> bool:
        """Whether it owns the encoder: what it trains on counts towards a budget of residues, an adversary's data do not."""
        return "" in self.parts or "encoder" in self.parts


class Prepared(Protocol):
    """A batch made ready on the host, where its counts are known before the model runs."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many terms each sum of the batch runs over."""

    def to(self, device: torch.device) -> "Prepared":
        """Return the same with its tensors on ``device``."""


class Objective(Protocol):
    """A frozen dataclass of plain parameters with these methods.

    The loss of a step is sum over quantities of ``weight * (sum over everything) / (count over everything)``: workers and
    accumulation steps only split the sums, so the same data gives the same loss and gradients however it is split.
    """

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What :meth:`sums` returns, in order."""

    def build(self, encoder: Any) -> nn.Module:
        """Return the model: the encoder (any module with a ``width``, from tokens [B, T] to vectors [B, T, width]) and the heads."""

    def prepare(self, batch: Batch) -> Any:
        """Return the batch as :meth:`sums` wants it (a :class:`Prepared`): a pure function of the batch's sequences and keys."""

    def sums(self, model: Any, prepared: Any) -> Tensor:
        """Return the sums [number of quantities], differentiable where their weight is not 0; zero and connected for a filler."""


@runtime_checkable
class Game(Protocol):
    """An objective of several players, who take turns in the order given. While one plays, no other's parameter asks for a gradient."""

    @property
    def judged_by(self) -> str:
        """The quantity that says how good the model is, lower is better: the loss of a game does not, since its players pull both ways."""

    @property
    def players(self) -> tuple[Player, ...]:
        """The players; together they own the whole model."""


@runtime_checkable
class Demanding(Protocol):
    """An objective that not every corpus will do for."""

    def require_lengths(self, shortest: int, longest: int) -> None:
        """Check the lengths (residues) of the shortest and the longest sequence of a split.

        Raises:
            InputError: sequences of these lengths cannot be trained on; says which, and what to do.
        """


@runtime_checkable
class Contrast(Objective, Protocol):
    """An objective that tells the sequences of a batch apart: it takes two of them at least."""

    @property
    def min_length(self) -> int:
        """Residues that a sequence needs to be one of them."""

    @property
    def in_validation(self) -> "Contrast":
        """The objective by which a model is judged: one that compares between models trained by different ones."""


@runtime_checkable
class Watched(Protocol):
    """An objective whose training can go wrong without the loss showing it."""

    @property
    def warn_after(self) -> int:
        """Steps for which something has to be wrong before a person is warned."""

    def warnings(self, means: Mapping[str, float]) -> tuple[str, ...]:
        """Return all that is wrong by the means of the quantities since the last logging, each in a sentence that stays the same."""


@runtime_checkable
class Reckoning(Protocol):
    """An objective some of whose means are over what only the model decides: not known before it runs, so no part of the loss's."""

    def reckoned(self, means: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """Return the means of the quantities as they are logged, from those over ``counts``, which are sums over all workers."""


def players_of(objective: Objective) -> tuple[Player, ...]:
    """Return an objective's players: most have one, that owns the whole model."""
    return objective.players if isinstance(objective, Game) else (Player("model"),)
