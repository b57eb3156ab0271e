"""Adversarial contrastive pre-training (McDermott et al. 2020): a noiser learns which residues to mask, and how; the encoder restores them.

    max over the noiser, min over the encoder and its head, of
    L = mean over masked residues i of - log P(x_i | x~)                                        (Algorithms 2 to 5)

Of n standard residues of a sequence round(random_rate n) are masked at random (80/10/10), and of the others the noiser takes
k = round(adversarial_rate n):

    s, u = noiser(x)           scores of residues, and of each residue's options
    p = relaxed subset of k by s + Gumbel noise (Algorithm 1)        m = the k highest p, with the gradient of p (Algorithm 3)
    o = the highest of (u + Gumbel noise) / t, with the gradient of its softmax: MASK, keep, or one of 20 residues
    x~_i = (1 - m_i) x_i + m_i (sum over options of o_i times what it shows)

The encoder sees x~ by its embedding matrix, so that L has a gradient for the noiser. Each term of L also has m_i as a factor, 1 in
the forward pass: so the noiser learns which residues are hard, and not only which inputs mislead.

The players take turns: ``noiser_steps`` of the noiser, who wants L high, then ``encoder_steps`` of the encoder, who wants it low.
While the encoder plays the noiser's choice is a constant, and the encoder sees tokens.

With ``reweight`` nothing is masked at random, and the encoder wants a weighed L low, after importance sampling (Chen et al. 2020):

    mean over masked residues i of w_i (- log P(x_i | x~))        w_i = min(weight_cap, (k / n) / pi_i)

where n residues are there to be taken and pi_i is about the probability that the noiser takes i (:func:`raypro.core.noising.inclusion`).

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

from raypro.config import InputError, require_finite
from raypro.core.alphabet import STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.masking import mask_residues
from raypro.core.noiser import OPTIONS, GRUNoiserShape, TransformerNoiserShape
from raypro.core.noising import (
    BINS,
    SHOWN,
    Noised,
    importance,
    inclusion,
    mixed_inputs,
    noised_tokens,
    random_option,
    relative_entropy,
    what_is_taken,
)
from raypro.core.objectives.mlm import MLM, MaskedLanguageModel, require_rates
from raypro.core.objectives.objective import Player, Quantity
from raypro.core.optimizer import Adam
from raypro.core.random import uniform
from raypro.core.subset import gumbel, gumbel_softmax, hard_subset, relaxed_subset, straight_through, threshold_subset

_WHICH, _HOW = 3, 4
"""Streams of randomness of a sequence, beside those of random masking."""
LEAST_ENTROPY, LEAST_SHARE, MOST_SHARE = 0.02, 0.001, 0.99
"""Beyond these the noiser has collapsed: of its entropy, and of the share of a way of masking."""


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
    """Which residues are masked: the k with the highest p; or, as Algorithm 3 has it, those with p > 0.5, which are not always k.
    What the players play for is then still over k a sequence, the number that is known before the noiser has chosen; the figures that
    are logged are over those that were masked."""
    reweight: bool = False
    """Weigh the encoder's loss by importance instead of masking a part at random, see above. Without a cap it would estimate the loss on
    residues taken uniformly, shown as the noiser shows them. The cap makes it lower, the more so the more peaked the noiser's choice
    is: what the noiser seldom takes then counts for less than its share. So it is trained on, and no checkpoint is chosen by it."""
    weight_cap: float = 5.0
    """Most that a term weighs by importance: a residue that is seldom taken would else make the gradient noisy."""
    noiser_steps: int = 10
    """Steps of the noiser's turn."""
    encoder_steps: int = 10
    """Steps of the encoder's turn."""
    noiser_optimizer: Adam = field(default_factory=lambda: Adam(1e-4, beta2=0.999, weight_decay=0.01, warmup_steps=0, decay="constant"))
    """How the noiser's weights change; the experiment's optimizer is the encoder's."""
    warn_after: int = 500
    """Warn when the noiser has been collapsed for so many steps: always the same residues, or one way of masking only."""

    def __post_init__(self) -> None:
        require_finite(self, "objective")
        require_rates(self.adversarial_rate, self.mask_share, self.random_share, name="adversarial_rate")
        if not 0 <= self.random_rate or self.adversarial_rate + self.random_rate > 1:
            rates = f"{self.random_rate} and {self.adversarial_rate}"
            raise InputError(f"objective.random_rate and adversarial_rate: {rates} must not be negative nor sum beyond 1")
        if self.reweight and self.random_rate:
            raise InputError("objective.reweight: stands in the place of random masking; add --objective.random-rate 0")
        if self.reweight and self.choice != "top":
            raise InputError("objective.reweight: how probably a threshold takes a residue is not known; leave --objective.choice top")
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
        """The loss on residues masked at random, which the noiser does not move.

        Where training masks none at random (``random_rate`` 0), validation masks as many as the noiser takes a second time, at random.
        """
        return "loss_random"

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The loss, its two parts apart, and what the noiser does."""
        of_budget = [f"noiser/{name}" for name in ("masked_of_budget", *SHOWN)]
        chosen = [f"noiser_chosen/{letter}" for letter in STANDARD]
        places = [f"noiser_place/{place}" for place in range(BINS)]
        return (
            Quantity("loss_mlm", "masked", 1.0),
            Quantity("accuracy_mlm", "masked", 0.0),
            Quantity("loss_adversarial", "adversarial", 0.0),
            Quantity("loss_random", "random", 0.0),
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
                f"encoder: {type(encoder).__name__} has no gradient for what it sees, tokens alone; take another, the Transformer for one"
            )
        return AdversarialModel(encoder, self.noiser.build())

    def budget(self, residues: int) -> int:
        """Return how many of so many standard residues the noiser masks."""
        return int(self.adversarial_rate * residues + 0.5)

    def require_lengths(self, shortest: int, longest: int) -> None:
        """Check that the noiser masks something of every sequence.

        Lengths are of letters. B, O, U, X and Z are never masked: of a sequence with too few others the noiser takes none, and its
        other terms are what they would be.

        Raises:
            InputError: of the shortest it masks nothing.
        """
        if not self.budget(shortest):
            least = math.ceil(0.5 / self.adversarial_rate)
            raise InputError(
                f"objective.adversarial_rate: {self.adversarial_rate} of the shortest sequence ({shortest} residues) rounds to none; "
                f"build the corpus with --min-length {least}, crop at --batches.max-length {least} or more, or raise the rate"
            )

    def prepare(self, batch: Batch) -> Noised:
        """Mask the batch at random, and draw the noise of the noiser's choices."""
        classes = torch.from_numpy(TOKEN_TO_CLASS)[batch.tokens]
        at_random, inputs = torch.zeros_like(classes, dtype=torch.bool), batch.tokens
        if self.random_rate:
            masked = mask_residues(batch, self.random_rate, self.mask_share, self.random_share)
            at_random[masked.rows, masked.columns] = True
            inputs = masked.inputs
        residues = classes >= 0
        candidates = residues & ~at_random
        k = torch.tensor([self.budget(n) for n in residues.sum(dim=1).tolist()]).minimum(candidates.sum(dim=1))
        keys, draws = batch.keys.numpy(), max(1, int(k.max()))
        which = uniform(keys, batch.tokens.shape[1], _WHICH)
        how = uniform(keys, draws * OPTIONS, _HOW).reshape(-1, draws, OPTIONS)
        noise = [gumbel(torch.from_numpy(drawn.astype(np.float32))) for drawn in (which, how)]
        return Noised(batch.tokens, inputs, classes, at_random, candidates, k, *noise)

    def sums(self, model: "AdversarialModel", prepared: Noised) -> Tensor:
        """Return the sums of :attr:`quantities`."""
        x = prepared
        s, u = model.noiser(x.tokens)
        p = relaxed_subset(s, x.which, x.candidates, x.k, self.temperature)
        taken = hard_subset(p, x.k, x.candidates) if self.choice == "top" else threshold_subset(p, x.candidates)
        how = x.how_of(taken)
        shown = (u.detach() + how).argmax(dim=-1)  # [B, T] an option
        plays = p.requires_grad  # the noiser does
        if plays:
            m = straight_through(taken, p)
            o = straight_through(one_hot(shown, OPTIONS), gumbel_softmax(u, how, self.temperature))
            h = model.encoder(x.tokens, mixed_inputs(x.inputs, m, o))
        else:
            m = taken.to(p.dtype)
            h = model.hidden(noised_tokens(x.inputs, taken, shown))
        losses, correct = terms(model, h, x.classes)
        pi = inclusion(s, x.candidates, x.k)
        at_random, adversarial = (losses * x.at_random).sum(), (losses * m).sum()
        loss = at_random + adversarial
        if self.reweight:
            weighed = (losses * taken * importance(pi, x.candidates, x.k, self.weight_cap)).sum()
            loss = adversarial + (weighed - adversarial).detach() if plays else weighed  # one value, whoever plays
        if not (self.random_rate or model.training):
            at_random = self._loss_at_random(model, x)
        right = (correct & (x.at_random | taken)).sum()
        parts = [loss, right, (losses.detach() * taken).sum(), at_random.detach()]
        entropy = (relative_entropy(pi, x.candidates, x.k) * (x.k > 0).to(pi.device)).sum()
        about = torch.cat([entropy[None], *what_is_taken(x.tokens, x.classes, x.candidates, taken, shown)])
        return torch.cat([torch.stack([part.to(losses.dtype) for part in parts]), about.to(losses.dtype)])

    def _loss_at_random(self, model: "AdversarialModel", x: Noised) -> Tensor:
        """Return the sum of the losses where k residues a sequence are masked at random: the noiser's own noise chooses, no score does."""
        taken = hard_subset(x.which, x.k, x.candidates)
        shown = random_option(x.how_of(taken), self.mask_share, self.random_share)
        losses, _ = terms(model, model.hidden(noised_tokens(x.inputs, taken, shown)), x.classes)
        return (losses * taken).sum()

    def reckoned(self, means: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """Return the means as they are logged: those over masked residues over as many as were masked, which a threshold decides.

        The loss on residues masked at random is left out where none were.
        """
        of_budget = means["noiser/masked_of_budget"]
        masked = 1 - (1 - of_budget) * counts["adversarial"] / max(1, counts["masked"])
        shares = {q.name: of_budget for q in self.quantities if q.per == "adversarial"} | {"loss_mlm": masked, "accuracy_mlm": masked}
        del shares["noiser/masked_of_budget"]
        found = {name: value / (shares.get(name) or 1.0) for name, value in means.items()}
        if not (self.random_rate or found["loss_random"]):
            del found["loss_random"]
        return found

    def warnings(self, means: Mapping[str, float]) -> tuple[str, ...]:
        """Return how the noiser has collapsed, from the means of the quantities; nothing where it has not."""
        found = []
        if means["noiser/entropy"] < LEAST_ENTROPY:
            found.append("the noiser has no entropy left: it takes the same residues whatever the noise")
        ways = {name: means[f"noiser/{name}"] for name in SHOWN}
        most, least = max(ways, key=ways.__getitem__), min(ways, key=ways.__getitem__)
        if means["noiser/masked_of_budget"] < LEAST_SHARE:
            found.append("the noiser masks nothing: no residue is above the threshold")
        elif ways[most] > MOST_SHARE:
            found.append(f"the noiser has one way of masking left: {most}")
        elif ways[least] < LEAST_SHARE:
            found.append(f"the noiser has given up a way of masking: {least}")
        return tuple(found)


class AdversarialModel(MaskedLanguageModel):
    """An encoder and a token head, and the noiser that makes it hard for them."""

    def __init__(self, encoder: nn.Module, noiser: nn.Module) -> None:
        super().__init__(encoder)
        self.noiser = noiser


def terms(model: AdversarialModel, h: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return of the encoder's vectors h [B, T, D] each residue's loss [B, T], nats, and whether its class is found; 0 without a class."""
    logits = model.token_logits(h)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = cross_entropy(logits.transpose(1, 2), classes, ignore_index=-1, reduction="none")
    return losses, logits.detach().argmax(dim=-1) == classes
