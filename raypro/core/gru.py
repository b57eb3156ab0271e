"""A gated recurrent unit (Cho et al. 2014, in the form of cuDNN) over packed sequences on a CPU.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))     h' = (1 - z) * n + z * h

torch keeps some eleven vectors a step for the backward pass and adds up the weights' gradients step by step. Here five are kept,
and each weight's gradient is one product over all steps.

Legend: M steps of all sequences, D inputs, H units. Packed: the first steps of all sequences, longest sequence first, then the
second steps of those that have one, and so on; ``sizes[t]`` sequences have a step t.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raypro.core.compiling import uncompiled


@uncompiled
def packed_gru(gru: nn.GRU, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the states [M, H] of the last layer of ``gru`` after each step of x [M, D], from states of zero.

    What ``gru`` itself gives for the packed sequence, in the weights' precision, autocast or not. There is no gradient of the gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        for layer in range(gru.num_layers):
            weights = [getattr(gru, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            x = _PackedGRU.apply(x.to(weights[0].dtype), *weights, tuple(sizes))  # type: ignore[no-untyped-call]
    return x


class _PackedGRU(torch.autograd.Function):
    """One layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor, sizes: tuple[int, ...]) -> Tensor:
        units = w_h.shape[1]
        gates = torch.addmm(b_i, x, w_i.t())  # what the inputs give; r, z and n take its place step by step
        new = x.new_empty(len(x), units)  # W_hn h + b_hn
        h = x.new_empty(len(x), units)
        before = x.new_zeros(sizes[0], units)
        for rows in _steps(sizes):
            gate, before = gates[rows], before[: rows.stop - rows.start]
            from_state = torch.addmm(b_h, before, w_h.t())
            r_z, n = gate[:, : 2 * units], gate[:, 2 * units :]
            r_z.add_(from_state[:, : 2 * units]).sigmoid_()
            new[rows] = from_state[:, 2 * units :]
            n.addcmul_(r_z[:, :units], new[rows]).tanh_()
            before = torch.lerp(n, before, r_z[:, units:], out=h[rows])
        ctx.save_for_backward(x, w_i, w_h, gates, new, h)
        ctx.sizes = sizes
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, w_i, w_h, gates, new, h = ctx.saved_tensors
        steps = list(_steps(ctx.sizes))
        before = torch.cat([h.new_zeros(ctx.sizes[0], h.shape[1]), *(h[_first(steps[i], steps[i + 1])] for i in range(len(steps) - 1))])
        d_gates, d_new = torch.empty_like(gates), torch.empty_like(new)
        d_h = h.new_zeros(0, h.shape[1])
        for rows in reversed(steps):
            total = d_out[rows].clone()
            total[: len(d_h)] += d_h
            r, z, n = gates[rows].chunk(3, dim=1)
            d_r, d_z, d_n = d_gates[rows].chunk(3, dim=1)
            torch.mul(total, before[rows] - n, out=d_z).mul_(z).mul_(1 - z)
            torch.mul(total, 1 - z, out=d_n).mul_(1 - n * n)
            torch.mul(d_n, new[rows], out=d_r).mul_(r).mul_(1 - r)
            torch.mul(d_n, r, out=d_new[rows])
            both = 2 * h.shape[1]
            d_h = (total * z).addmm_(d_gates[rows][:, :both], w_h[:both]).addmm_(d_new[rows], w_h[both:])
        d_w_h = torch.cat([d_gates[:, : 2 * h.shape[1]].t() @ before, d_new.t() @ before])
        d_b = d_gates.sum(dim=0)
        d_b_h = torch.cat([d_b[: 2 * h.shape[1]], d_new.sum(dim=0)])
        d_x = d_gates @ w_i if ctx.needs_input_grad[0] else None
        return d_x, d_gates.t() @ x, d_w_h, d_b, d_b_h, None


def _steps(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield the rows of each step."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def _first(rows: slice, of: slice) -> slice:
    """Return as many of the first ``rows`` as there are in ``of``."""
    return slice(rows.start, rows.start + of.stop - of.start)
