"""Direct coupling analysis of an aligned family: a Potts model fitted by pseudo-likelihood, whose couplings tell contacts.

    P(x_i = a | the other columns) = softmax_a ( h_i(a) + sum_{j != i} J_ij(a, x_j) )

    f(h, J) = - 1/M sum_s w_s sum_i log P(x_si | the other columns of s) + l_h sum_i |h_i|^2 + l_J sum_{i<j} |J_ij|^2,   M = sum_s w_s

This is the symmetric plmDCA of Ekeberg et al. 2013 (Physical Review E 87, 012707), with its l_h = l_J = 0.01 and its weights: one over
the number of sequences that are at least 80 % identical. GREMLIN (Kamisetty et al. 2013, PNAS 110, 15674) has the same f but for
penalties that do not grow with M. A pair of columns scores the Frobenius norm of its couplings in the zero-sum gauge, those of the
gap left out (Ekeberg et al. 2014, Journal of Computational Physics 276, 341).

Residues are one-hot, so the products that logits and gradient need are sums of rows: ``embedding_bag`` takes a third of the time of
matrix products (2 cores, 53 columns) and adds in one order whatever the number of threads.

Legend: S distinct sequences, C columns, Q = 21 states, CQ states of all columns, P = C (C - 1) / 2 pairs of columns i < j, sorted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from raypro.core.alphabet import STANDARD

STATES = len(STANDARD) + 1
GAP = len(STANDARD)
"""The state of a gap, and of every letter that is none of the 20 standard residues."""
IDENTITY = 0.8
PENALTY = 0.01
HISTORY = 10
"""Steps that L-BFGS remembers."""
SEARCH = 20
"""Most evaluations of a step's line search."""
LOOK_BACK = 5
"""Steps over which it is judged whether f still falls; the first alone are short."""
BLOCK = 512
"""Sequences whose logits are held at a time."""

_BYTE_TO_STATE = np.full(256, GAP, dtype=np.uint8)
_BYTE_TO_STATE[np.frombuffer(STANDARD.encode(), np.uint8)] = np.arange(GAP)


@dataclass(frozen=True)
class Sequences:
    """The distinct sequences of an alignment."""

    states: Tensor
    """[S, C] uint8, indices into STANDARD, or GAP."""
    copies: Tensor
    """[S] int64, how often each is there."""


@dataclass(frozen=True)
class Potts:
    """A fitted Potts model."""

    fields: Tensor
    """[C, Q] h."""
    couplings: Tensor
    """[P, Q, Q] J_ij of the pairs i < j."""
    losses: tuple[float, ...]
    """f before the first step and after each, nats a sequence."""
    converged: bool
    """Whether f hardly fell any more; else there were no more steps allowed."""


def sequences_of(rows: Sequence[str]) -> Sequences:
    """Return the distinct sequences of aligned rows (upper case, one width), sorted: their order in the file does not matter."""
    letters = np.frombuffer("".join(rows).encode("ascii"), np.uint8).reshape(len(rows), -1)
    states, copies = np.unique(_BYTE_TO_STATE[letters], axis=0, return_counts=True)
    return Sequences(torch.from_numpy(states), torch.from_numpy(copies))


def sequence_weights(
    sequences: Sequences, identity: float = IDENTITY, block: int = 2048, progress: Callable[[float], None] | None = None
) -> Tensor:
    """Return the weight [S] (float64) of each distinct sequence: its copies over the number of its neighbours, copies and itself included.

    Memory does not grow with S squared: two blocks of one-hot rows and the counts between them.

    Args:
        sequences: the alignment's.
        identity: neighbours agree in at least this share of all columns; a gap agrees with a gap.
        block: sequences that are compared with as many others at a time.
        progress: told the share that is done.
    """
    states, copies = sequences.states, sequences.copies.double()
    least = math.ceil(identity * states.shape[1] - 1e-9)  # 0.56 * 25 columns are 14, a little more in floating point
    neighbours = torch.zeros_like(copies)
    parts = [slice(start, start + block) for start in range(0, len(states), block)]
    done = 0
    for number, mine in enumerate(parts):
        first = one_hot(states[mine].long(), STATES).flatten(1).float()
        for others in parts[number:]:
            second = first if others is mine else one_hot(states[others].long(), STATES).flatten(1).float()
            near = (first @ second.t() >= least).double()  # numbers of equal columns, which 32 bits hold exactly
            neighbours[mine] += near @ copies[others]
            if others is not mine:
                neighbours[others] += copies[mine] @ near
            done += 1
            if progress:
                progress(2 * done / (len(parts) * (len(parts) + 1)))
    return copies / neighbours


class PseudoLikelihood:
    """The function f of a family, with its gradient."""

    def __init__(
        self,
        states: Tensor,
        weights: Tensor,
        field_penalty: float = PENALTY,
        coupling_penalty: float = PENALTY,
        dtype: torch.dtype = torch.float32,
        block: int = BLOCK,
    ) -> None:
        """Prepare for states [S, C] with weights [S]; everything is computed in ``dtype``, ``block`` sequences at a time."""
        self.columns = columns = states.shape[1]
        self.field_penalty, self.coupling_penalty, self.dtype = field_penalty, coupling_penalty, dtype
        self._i, self._j = torch.triu_indices(columns, columns, 1)
        self._couplings, self._gradient = torch.zeros(2, columns, STATES, columns, STATES, dtype=dtype)
        share = (weights / weights.sum()).to(dtype)
        places = states.long() + torch.arange(columns) * STATES
        parts = [slice(start, start + block) for start in range(0, len(states), block)]
        self._blocks = [_Block.of(places[part], share[part], columns * STATES) for part in parts]

    def __call__(self, fields: Tensor, couplings: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return f in nats a sequence, and its gradient with respect to the fields [C, Q] and the couplings [P, Q, Q]."""
        i, j, size = self._i, self._j, self.columns * STATES
        self._couplings[i, :, j] = couplings
        self._couplings[j, :, i] = couplings.transpose(1, 2)
        table, sums = self._couplings.view(size, size), self._gradient.zero_().view(size, size)
        total, field_gradient = 0.0, 2 * self.field_penalty * fields
        for part in self._blocks:
            logits = embedding_bag(part.places, table, mode="sum").view(-1, self.columns, STATES) + fields
            residual = logits.log_softmax(2).flatten(1)
            observed = residual.gather(1, part.places)
            total -= float(observed.sum(1, dtype=torch.float64) @ part.share.double())
            residual.exp_().scatter_add_(1, part.places, torch.full_like(observed, -1.0)).mul_(part.share[:, None])
            field_gradient += residual.sum(0).view_as(fields)
            sums += embedding_bag(part.rows, residual, part.begins, mode="sum")
        gradient = self._gradient[i, :, j] + self._gradient[j, :, i].transpose(1, 2)
        gradient += 2 * self.coupling_penalty * couplings
        penalty = self.field_penalty * fields.double().square().sum() + self.coupling_penalty * couplings.double().square().sum()
        return total + float(penalty), field_gradient, gradient


@dataclass(frozen=True)
class _Block:
    """Some of the sequences, B of them."""

    places: Tensor
    """[B, C] int64, the state of each column among those of all columns."""
    rows: Tensor
    """[B * C] int64: the sequences that have the first of the CQ states, then those that have the second, and so on."""
    begins: Tensor
    """[CQ] where in ``rows`` those of each state begin."""
    share: Tensor
    """[B] weights; those of all blocks sum to one."""

    @staticmethod
    def of(places: Tensor, share: Tensor, size: int) -> "_Block":
        counts = torch.bincount(places.flatten(), minlength=size)
        rows = places.flatten().argsort(stable=True) // places.shape[1]
        return _Block(places, rows, counts.cumsum(0) - counts, share)


def fit_potts(
    sequences: Sequences,
    weights: Tensor,
    *,
    field_penalty: float = PENALTY,
    coupling_penalty: float = PENALTY,
    steps: int = 200,
    tolerance: float = 1e-4,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, float], None] | None = None,
) -> Potts:
    """Return the Potts model that minimises f, by L-BFGS on all sequences at once; nothing is random.

    Memory: :func:`memory_of`.

    Args:
        sequences: the alignment's.
        weights: [S], of :func:`sequence_weights`.
        field_penalty: l_h.
        coupling_penalty: l_J.
        steps: most steps; some 50 are usual.
        tolerance: it ends when :data:`LOOK_BACK` steps made f smaller by less than this share.
        dtype: of all numbers.
        progress: told the number of each step, from 1, and f.
    """
    function = PseudoLikelihood(sequences.states, weights, field_penalty, coupling_penalty, dtype)
    columns = function.columns
    start = _log_frequencies(sequences.states, weights).flatten()
    theta = torch.zeros(len(start) + columns * (columns - 1) // 2 * STATES**2, dtype=dtype)
    fields, couplings = theta[: len(start)].view(columns, STATES), theta[len(start) :].view(-1, STATES, STATES)
    fields.copy_(start.view_as(fields))
    seen = torch.full_like(theta, torch.nan)
    value = torch.zeros((), dtype=torch.float64)

    def closure() -> Tensor:
        if not torch.equal(seen, theta):  # a step begins by asking for where the last one ended
            found, field_gradient, gradient = function(fields, couplings)
            theta.grad = torch.cat([field_gradient.flatten(), gradient.flatten()])
            seen.copy_(theta)
            value.fill_(found)
        return value

    optimizer = torch.optim.LBFGS([theta], max_iter=1, max_eval=SEARCH, history_size=HISTORY, line_search_fn="strong_wolfe")
    losses = [float(closure())]
    for step in range(1, steps + 1):
        optimizer.step(closure)
        losses.append(float(closure()))
        if progress:
            progress(step, losses[-1])
        if step >= LOOK_BACK and losses[-1 - LOOK_BACK] - losses[-1] < tolerance * losses[-1]:
            return Potts(fields, couplings, tuple(losses), True)
    return Potts(fields, couplings, tuple(losses), False)


def memory_of(columns: int) -> int:
    """Return about how many bytes :func:`fit_potts` holds for an alignment of so many columns, beside the sequences, in float32."""
    couplings = 4 * (columns * STATES) ** 2 // 2
    return (2 * HISTORY + 24) * couplings


def coupling_norms(couplings: Tensor) -> Tensor:
    """Return the symmetric map [C, C] of Frobenius norms of couplings [P, Q, Q] in the zero-sum gauge, without those of the gap.

    In that gauge the couplings of a pair sum to zero over either column's states: what fields could say is not in them.
    """
    centred = couplings.double()
    for column in (1, 2):
        centred = centred - centred.mean(column, keepdim=True)
    norms = centred[:, :GAP, :GAP].square().sum((1, 2)).sqrt()
    columns = round((1 + math.sqrt(1 + 8 * len(norms))) / 2)
    i, j = torch.triu_indices(columns, columns, 1)
    scores = torch.zeros(columns, columns, dtype=torch.float64)
    scores[i, j] = scores[j, i] = norms
    return scores


def _log_frequencies(states: Tensor, weights: Tensor) -> Tensor:
    """Return the fields [C, Q] of a model without couplings: logarithms of weighted frequencies, one more of each state, mean zero."""
    counts = torch.stack([torch.bincount(column, weights, minlength=STATES) for column in states.long().t()])
    logs = (counts + 1).log()
    return logs - logs.mean(1, keepdim=True)
