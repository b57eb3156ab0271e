"""Masked language modelling: the baseline of He et al. 2021, equation 1.

L_mlm = - mean over masked residues i of log P(x_i | x without the masked residues)
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.core.batch import Batch
from raypro.core.masking import Masked, mask_residues
from raypro.core.objectives.objective import Quantity


@dataclass(frozen=True)
class MLM:
    """Masked language modelling."""

    mask_rate: float = 0.15
    """Share of each sequence's standard residues that is masked."""
    mask_share: float = 0.8
    """Probability that a masked residue is shown as MASK."""
    random_share: float = 0.1
    """Probability that it is shown as a random standard residue; else it stays as it is."""
    head_norm: bool = False
    """LayerNorm between the token head's layers, as RoBERTa's and ESM's have; exported, such a model is an EsmForMaskedLM."""

    def __post_init__(self) -> None:
        require_rates(self.mask_rate, self.mask_share, self.random_share)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Loss and accuracy per masked residue."""
        return (Quantity("loss_mlm", "masked", 1.0), Quantity("accuracy_mlm", "masked", 0.0))

    def build(self, encoder: nn.Module) -> "MaskedLanguageModel":
        """Return the encoder with a token head."""
        return MaskedLanguageModel(encoder, self.head_norm)

    def prepare(self, batch: Batch) -> "MaskedTokens":
        """Mask the batch."""
        return MaskedTokens(mask_residues(batch, self.mask_rate, self.mask_share, self.random_share))

    def sums(self, model: "MaskedLanguageModel", prepared: "MaskedTokens") -> Tensor:
        """Return [sum of -log P(x_i), correct predictions] over the masked residues."""
        masked = prepared.masked
        return token_sums(model.token_logits(model.masked_hidden(masked)), masked.labels)


@dataclass(frozen=True)
class MaskedTokens:
    """A masked batch whose terms are its masked residues."""

    masked: Masked

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of masked residues."""
        return {"masked": sum(self.masked.counts)}

    def to(self, device: torch.device) -> "MaskedTokens":
        """Return the same with its tensors on ``device``."""
        return MaskedTokens(self.masked.to(device))


class TokenHead(nn.Sequential):
    """Two layers from a residue's vector [..., D] to logits over the 20 standard residues [..., 20]; LayerNorm between them or not."""

    def __init__(self, width: int, norm: bool = False) -> None:
        between = [nn.GELU(), *([nn.LayerNorm(width)] if norm else [])]
        super().__init__(nn.Linear(width, width), *between, nn.Linear(width, len(STANDARD)))


class MaskedLanguageModel(nn.Module):
    """An encoder and a token head."""

    has_token_head, has_pair_head = True, False

    def __init__(self, encoder: nn.Module, head_norm: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.token_head = TokenHead(int(encoder.width), head_norm)  # type: ignore[arg-type]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T]."""
        vectors: Tensor = self.encoder(tokens)
        return vectors

    def masked_hidden(self, masked: Masked) -> Tensor:
        """Return the vectors [N, D] of the masked residues."""
        return self.hidden(masked.inputs)[masked.rows, masked.columns]

    def token_logits(self, h: Tensor) -> Tensor:
        """Return logits [..., 20] for vectors [..., D]."""
        logits: Tensor = self.token_head(h)
        return logits


def token_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return [sum of cross entropies in nats, correct predictions] for logits [N, 20] and labels [N]."""
    loss = cross_entropy(logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels, reduction="sum")
    correct = (logits.detach().argmax(dim=-1) == labels).sum()
    return torch.stack([loss, correct.to(loss.dtype)])


def require_rates(mask_rate: float, mask_share: float, random_share: float, name: str = "mask_rate") -> None:
    """Raise InputError for rates that are none."""
    if not 0 < mask_rate <= 1:
        raise InputError(f"objective.{name}: {mask_rate} is not in (0, 1]; the papers' are 0.1 to 0.2")
    if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
        raise InputError(f"objective.mask_share and random_share: {mask_share} and {random_share} must not be negative nor sum beyond 1")
