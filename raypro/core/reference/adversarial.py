"""The sampling of McDermott et al. 2020, written plainly: Algorithm 1 as published, Algorithm 3, and the mixing of x-tilde.

Loops over rows, rounds and positions, straight from the text, for tests in float64; and the rounds of a whole batch at once under
autograd, as one would write it first, for the benchmark.

Shapes: B rows, T positions, V alphabet, O options.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-18


def loop_softmax(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the softmax of some scalars."""
    highest = max(float(v.detach()) for v in values)
    weights = [torch.exp(v - highest) for v in values]
    total = torch.stack(weights).sum()
    return [w / total for w in weights]


def loop_relaxed_subset(scores: Tensor, noise: Tensor, valid: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return the relaxed subset [B, T] of Algorithm 1, one position after another.

    Arguments as in :func:`raypro.core.subset.relaxed_subset`.
    """
    zero = scores.new_zeros(())
    eps = torch.tensor(EPS, dtype=scores.dtype)
    rows = []
    for s, z, ok, k in zip(scores, noise, valid, counts, strict=True):
        places = [i for i in range(len(s)) if ok[i]]
        result = [zero for _ in s]
        g = {i: s[i] + z[i] for i in places}
        for _ in range(int(k) if places else 0):
            for i, p in zip(places, loop_softmax([g[i] / temperature for i in places]), strict=True):
                result[i] = result[i] + p
                g[i] = g[i] + torch.log(torch.maximum(1 - p, eps))
        rows.append(torch.stack(result))
    return torch.stack(rows)


def published_relaxed_subset(scores: Tensor, noise: Tensor, valid: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return the same, the rounds of all rows at once. A row without a valid position is not a number."""
    g = (scores + noise).masked_fill(~valid, -torch.inf)
    eps = torch.tensor(EPS, dtype=g.dtype)
    result = torch.zeros_like(g)
    for j in range(int(counts.max())):
        p = torch.softmax(g / temperature, dim=1)
        result = result + torch.where((counts > j)[:, None], p, 0.0)
        g = g + torch.log(torch.maximum(1 - p, eps))
    return result


def straight_through_threshold(p: Tensor) -> Tensor:
    """Return, for probabilities p of any shape, 1 where p > 0.5 and else 0, with the gradient of p (Algorithm 3)."""
    return torch.stack([(x > 0.5).to(p.dtype).detach() - x.detach() + x for x in p.flatten()]).reshape(p.shape)


def loop_mixed(tokens: Tensor, chosen: Tensor, options: Tensor, shown: Tensor) -> Tensor:
    """Return x-tilde [B, T, V]: each token's one-hot where nothing is chosen, where it is the mixture of what the options show.

    Args:
        tokens: [B, T] int64.
        chosen: [B, T] 0 or 1, how much of a position is masked.
        options: [B, T, O] how much of each option is taken there.
        shown: [O, V] what each option shows; a row of zeros for the option to keep the token.
    """
    mixed = []
    for b, t in ((b, t) for b in range(tokens.shape[0]) for t in range(tokens.shape[1])):
        one_hot = torch.zeros(shown.shape[1], dtype=options.dtype)
        one_hot[tokens[b, t]] = 1.0
        hidden = torch.zeros_like(one_hot)
        for o in range(options.shape[2]):
            hidden = hidden + options[b, t, o] * (shown[o] if shown[o].any() else one_hot)
        mixed.append((1 - chosen[b, t]) * one_hot + chosen[b, t] * hidden)
    return torch.stack(mixed).reshape(*tokens.shape, -1)
