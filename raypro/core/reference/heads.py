"""Encoders and heads of fine-tuning, written plainly: one sequence, one residue, one pair after another, in evaluation mode.

Shapes: L residues of one sequence, D width, C classes or channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def loop_layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Return the vector x [D] less its mean, over its deviation, times a weight, plus a bias."""
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / (variance + norm.eps) ** 0.5 * norm.weight + norm.bias


def loop_convolution(weight: Tensor, bias: Tensor, x: Tensor, dilation: int = 1) -> Tensor:
    """Return [L, C] for x [L, D]: sums over a filter's places k of weight [C, D, K] times x at i + (k - K // 2) dilation, if there."""
    rows = []
    for i in range(len(x)):
        row = bias
        for k in range(weight.shape[2]):
            place = i + (k - weight.shape[2] // 2) * dilation
            if 0 <= place < len(x):
                row = row + weight[:, :, k] @ x[place]
        rows.append(row)
    return torch.stack(rows)


def loop_convolution_2d(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return the map [L, L, C] of x [L, L, D] for filters [C, D, 3, 3]; what lies beyond the map is zero."""
    length = len(x)
    rows = []
    for i in range(length):
        for j in range(length):
            out = bias
            for a in (-1, 0, 1):
                for b in (-1, 0, 1):
                    if 0 <= i + a < length and 0 <= j + b < length:
                        out = out + weight[:, :, a + 1, b + 1] @ x[i + a, j + b]
            rows.append(out)
    return torch.stack(rows).view(length, length, -1)


def whole_weight(layer: nn.Module) -> Tensor:
    """Return the weight of a layer whose weight is normalised as a whole: g v / |v| (Salimans and Kingma 2016, equation 2)."""
    length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1  # type: ignore[union-attr]
    weight: Tensor = length * direction / (direction**2).sum().sqrt()  # type: ignore[operator]
    return weight


def loop_value_head(first: nn.Linear, second: nn.Linear, x: Tensor) -> Tensor:
    """Return W2 max(0, W1 x + b1) + b2 for one vector x [D]; the layers' weights are normalised."""
    hidden = torch.stack([(row @ x + b).clamp(min=0) for row, b in zip(whole_weight(first), first.bias, strict=True)])
    return torch.stack([row @ hidden + b for row, b in zip(whole_weight(second), second.bias, strict=True)])


def loop_residue_head(norm: nn.LayerNorm, first: nn.Conv1d, second: nn.Conv1d, h: Tensor) -> Tensor:
    """Return logits [L, C] for the vectors h [L, D] of one sequence's residues; the convolutions' weights are normalised."""
    x = torch.stack([loop_layer_norm(norm, vector) for vector in h])
    x = loop_convolution(whole_weight(first), _bias(first), x).clamp(min=0)
    return loop_convolution(whole_weight(second), _bias(second), x)


def loop_pooling(kind: str, h: Tensor, score: nn.Linear | None = None) -> Tensor:
    """Return [D] for the vectors h [L, D] of one sequence's residues: their mean, maximum or, with ``score``, attention-weighted mean."""
    if kind == "max":
        return torch.stack([max(column, key=Tensor.item) for column in h.t()])
    if kind == "mean" or score is None:
        return sum(h) / len(h)  # type: ignore[return-value]
    weights = [torch.exp(score(vector))[0] for vector in h]
    return sum(w * vector for w, vector in zip(weights, h, strict=True)) / sum(weights)


def loop_pairs(h: Tensor, of_pair: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``of_pair([h_i * h_j ; h_i - h_j])`` [L, L, ...] of every ordered pair of the residues of one protein, h [L, D]."""
    return torch.stack([torch.stack([of_pair(torch.cat([h_i * h_j, h_i - h_j])) for h_j in h]) for h_i in h])


def loop_contacts(logits: Tensor) -> Tensor:
    """Return [L, L] for logits [L, L, 2]: how much contact exceeds no contact, the mean over both orders of a pair."""
    length = len(logits)
    mean = [(logits[i, j] + logits[j, i]) / 2 for i in range(length) for j in range(length)]
    return torch.stack([pair[1] - pair[0] for pair in mean]).view(length, length)


def _bias(layer: nn.Conv1d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
