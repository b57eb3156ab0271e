"""The LSTM, the multiplicative LSTM and next-token modelling written plainly: one sequence, one step, one residue after another.

For tests, in float64. Shapes: T tokens of one sequence without padding, E width of the embedding, H units.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def loop_lstm(layer: nn.LSTM, x: Tensor) -> Tensor:
    """Return the states [T, H] of one layer after each step of x [T, E], unit by unit; torch orders the gates i, f, g, o."""
    units = layer.hidden_size
    weight_x, weight_h, bias_x, bias_h = layer.parameters()
    h, c = [x.new_zeros(())] * units, [x.new_zeros(())] * units
    states = []
    for step in x:
        gates = []
        for row in range(4 * units):
            gates.append(weight_x[row] @ step + bias_x[row] + weight_h[row] @ torch.stack(h) + bias_h[row])
        for unit in range(units):
            i, f, g, o = (gates[gate * units + unit] for gate in range(4))
            c[unit] = sigmoid(f) * c[unit] + sigmoid(i) * torch.tanh(g)
            h[unit] = sigmoid(o) * torch.tanh(c[unit])
        states.append(torch.stack(h))
    return torch.stack(states)


def loop_stack(layers: Sequence[nn.LSTM], x: Tensor, backward: bool) -> Tensor:
    """Return the last layer's states [T, H] for x [T, E], read from its last step on if ``backward``; each at the step it belongs to."""
    steps = list(x)
    if backward:
        steps.reverse()
    x = torch.stack(steps)
    for layer in layers:
        x = loop_lstm(layer, x)
    states = list(x)
    if backward:
        states.reverse()
    return torch.stack(states)


def loop_mlstm(cell: nn.Module, x: Tensor) -> Tensor:
    """Return the states [T, H] of a multiplicative LSTM (Krause et al. 2016, with normalised weights) after each step of x [T, E]."""
    w_mx, w_mh, w_x, w_m = (unit_rows(layer) for layer in (cell.mx, cell.mh, cell.x, cell.m))  # type: ignore[arg-type]
    bias: Tensor = cell.bias  # type: ignore[assignment]
    units = len(w_mx)
    h = c = x.new_zeros(units)
    states = []
    for step in x:
        m = torch.stack([(w_mx[unit] @ step) * (w_mh[unit] @ h) for unit in range(units)])
        new_h, new_c = [], []
        for unit in range(units):
            i, f, o, u = (w_x[row] @ step + w_m[row] @ m + bias[row] for row in range(unit, 4 * units, units))
            new_c.append(sigmoid(f) * c[unit] + sigmoid(i) * torch.tanh(u))
            new_h.append(sigmoid(o) * torch.tanh(new_c[-1]))
        h, c = torch.stack(new_h), torch.stack(new_c)
        states.append(h)
    return torch.stack(states)


def loop_next_token(output: nn.Linear, states: dict[str, Tensor], classes: Sequence[int], together: bool) -> tuple[Tensor, float, int]:
    """Return the sum of -log P(x_i), the correct predictions and the number of residues of one sequence.

    Args:
        output: the layer that turns a state into logits.
        states: [T, H] of each direction, "forward" or "backward".
        classes: of each token its class, -1 for what is not predicted.
        together: predict once, by the sum of the logits; else by each direction, of which means are taken.
    """
    loss, correct, count = output.weight.new_zeros(()), 0.0, 0
    for place, label in enumerate(classes):
        if label < 0:
            continue
        count += 1
        logits = [output.weight @ h[place - 1 if way == "forward" else place + 1] + output.bias for way, h in states.items()]
        if together:
            logits = [sum(logits[1:], logits[0])]
        for scores in logits:
            loss = loss - torch.log(torch.exp(scores[label]) / torch.exp(scores).sum()) / len(logits)
            correct += (scores.tolist().index(max(scores.tolist())) == label) / len(logits)
    return loss, correct, count


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + math.e**-x)


def unit_rows(layer: nn.Module) -> Tensor:
    """Return the weight of a layer each row of which is a length times a direction (Salimans and Kingma 2016, equation 2)."""
    lengths, directions = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1  # type: ignore[union-attr]
    return torch.stack([g * v / (v**2).sum().sqrt() for g, v in zip(lengths, directions, strict=True)])  # type: ignore[arg-type]
