"""What a noiser's choice shows the encoder (McDermott et al. 2020, Algorithm 4), and what can be said of the choice.

Legend: B sequences, T tokens, V alphabet, O = 22 options; n candidates of a sequence, k of them to be taken; s the scores.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, SIZE
from raypro.core.noiser import EXCLUDED, KEEP

WIDEST, HALVINGS = 200.0, 32
"""Of the search for log tau: the range, and how often it is halved."""


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


def inclusion(s: Tensor, candidates: Tensor, k: Tensor) -> Tensor:
    """Return pi [B, T], about the probability of each candidate to be among the k [B] highest of s [B, T] and Gumbel noise.

    The highest are the first k of events that come at rates exp(s). Were it known that tau is when the k-th comes, pi would be
    1 - exp(-tau exp(s)); tau is taken so that these sum to k (Rosen 1997, order sampling). Exact for equal scores, and where k scores
    are far above the others. The sum of pi is k to four digits.
    """
    counts = k.to(s.device)[:, None]
    rates = s.detach().masked_fill(~candidates, EXCLUDED)  # their logarithms

    def pi(log_tau: Tensor) -> Tensor:
        return -torch.expm1(-(rates + log_tau).clamp(max=50.0).exp())

    low = counts.clamp(min=1).log() - rates.logsumexp(dim=1, keepdim=True)  # since 1 - exp(-x) <= x
    high = low + WIDEST
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


def _shown_tokens(device: torch.device) -> Tensor:
    """Return the token [O] that each option shows; that of keeping is not used."""
    return torch.tensor([MASK, MASK, *CLASS_TO_TOKEN.tolist()], device=device)


def _uniform(candidates: Tensor, k: Tensor) -> Tensor:
    """Return k / n [B, 1]."""
    return k.to(candidates.device)[:, None] / candidates.sum(dim=1, keepdim=True).clamp(min=1)


def _binary_entropy(p: Tensor) -> Tensor:
    """Return the entropy, nats, of an event of probability p."""
    return torch.special.entr(p) + torch.special.entr((1 - p).clamp(min=0.0))
