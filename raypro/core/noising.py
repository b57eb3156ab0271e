"""What a noiser's choice shows the encoder (McDermott et al. 2020, Algorithm 4), and what can be said of the choice.

Legend: B sequences, T tokens, V alphabet, O = 22 options; n candidates of a sequence, k of them to be taken; s the scores.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, SIZE, STANDARD
from raypro.core.noiser import EXCLUDED, HIDE, KEEP, OPTIONS
from raypro.core.residues import residue_mask

BINS = 10
"""Parts of a sequence that the places of masked residues are counted in."""
SHOWN = ("mask", "keep", "replace")
"""The ways of masking."""
CERTAIN, HALVINGS = 50.0, 32
"""Of the search for log tau: the tau exp(s) from which a residue is surely taken, and how often the range is halved."""


@dataclass(frozen=True)
class Noised:
    """A batch masked at random, with the noise by which the noiser masks more of it."""

    tokens: Tensor
    """[B, T] int64: the sequences."""
    inputs: Tensor
    """[B, T] int64: after random masking."""
    classes: Tensor
    """[B, T] int64: 0..19, or -1 for what is no target."""
    at_random: Tensor
    """[B, T] bool: masked at random."""
    candidates: Tensor
    """[B, T] bool: what the noiser may take."""
    k: Tensor
    """[B] int64, on the host: how many it takes."""
    which: Tensor
    """[B, T] Gumbel noise of the choice of residues."""
    how: Tensor
    """[B, K, O] Gumbel noise of the options: the first residue taken of a sequence has the first, and so on; K the highest k."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of masked residues, of either kind, of residues the noiser chooses among, and of sequences that it masks.

        Where none is masked at random, as many are as the noiser takes, once the model is judged.
        """
        at_random, adversarial = int(self.at_random.sum()), int(self.k.sum())
        return {
            "masked": at_random + adversarial,
            "random": at_random or adversarial,
            "adversarial": adversarial,
            "candidates": int(self.candidates.sum()),
            "sequences": int((self.k > 0).sum()),
        }

    def how_of(self, taken: Tensor) -> Tensor:
        """Return the noise of the options [B, T, O] where ``taken`` [B, T]; elsewhere that of the last one taken before.

        Where more than k are taken they begin again with the first.
        """
        number = (taken.cumsum(dim=1) - 1).clamp(min=0) % self.k.to(taken.device).clamp(min=1)[:, None]
        return self.how.gather(1, number[:, :, None].expand(-1, -1, OPTIONS))

    def to(self, device: torch.device) -> "Noised":
        """Return the same with its tensors on ``device``, but k, which the sampler needs on the host."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items() if name != "k"}
        return Noised(**moved, k=self.k)


def noised_tokens(tokens: Tensor, taken: Tensor, shown: Tensor) -> Tensor:
    """Return [B, T] what the encoder sees: ``tokens`` [B, T], but where ``taken`` [B, T] the options ``shown`` [B, T]."""
    return torch.where(taken & (shown != KEEP), _shown_tokens(tokens.device)[shown], tokens)


def mixed_inputs(tokens: Tensor, m: Tensor, o: Tensor) -> Tensor:
    """Return x~ [B, T, V] for tokens [B, T], shares m [B, T] of being taken and o [B, T, O] of the options; gradients flow through both."""
    x = one_hot(tokens, SIZE).to(o.dtype)
    replaced = one_hot(_shown_tokens(tokens.device), SIZE).to(o.dtype)
    replaced[KEEP] = 0.0
    change = o @ replaced + (o[..., KEEP, None] - 1.0) * x
    return x + m[..., None] * change


def random_option(noise: Tensor, mask_share: float, random_share: float) -> Tensor:
    """Return [B, T] options drawn by Gumbel noise [B, T, O]: MASK, any standard residue, else keep, with these probabilities."""
    probabilities = torch.full(noise.shape[-1:], random_share / len(STANDARD), device=noise.device)
    probabilities[HIDE], probabilities[KEEP] = mask_share, max(0.0, 1 - mask_share - random_share)
    return (probabilities.log() + noise).argmax(dim=-1)


def inclusion(s: Tensor, candidates: Tensor, k: Tensor) -> Tensor:
    """Return pi [B, T], about the probability of each candidate to be among the k [B] highest of s [B, T] and Gumbel noise.

    The highest are the first k of events that come at rates exp(s). Were it known that tau is when the k-th comes, pi would be
    1 - exp(-tau exp(s)); tau is taken so that these sum to k (Rosen 1997, order sampling). Exact for equal scores, and where k scores
    are far above the others. The sum of pi is k to four digits.
    """
    counts = k.to(s.device)[:, None]
    rates = s.detach().masked_fill(~candidates, EXCLUDED)  # their logarithms

    def pi(log_tau: Tensor) -> Tensor:
        return -torch.expm1(-(rates + log_tau).clamp(max=CERTAIN).exp())

    low = counts.clamp(min=1).log() - rates.logsumexp(dim=1, keepdim=True)  # since 1 - exp(-x) <= x
    high = math.log(CERTAIN) - rates.masked_fill(~candidates, torch.inf).amin(dim=1, keepdim=True)  # where all are taken
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = (pi(middle) * candidates).sum(dim=1, keepdim=True) > counts
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return pi(low) * (candidates & (counts > 0))


def importance(pi: Tensor, candidates: Tensor, k: Tensor, most: float) -> Tensor:
    """Return the weights [B, T] by which a sum over those taken estimates the sum over k taken uniformly: min(most, (k / n) / pi)."""
    return (_uniform(candidates, k) / pi.clamp(min=1e-9)).clamp(max=most)


def relative_entropy(pi: Tensor, candidates: Tensor, k: Tensor) -> Tensor:
    """Return for each sequence [B] how open the choice is: the mean entropy of being taken, over that of a uniform choice of k.

    1: all candidates are as likely (or all are taken); 0: always the same are taken.
    """
    uniform = _uniform(candidates, k)
    entropy = (_binary_entropy(pi) * candidates).sum(dim=1) / candidates.sum(dim=1).clamp(min=1)
    highest = _binary_entropy(uniform)[:, 0]
    return torch.where(highest > 0, entropy / highest.clamp(min=1e-9), 1.0)


def what_is_taken(tokens: Tensor, classes: Tensor, candidates: Tensor, taken: Tensor, shown: Tensor) -> list[Tensor]:
    """Return sums over those ``taken`` [B, T] bool: how many, by :data:`SHOWN`, by class [20], by place [BINS]; then candidates by class.

    Args:
        tokens: [B, T] int64.
        classes: [B, T] int64: 0..19, or -1.
        candidates: [B, T] bool.
        taken: [B, T] bool, some of the candidates.
        shown: [B, T] int64: the option of each.
    """
    residues = residue_mask(tokens)
    places = (residues.cumsum(dim=1) - 1).clamp(min=0) * BINS // residues.sum(dim=1, keepdim=True).clamp(min=1)
    way = (shown > HIDE).long() + (shown > KEEP).long()  # a place in SHOWN

    def histogram(values: Tensor, counted: Tensor, size: int) -> Tensor:
        zeros = torch.zeros(size, dtype=torch.float64, device=values.device)
        return zeros.index_add_(0, values.clamp(0, size - 1).flatten(), counted.flatten().to(torch.float64))

    of_taken = [taken.sum(dtype=torch.float64)[None], histogram(way, taken, len(SHOWN))]
    of_taken += [histogram(classes, taken, len(STANDARD)), histogram(places, taken, BINS)]
    return [*of_taken, histogram(classes, candidates, len(STANDARD))]


def _shown_tokens(device: torch.device) -> Tensor:
    """Return the token [O] that each option shows; that of keeping is not used."""
    return torch.tensor([MASK, MASK, *CLASS_TO_TOKEN.tolist()], device=device)


def _uniform(candidates: Tensor, k: Tensor) -> Tensor:
    """Return k / n [B, 1]."""
    return k.to(candidates.device)[:, None] / candidates.sum(dim=1, keepdim=True).clamp(min=1)


def _binary_entropy(p: Tensor) -> Tensor:
    """Return the entropy, nats, of an event of probability p."""
    return torch.special.entr(p) + torch.special.entr((1 - p).clamp(min=0.0))
