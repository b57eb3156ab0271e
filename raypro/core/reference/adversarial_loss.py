"""The adversarial loss with plain loops, residue by residue (McDermott et al. 2020, Algorithms 1 to 4)."""

from collections.abc import Callable

import torch
from torch import Tensor

from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, SIZE, TOKEN_TO_CLASS
from raypro.core.noiser import HIDE, KEEP, REPLACE
from raypro.core.reference.adversarial import loop_relaxed_subset


def adversarial_loss(
    noiser: Callable[[Tensor], tuple[Tensor, Tensor]],
    predict: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    inputs: Tensor,
    at_random: list[int],
    k: int,
    which: Tensor,
    how: Tensor,
    temperature: float,
) -> tuple[Tensor, list[int], list[int]]:
    """Return the summed loss of one sequence, in nats, the residues that the noiser takes, and the options that it shows.

    Args:
        noiser: gives scores [1, T] and options [1, T, O] for tokens [1, T].
        predict: gives logits [1, T, 20] for tokens [1, T] and mixtures [1, T, V].
        tokens: [T] one sequence without padding.
        inputs: [T] the same after random masking.
        at_random: what was masked at random.
        k: how many the noiser takes of the others.
        which: [T] Gumbel noise of the choice.
        how: [K, O] Gumbel noise of the options, the j-th for the j-th residue taken.
        temperature: t.
    """
    scores, options = noiser(tokens[None])
    s, u = scores[0], options[0]
    classes = [int(TOKEN_TO_CLASS[token]) for token in tokens.tolist()]
    candidates = [i for i, c in enumerate(classes) if c >= 0 and i not in at_random]
    valid = torch.tensor([i in candidates for i in range(len(tokens))])
    p = loop_relaxed_subset(s[None], which[None], valid[None], torch.tensor([k]), temperature)[0]
    taken = sorted(sorted(candidates, key=lambda i: -p[i].item())[:k])
    mixed, m, shown = [], {}, []
    for i in range(len(tokens)):
        x = torch.zeros(SIZE, dtype=s.dtype)
        x[inputs[i]] = 1.0
        if i not in candidates or not k:
            mixed.append(x)
            continue
        m[i] = (1.0 if i in taken else 0.0) + p[i] - p[i].detach()
        noise = how[max(0, sum(j <= i for j in taken) - 1)]
        weights = torch.exp((u[i] + noise) / temperature) / torch.exp((u[i] + noise) / temperature).sum()
        best = int(weights.argmax())
        shows = torch.zeros(SIZE, dtype=s.dtype)
        for option in range(len(weights)):
            o = (1.0 if option == best else 0.0) + weights[option] - weights[option].detach()
            what = torch.zeros(SIZE, dtype=s.dtype)
            what[inputs[i] if option == KEEP else MASK if option == HIDE else CLASS_TO_TOKEN[option - REPLACE]] = 1.0
            shows = shows + o * what
        mixed.append((1 - m[i]) * x + m[i] * shows)
        if i in taken:
            shown.append(best)
    logits = predict(tokens[None], torch.stack(mixed)[None])[0]
    loss = torch.zeros((), dtype=s.dtype)
    for i, c in enumerate(classes):
        surprise = torch.logsumexp(logits[i], dim=0) - logits[i, max(c, 0)]
        if i in at_random:
            loss = loss + surprise
        if i in m:
            loss = loss + m[i] * surprise
    return loss, taken, shown
