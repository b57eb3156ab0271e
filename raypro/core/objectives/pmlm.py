"""The pairwise masked language model of He et al. 2021, equations 2 to 5.

    L = L_mlm + lambda L_pmlm
    L_pmlm = - mean over ordered pairs i != j of masked residues of log P(x_i, x_j | x without the masked residues)

P(x_i, x_j) is a softmax over 400 pairs of residues from [h_i * h_j ; h_i - h_j]: it need not factorise into P(x_i) P(x_j), so
the encoder is made to carry which residues co-vary.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.batch import Batch
from raypro.core.masking import Masked, mask_residues
from raypro.core.objectives.mlm import MaskedLanguageModel, require_rates, token_sums
from raypro.core.objectives.objective import Quantity
from raypro.core.objectives.pairs import PairHead, pair_count


@dataclass(frozen=True)
class PMLM:
    """The pairwise masked language model."""

    mask_rate: float = 0.15
    """Share of each sequence's standard residues that is masked."""
    mask_share: float = 0.8
    """Probability that a masked residue is shown as MASK."""
    random_share: float = 0.1
    """Probability that it is shown as a random standard residue; else it stays as it is."""
    pair_weight: float = 1.0
    """lambda: the weight of the pair loss."""
    pair_only: bool = False
    """The paper's pair-only mode: no token head; the diagonal pairs (i, i) are predicted too."""
    max_pairs: int | None = None
    """At most so many ordered pairs a sequence, drawn so that the loss stays unbiased; None: all of them."""
    head_norm: bool = False
    """LayerNorm between the token head's layers, as RoBERTa's and ESM's have; exported, such a model is an EsmForMaskedLM."""

    def __post_init__(self) -> None:
        require_rates(self.mask_rate, self.mask_share, self.random_share)
        if self.pair_weight <= 0:
            raise InputError(f"objective.pair_weight: {self.pair_weight} must be above 0; for no pair loss run jobs/pretrain_mlm.py")
        if self.max_pairs is not None and self.max_pairs < 2:
            raise InputError(f"objective.max_pairs: {self.max_pairs} must be 2 or more, or None for all")
        if self.head_norm and self.pair_only:
            raise InputError("objective.head_norm: pair_only has no token head to put it into; give one of the two")

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Loss and accuracy per masked residue, then per ordered pair of them."""
        tokens = () if self.pair_only else (Quantity("loss_mlm", "masked", 1.0), Quantity("accuracy_mlm", "masked", 0.0))
        return (*tokens, Quantity("loss_pmlm", "pairs", self.pair_weight), Quantity("accuracy_pmlm", "pairs", 0.0))

    def build(self, encoder: nn.Module) -> "PairwiseMaskedLanguageModel":
        """Return the encoder with a pair head and, unless ``pair_only``, a token head."""
        return PairwiseMaskedLanguageModel(encoder, has_token_head=not self.pair_only, head_norm=self.head_norm)

    def prepare(self, batch: Batch) -> "MaskedPairs":
        """Mask the batch."""
        masked = mask_residues(batch, self.mask_rate, self.mask_share, self.random_share)
        return MaskedPairs(masked, self.pair_only)

    def sums(self, model: "PairwiseMaskedLanguageModel", prepared: "MaskedPairs") -> Tensor:
        """Return [sum of -log P(x_i), correct residues, sum of -log P(x_i, x_j), correct pairs]; the last two only if ``pair_only``."""
        masked = prepared.masked
        h = model.masked_hidden(masked)
        loss, correct = model.pair_head.loss(
            h, masked.labels, masked.counts, diagonal=self.pair_only, max_pairs=self.max_pairs, keys=masked.keys
        )
        pairs = torch.stack([loss, correct.to(loss.dtype)])
        return pairs if self.pair_only else torch.cat([token_sums(model.token_logits(h), masked.labels), pairs])


@dataclass(frozen=True)
class MaskedPairs:
    """A masked batch whose terms are its masked residues and the pairs of them."""

    masked: Masked
    diagonal: bool

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of masked residues and of ordered pairs of them."""
        counts = self.masked.counts
        return {"masked": sum(counts), "pairs": pair_count(counts, self.diagonal)}

    def to(self, device: torch.device) -> "MaskedPairs":
        """Return the same with its tensors on ``device``."""
        return MaskedPairs(self.masked.to(device), self.diagonal)


class PairwiseMaskedLanguageModel(MaskedLanguageModel):
    """An encoder, a pair head of the encoder's width and, unless in pair-only mode, a token head."""

    has_pair_head = True

    def __init__(self, encoder: nn.Module, has_token_head: bool = True, head_norm: bool = False) -> None:
        super().__init__(encoder, head_norm)
        width = int(encoder.width)  # type: ignore[arg-type]
        self.pair_head = PairHead(width, width)
        self.has_token_head = has_token_head
        if not has_token_head:
            del self.token_head

    def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return logits [N, 400] over pairs of residues, class 20 a + b, for vectors [N, D] of the first and of the second."""
        return self.pair_head.logits(h_i, h_j)
