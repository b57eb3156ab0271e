"""Next-token modelling: each residue from what stands before it and, of an encoder that reads from both ends, from what stands behind it.

    L_next = - mean over residues i, and directions d, of log P_d(x_i | what d has read before it comes to i)

as of UniRep (Alley et al. 2019), of TAPE's LSTM (Rao et al. 2019) and of Bepler and Berger 2019. Predicted are the 20 standard residues,
the first one of a sequence from its control token alone. Directions share their output layer.

Legend: B sequences, T tokens, N predicted residues, H width of one direction's states.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.alphabet import STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.objectives.mlm import token_sums
from raypro.core.objectives.objective import Quantity

BEFORE = {"forward": -1, "backward": 1}
"""Where, from a residue, each direction stands before it reads the residue."""


@runtime_checkable
class Directional(Protocol):
    """An encoder with states that know only what a direction has read."""

    width: int
    """Dimension of its vectors: that of a direction's states times their number."""
    directions: tuple[str, ...]
    """Keys of :data:`BEFORE`."""

    def directional(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return the states [B, T, H] of each direction, after each of tokens [B, T] was read."""


@dataclass(frozen=True)
class NextToken:
    """Next-token modelling, in the directions in which the encoder reads."""

    directions: Literal["apart", "together"] = "apart"
    """Of an encoder that reads from both ends: each predicts every residue by itself, as a language model does; or they predict it
    once, by the sum of their logits, as the public code of TAPE's LSTM and of Bepler and Berger has it."""

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Loss and accuracy per residue, means over the directions where these predict apart."""
        return (Quantity("loss_next", "predicted", 1.0), Quantity("accuracy_next", "predicted", 0.0))

    def build(self, encoder: nn.Module) -> "NextTokenModel":
        """Return the encoder with an output layer.

        Raises:
            InputError: a residue's vector knows the residue itself, whatever the direction.
        """
        if not isinstance(encoder, Directional):
            kind = type(encoder).__name__
            raise InputError(f"encoder: {kind} has no states that have not seen the next residue; take an LSTM, or the objective MLM")
        return NextTokenModel(encoder)

    def prepare(self, batch: Batch) -> "NextTokens":
        """Find what is predicted: every standard residue."""
        classes = torch.from_numpy(TOKEN_TO_CLASS)[batch.tokens]
        rows, columns = (classes >= 0).nonzero(as_tuple=True)
        return NextTokens(batch.tokens, rows, columns, classes[rows, columns])

    def sums(self, model: "NextTokenModel", prepared: "NextTokens") -> Tensor:
        """Return [sum of -log P(x_i), correct predictions] over the residues, means over the directions."""
        logits = model.logits(prepared)
        if self.directions == "together":
            return token_sums(logits.sum(dim=0), prepared.labels)
        return token_sums(logits.flatten(0, 1), prepared.labels.repeat(len(logits))) / len(logits)


@dataclass(frozen=True)
class NextTokens:
    """A batch whose terms are its standard residues."""

    tokens: Tensor
    """[B, T] int64: the sequences."""
    rows: Tensor
    """[N] int64: the sequence of each predicted residue."""
    columns: Tensor
    """[N] int64: its place there, which is neither the first nor the last."""
    labels: Tensor
    """[N] int64: its class, 0..19."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of predicted residues."""
        return {"predicted": len(self.labels)}

    def to(self, device: torch.device) -> "NextTokens":
        """Return the same with its tensors on ``device``."""
        return NextTokens(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


class NextTokenModel(nn.Module):
    """An encoder and one output layer."""

    has_token_head, has_pair_head = False, False

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.output = nn.Linear(encoder.width // len(encoder.directions), len(STANDARD))

    def logits(self, x: NextTokens) -> Tensor:
        """Return, for each direction, logits over the 20 standard residues [directions, N, 20], from the state before each residue."""
        states = zip(self.encoder.directions, self.encoder.directional(x.tokens), strict=True)
        logits: Tensor = self.output(torch.stack([h[x.rows, x.columns + BEFORE[direction]] for direction, h in states]))
        return logits
