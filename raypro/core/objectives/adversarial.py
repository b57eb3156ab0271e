"""Adversarial contrastive pre-training (McDermott et al. 2020): a noiser learns which residues to mask, and how; the encoder restores them.

    max over the noiser, min over the encoder and its head, of
    L = mean over masked residues i of - log P(x_i | x~)                                        (Algorithms 2 to 5)

Of n standard residues of a sequence round(random_rate n) are masked at random (80/10/10), and of the others the noiser takes
k = round(adversarial_rate n):

    g = s(x) + Gumbel noise,   p = relaxed subset of k (Algorithm 1),   m = straight-through of p to the k highest
    o = straight-through of softmax((option scores + Gumbel noise) / t) to the highest: MASK, keep, or one of 20 residues
    x~_i = (1 - m_i) x_i + m_i (sum over options of o_i times what it shows)

The encoder sees x~ by its embedding matrix, so that the loss has a gradient for the noiser. Each term of L also has m_i as a
factor, 1 in the forward pass: that is how the noiser learns which residues are hard, and not only which inputs mislead.

The players take turns: ``noiser_steps`` of the noiser, who wants L high, then ``encoder_steps`` of the encoder, who wants it low.
While the encoder plays the noiser's choice is a constant, and the encoder sees tokens.

Legend: B sequences, T tokens, V alphabet, O = 22 options.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from raypro.config import InputError
from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, SIZE, STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.masking import mask_residues
from raypro.core.noiser import HIDE, KEEP, OPTIONS, GRUNoiserShape, TransformerNoiserShape
from raypro.core.objectives.mlm import MLM, MaskedLanguageModel, require_rates
from raypro.core.objectives.objective import Player, Quantity
from raypro.core.optimizer import Adam
from raypro.core.random import uniform
from raypro.core.residues import residue_mask
from raypro.core.subset import gumbel, gumbel_softmax, hard_subset, relaxed_subset, straight_through, threshold_subset

_WHICH, _HOW = 3, 4
"""Streams of randomness of a sequence, beside those of random masking."""
BINS = 10
"""Parts of a sequence that the places of masked residues are counted in."""
SHOWN = ("mask", "keep", "replace")


@dataclass(frozen=True)
class Adversarial:
    """Random and adversarial masking, half and half."""

    noiser: GRUNoiserShape | TransformerNoiserShape = field(default_factory=GRUNoiserShape)
    """The noiser's shape."""
    adversarial_rate: float = 0.1
    """Share of each sequence's standard residues that the noiser masks."""
    random_rate: float = 0.1
    """Share that is masked at random; the noiser chooses among the others."""
    mask_share: float = 0.8
    """Probability that a residue masked at random is shown as MASK."""
    random_share: float = 0.1
    """Probability that it is shown as a random standard residue; else it stays as it is."""
    temperature: float = 0.5
    """t of the relaxed choices: the lower, the nearer they are to the hard ones, and the noisier their gradient."""
    choice: Literal["top", "threshold"] = "top"
    """Which residues are masked: the k with the highest p; or, as Algorithm 3 has it, those with p > 0.5, which are not always k."""
    reweight: bool = False
    """Weigh the encoder's loss by importance instead of masking a part at random (after Chen et al. 2020): a residue's term by
    min(``weight_cap``, (k / n) / pi_i), pi_i = 1 - (1 - softmax(s)_i)^k being about the chance that the noiser takes it. So the
    encoder's loss estimates that of uniform masking, whatever the noiser prefers."""
    weight_cap: float = 5.0
    """Most that a term weighs by importance."""
    noiser_steps: int = 10
    """Steps of the noiser's turn."""
    encoder_steps: int = 10
    """Steps of the encoder's turn."""
    noiser_optimizer: Adam = field(default_factory=lambda: Adam(1e-4, beta2=0.999, weight_decay=0.01, warmup_steps=0, decay="constant"))
    """How the noiser's weights change; the experiment's optimizer is the encoder's."""
    warn_after: int = 500
    """Warn when the noiser has been collapsed for so many steps: no entropy left, or one way of masking only."""

    def __post_init__(self) -> None:
        require_rates(self.adversarial_rate, self.mask_share, self.random_share, name="adversarial_rate")
        if not 0 <= self.random_rate or self.adversarial_rate + self.random_rate > 1:
            rates = f"{self.random_rate} and {self.adversarial_rate}"
            raise InputError(f"objective.random_rate and adversarial_rate: {rates} must not be negative nor sum beyond 1")
        if self.reweight and self.random_rate:
            raise InputError("objective.reweight: stands in the place of random masking; add --objective.random-rate 0")
        for name in ("temperature", "weight_cap"):
            if getattr(self, name) <= 0:
                raise InputError(f"objective.{name}: {getattr(self, name)} must be above 0")
        for name in ("noiser_steps", "encoder_steps", "warn_after"):
            if getattr(self, name) < 1:
                raise InputError(f"objective.{name}: {getattr(self, name)} must be 1 or more")

    @property
    def players(self) -> tuple[Player, ...]:
        """The noiser, then the encoder with its head."""
        noiser = Player("noiser", ("noiser",), self.noiser_steps, sign=-1.0, adam=self.noiser_optimizer)
        return (noiser, Player("encoder", ("encoder", "token_head"), self.encoder_steps))

    @property
    def judged_by(self) -> str:
        """The loss on residues masked at random; with importance weights the whole loss, which estimates the same."""
        return "loss_random" if self.random_rate else "loss_mlm"

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The loss, its two parts apart, and what the noiser does."""
        by_chance = (Quantity("loss_random", "random", 0.0),) if self.random_rate else ()
        of_budget = [f"noiser/{name}" for name in ("masked_of_budget", *SHOWN)]
        chosen = [f"noiser_chosen/{letter}" for letter in STANDARD]
        places = [f"noiser_place/{place}" for place in range(BINS)]
        return (
            Quantity("loss_mlm", "masked", 1.0),
            Quantity("accuracy_mlm", "masked", 0.0),
            Quantity("loss_adversarial", "adversarial", 0.0),
            *by_chance,
            Quantity("noiser/entropy", "sequences", 0.0),
            *[Quantity(name, "adversarial", 0.0) for name in (*of_budget, *chosen, *places)],
            *[Quantity(f"noiser_candidates/{letter}", "candidates", 0.0) for letter in STANDARD],
        )

    def random_masking(self) -> MLM:
        """Return the baseline: as many residues masked, all of them at random."""
        return MLM(self.random_rate + self.adversarial_rate, self.mask_share, self.random_share)

    def build(self, encoder: nn.Module) -> "AdversarialModel":
        """Return the encoder, a token head, and the noiser.

        Raises:
            InputError: the encoder sees tokens only.
        """
        if "inputs" not in inspect.signature(encoder.forward).parameters:
            raise InputError(
                f"encoder: {type(encoder).__name__} has no gradient for what it sees; take the Transformer or the convolutions"
            )
        return AdversarialModel(encoder, self.noiser.build())

    def budget(self, residues: int) -> int:
        """Return how many of so many standard residues the noiser masks."""
        return int(self.adversarial_rate * residues + 0.5)

    def require_lengths(self, shortest: int, longest: int) -> None:
        """Check that the noiser masks something of every sequence.

        Raises:
            InputError: of the shortest it masks nothing.
        """
        if not self.budget(shortest):
            least = math.ceil(0.5 / self.adversarial_rate)
            raise InputError(
                f"objective.adversarial_rate: {self.adversarial_rate} of the shortest sequence ({shortest} residues) rounds to none; "
                f"build the corpus with --min-length {least}, or raise the rate"
            )

    def prepare(self, batch: Batch) -> "Noised":
        """Mask the batch at random, and draw the noise of the noiser's choices."""
        classes = torch.from_numpy(TOKEN_TO_CLASS)[batch.tokens]
        at_random, inputs = torch.zeros_like(classes, dtype=torch.bool), batch.tokens
        if self.random_rate:
            masked = mask_residues(batch, self.random_rate, self.mask_share, self.random_share)
            at_random[masked.rows, masked.columns] = True
            inputs = masked.inputs
        candidates = (classes >= 0) & ~at_random
        wanted = torch.tensor([self.budget(n) for n in (classes >= 0).sum(dim=1).tolist()])
        keys, width = batch.keys.numpy(), batch.tokens.shape[1]
        how = uniform(keys, width * OPTIONS, _HOW).reshape(-1, width, OPTIONS)
        which = gumbel(torch.from_numpy(uniform(keys, width, _WHICH).astype(np.float32)))
        return Noised(
            batch.tokens,
            inputs,
            classes,
            at_random,
            candidates,
            torch.minimum(wanted, candidates.sum(dim=1)),
            which,
            gumbel(torch.from_numpy(how.astype(np.float32))),
        )

    def sums(self, model: "AdversarialModel", prepared: "Noised") -> Tensor:
        """Return the sums of :attr:`quantities`."""
        p = prepared
        scores, options = model.noiser(p.tokens)
        relaxed = relaxed_subset(scores, p.which, p.candidates, p.budgets, self.temperature)
        taken = hard_subset(relaxed, p.budgets, p.candidates) if self.choice == "top" else threshold_subset(relaxed, p.candidates)
        soft = gumbel_softmax(options, p.how, self.temperature)
        shown = soft.detach().argmax(dim=-1)  # [B, T] an option
        if relaxed.requires_grad:  # the noiser plays
            chosen = straight_through(taken.to(relaxed.dtype), relaxed)
            option = straight_through(one_hot(shown, OPTIONS).to(soft.dtype), soft)
            h = model.encoder(p.tokens, mixed_inputs(p.inputs, chosen, option))
        else:
            chosen = taken.to(relaxed.dtype)
            h = model.hidden(noised_tokens(p.inputs, taken, shown))
        logits = model.token_logits(h)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = cross_entropy(logits.transpose(1, 2), p.classes, ignore_index=-1, reduction="none")  # [B, T], 0 where there is no class
        weights = chosen
        if self.reweight and not relaxed.requires_grad:
            weights = chosen * importance(scores, p.candidates, p.budgets, self.weight_cap)
        at_random, adversarial = (losses * p.at_random).sum(), (losses * weights).sum()
        watched = losses.detach()
        correct = ((logits.detach().argmax(dim=-1) == p.classes) & (p.at_random | taken)).sum()
        parts = [adversarial + at_random, correct, (watched * taken).sum()] + ([at_random.detach()] if self.random_rate else [])
        about = what_the_noiser_does(p, scores.detach(), taken, shown)
        return torch.cat([torch.stack([part.to(losses.dtype) for part in parts]), about.to(losses.dtype)])

    def warning(self, means: Mapping[str, float]) -> str | None:
        """Return how the noiser has collapsed, from the means of the quantities; None where it has not."""
        if means["noiser/entropy"] < 0.02:
            return "the noiser has no entropy left: it masks the same residues whatever the noise"
        for name in SHOWN:
            if means[f"noiser/{name}"] > 0.99:
                return f"the noiser has one way of masking left: {name}"
        return None


@dataclass(frozen=True)
class Noised:
    """A batch masked at random, with the noise by which the noiser masks more of it. All [B, T], or what is said.

    ``tokens`` int64: the sequences; ``inputs`` int64: after random masking; ``classes`` int64: 0..19, or -1 for what is no target;
    ``at_random`` bool: masked at random; ``candidates`` bool: what the noiser may take; ``budgets`` [B] int64: how many it takes,
    on the host; ``which`` and ``how`` [B, T, O]: Gumbel noise.
    """

    tokens: Tensor
    inputs: Tensor
    classes: Tensor
    at_random: Tensor
    candidates: Tensor
    budgets: Tensor
    which: Tensor
    how: Tensor

    @property
    def counts(self) -> dict[str, int]:
        """Number of masked residues, of either kind, of residues the noiser chooses among, and of sequences that it masks."""
        at_random, adversarial = int(self.at_random.sum()), int(self.budgets.sum())
        return {
            "masked": at_random + adversarial,
            "random": at_random,
            "adversarial": adversarial,
            "candidates": int(self.candidates.sum()),
            "sequences": int((self.budgets > 0).sum()),
        }

    def to(self, device: torch.device) -> "Noised":
        """Return the same with its tensors on ``device``, the budgets excepted: the sampler needs them on the host."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items() if name != "budgets"}
        return Noised(**moved, budgets=self.budgets)


class AdversarialModel(MaskedLanguageModel):
    """An encoder and a token head, and the noiser that makes it hard for them."""

    def __init__(self, encoder: nn.Module, noiser: nn.Module) -> None:
        super().__init__(encoder)
        self.noiser = noiser


def _shown_tokens(device: torch.device) -> Tensor:
    """Return the token [O] that each option shows; MASK stands for keep too, and is not used."""
    return torch.tensor([MASK, MASK, *CLASS_TO_TOKEN.tolist()], device=device)


def noised_tokens(inputs: Tensor, taken: Tensor, shown: Tensor) -> Tensor:
    """Return the tokens [B, T] that the encoder sees: ``inputs`` [B, T] but for the options ``shown`` [B, T] where ``taken`` [B, T]."""
    return torch.where(taken & (shown != KEEP), _shown_tokens(inputs.device)[shown], inputs)


def mixed_inputs(inputs: Tensor, chosen: Tensor, option: Tensor) -> Tensor:
    """Return x~ [B, T, V] for tokens [B, T], weights of being masked [B, T] and of the options [B, T, O], through which gradients flow."""
    x = one_hot(inputs, SIZE).to(option.dtype)
    shown = one_hot(_shown_tokens(inputs.device), SIZE).to(option.dtype)
    shown[KEEP] = 0.0
    return x + chosen[..., None] * (option @ shown + (option[..., KEEP, None] - 1.0) * x)


def importance(scores: Tensor, candidates: Tensor, budgets: Tensor, cap: float) -> Tensor:
    """Return the weights [B, T] that make masking by scores [B, T] an estimate of uniform masking: min(cap, (k / n) / pi_i)."""
    q = scores.detach().masked_fill(~candidates, torch.finfo(scores.dtype).min).softmax(dim=1)
    k, n = budgets.to(scores.device)[:, None], candidates.sum(dim=1, keepdim=True)
    taken = -torch.expm1(k * torch.log1p(-q.clamp(max=1 - 1e-6)))  # pi
    return (k / n.clamp(min=1) / taken.clamp(min=1e-9)).clamp(max=cap)


def what_the_noiser_does(p: Noised, scores: Tensor, taken: Tensor, shown: Tensor) -> Tensor:
    """Return the sums of the noiser's quantities, in their order: entropy, ways of masking, residues and places taken, candidates."""
    log_q = scores.masked_fill(~p.candidates, torch.finfo(scores.dtype).min).log_softmax(dim=1)
    entropy = -(log_q.exp() * log_q * p.candidates).sum(dim=1)
    highest = p.candidates.sum(dim=1).clamp(min=2).log()
    entropies = ((entropy / highest) * taken.any(dim=1)).sum()  # 1: every residue as likely as another
    ways = [taken.sum(), *[(taken & way).sum() for way in (shown == HIDE, shown == KEEP, shown > KEEP)]]
    mask = residue_mask(p.tokens)
    places = ((mask.cumsum(dim=1) - 1).clamp(min=0) * BINS // mask.sum(dim=1, keepdim=True).clamp(min=1)).clamp(max=BINS - 1)

    def histogram(values: Tensor, counted: Tensor, size: int) -> Tensor:
        return torch.zeros(size, device=values.device).index_add_(0, values.clamp(min=0).flatten(), counted.flatten().float())

    classes = len(STANDARD)
    return torch.cat(
        [
            torch.stack([entropies.float(), *[way.float() for way in ways]]),
            histogram(p.classes, taken, classes),
            histogram(places, taken, BINS),
            histogram(p.classes, p.candidates, classes),
        ]
    )
