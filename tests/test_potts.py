"""The Potts model of direct coupling analysis against plain loops, by hand, and on families whose contacts were planted."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raypro.core.alphabet import STANDARD
from raypro.core.potts import GAP, STATES, PseudoLikelihood, Sequences, coupling_norms, fit_potts, sequence_weights, sequences_of
from raypro.data.synthetic import Family, planted_contacts, residue_couplings, sample_potts
from raypro.evaluate.contacts import apc, contact_precision


def random_states(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return random states [rows, columns], gaps among them."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, STATES, (rows, columns), dtype=np.uint8))


def naive_value(states: Tensor, weights: Tensor, fields: Tensor, couplings: dict[tuple[int, int], Tensor], penalties: tuple[float, float]):
    """Return f by plain loops; ``couplings`` of the pairs i < j."""
    rows, columns = states.shape
    total = torch.zeros((), dtype=torch.float64)
    for s in range(rows):
        for i in range(columns):
            logits = []
            for a in range(STATES):
                logit = fields[i, a]
                for j in range(columns):
                    b = int(states[s, j])
                    if i < j:
                        logit = logit + couplings[i, j][a, b]
                    elif j < i:
                        logit = logit + couplings[j, i][b, a]
                logits.append(logit)
            total = total - weights[s] / weights.sum() * (logits[int(states[s, i])] - torch.logsumexp(torch.stack(logits), 0))
    total = total + penalties[0] * sum((fields[i, a] ** 2 for i in range(columns) for a in range(STATES)), torch.zeros(()))
    return total + penalties[1] * sum((matrix.square().sum() for matrix in couplings.values()), torch.zeros(()))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_value_and_gradient_equal_plain_loops(block: int) -> None:
    """Weighted sequences, both penalties, blocks that divide the sequences unevenly."""
    columns = 4
    states, weights = random_states(7, columns), torch.rand(7, dtype=torch.float64) + 0.1
    pairs = [(i, j) for i in range(columns) for j in range(i + 1, columns)]
    fields = torch.randn(columns, STATES, dtype=torch.float64, requires_grad=True)
    couplings = torch.randn(len(pairs), STATES, STATES, dtype=torch.float64, requires_grad=True)
    expected = naive_value(states, weights, fields, dict(zip(pairs, couplings, strict=True)), (0.03, 0.2))
    field_gradient, gradient = torch.autograd.grad(expected, (fields, couplings))
    function = PseudoLikelihood(states, weights, 0.03, 0.2, torch.float64, block)
    for _ in range(2):  # nothing of the first call is left in the second
        found = function(fields.detach(), couplings.detach())
        assert found[0] == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(found[1], field_gradient, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[2], gradient, rtol=1e-10, atol=1e-12)


def test_single_precision_is_precise_enough() -> None:
    """32-bit numbers give the value and the gradient of 64-bit ones."""
    states, weights = random_states(300, 6), torch.ones(300, dtype=torch.float64)
    fields, couplings = torch.randn(6, STATES), torch.randn(15, STATES, STATES)
    single = PseudoLikelihood(states, weights, dtype=torch.float32)(fields, couplings)
    double = PseudoLikelihood(states, weights, dtype=torch.float64)(fields.double(), couplings.double())
    assert single[0] == pytest.approx(double[0], rel=1e-6)
    for found, expected in zip(single[1:], double[1:], strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_rows_become_distinct_states() -> None:
    """Gaps and letters that are no standard residue are the gap's state; copies are counted; the order of rows does not matter."""
    found = sequences_of(["AY-", "CXB", "AY-", "AYU"])
    assert found.states.tolist() == [[0, 19, GAP], [1, GAP, GAP]]
    assert found.copies.tolist() == [3, 1]
    again = sequences_of(["AYU", "AY-", "AY-", "CXB"])
    assert torch.equal(found.states, again.states) and torch.equal(found.copies, again.copies)


@pytest.mark.parametrize(("block", "identity"), [(1, 0.8), (4, 0.8), (1000, 0.8), (7, 0.3), (7, 1.0)])
def test_weights_equal_plain_loops(block: int, identity: float) -> None:
    """Rows that differ in a few columns, some of them copies: one over the number of rows at least that identical, for each row."""
    rng = np.random.default_rng(1)
    letters = np.array(list("ACDE-"))
    base = rng.choice(letters, 10)
    rows = []
    for _ in range(40):
        row = base.copy()
        changed = rng.choice(10, rng.integers(0, 6), replace=False)
        row[changed] = rng.choice(letters, len(changed))
        rows.append("".join(row))
    rows += rows[:5]
    per_row = [1 / sum(sum(a == b for a, b in zip(x, y, strict=True)) >= round(identity * 10) for y in rows) for x in rows]
    expected: dict[tuple[int, ...], float] = {}
    for row, weight in zip(rows, per_row, strict=True):
        key = tuple(STANDARD.index(letter) if letter in STANDARD else GAP for letter in row)
        expected[key] = expected.get(key, 0.0) + weight
    distinct, shares = sequences_of(rows), []
    weights = sequence_weights(distinct, identity, block, shares.append)
    assert {tuple(state): weight for state, weight in zip(distinct.states.tolist(), weights.tolist(), strict=True)} == pytest.approx(
        expected
    )
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert len(set(per_row)) > (1 if identity == 1.0 else 2)  # the case tells something


def test_exactly_the_identity_counts() -> None:
    """14 of 25 columns are 56 %, although 0.56 * 25 in floating point is more; 13 are not."""
    assert 0.56 * 25 > 14
    for different, weight in ((11, 0.5), (12, 1.0)):
        weights = sequence_weights(sequences_of(["A" * 25, "A" * (25 - different) + "C" * different]), 0.56)
        assert weights.tolist() == [weight, weight]


def test_norms_by_hand() -> None:
    """What fields could say, and what the gap says, does not count; a coupling of two residues by hand."""
    couplings = torch.zeros(3, STATES, STATES, dtype=torch.float64)
    couplings[0] = torch.randn(STATES, 1) + torch.randn(1, STATES)  # pair (0, 1): fields in disguise
    couplings[1, 2, 5] = 3.0  # pair (0, 2)
    couplings[2, GAP, GAP] = 3.0  # pair (1, 2)
    norms = coupling_norms(couplings)
    q = STATES
    centred = [[3.0 * ((a == 2) - 1 / q) * ((b == 5) - 1 / q) for b in range(GAP)] for a in range(GAP)]
    residues = math.sqrt(sum(value**2 for row in centred for value in row))
    gaps = 3.0 * GAP / q**2  # 400 entries of 3 / 441
    expected = torch.tensor([[0.0, 0.0, residues], [0.0, 0.0, gaps], [residues, gaps, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(norms, expected, rtol=1e-9, atol=1e-6)


def test_norms_are_corrected_by_the_average_product() -> None:
    """Three columns by hand: row means 2, 1.5, 2.5 and the mean 2."""
    norms = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
    expected = np.array([[0.0, 1 - 1.5, 3 - 2.5], [1 - 1.5, 0.0, 2 - 1.875], [3 - 2.5, 2 - 1.875, 0.0]])
    np.testing.assert_allclose(apc(norms), expected)


@pytest.fixture(scope="module")
def planted() -> tuple[Family, Sequences]:
    """Return a Potts model of 20 columns and 800 sequences drawn from it."""
    rng = np.random.default_rng(3)
    family = Family("planted", planted_contacts(20, rng), rng.normal(0.0, 1.0, (20, 20)).astype(np.float32))
    classes = sample_potts(family, residue_couplings(2.0, rng), 800, rng)
    return family, sequences_of(["".join(STANDARD[a] for a in row) for row in classes.tolist()])


def test_planted_contacts_are_recovered(planted: tuple[Family, Sequences]) -> None:
    """As many best pairs as there are contacts, of all separations, are contacts."""
    family, sequences = planted
    fitted = fit_potts(sequences, sequence_weights(sequences))
    assert fitted.converged and fitted.losses[-1] == min(fitted.losses)
    scores = apc(coupling_norms(fitted.couplings).numpy())
    i, j = np.triu_indices(20, k=1)
    best = np.argsort(-scores[i, j])[: len(family.contacts)]
    found = set(zip(i[best].tolist(), j[best].tolist(), strict=True))
    assert found == {tuple(pair) for pair in family.contacts.tolist()}
    truth = np.zeros((20, 20), dtype=bool)
    truth[tuple(family.contacts.T)] = True
    assert contact_precision(scores, truth | truth.T)["contacts/P_at_L5_all"] == 1.0


def test_the_fit_is_a_minimum_and_repeatable(planted: tuple[Family, Sequences]) -> None:
    """The gradient is all but zero where it ends; a second fit gives the same bits; steps are told as they come."""
    sequences = Sequences(planted[1].states[:200, :6], planted[1].copies[:200])
    weights, told = sequence_weights(sequences), []
    fitted = fit_potts(sequences, weights, tolerance=1e-9, progress=lambda step, loss: told.append((step, loss)), dtype=torch.float64)
    assert told == list(enumerate(fitted.losses))[1:]
    function = PseudoLikelihood(sequences.states, weights, dtype=torch.float64)
    value, field_gradient, gradient = function(fitted.fields, fitted.couplings)
    assert value == pytest.approx(fitted.losses[-1]) and fitted.losses[0] > value
    assert max(field_gradient.abs().max().item(), gradient.abs().max().item()) < 1e-4
    first, second = (fit_potts(sequences, weights) for _ in range(2))
    assert torch.equal(first.couplings, second.couplings) and torch.equal(first.fields, second.fields)
    torch.testing.assert_close(first.couplings.double(), fitted.couplings, rtol=0.1, atol=0.02)


def test_copies_are_worth_one(planted: tuple[Family, Sequences]) -> None:
    """A family that is there twice gives the same model."""
    once = Sequences(planted[1].states[:100, :5], planted[1].copies[:100])
    twice = Sequences(once.states, 2 * once.copies)
    first, second = (fit_potts(s, sequence_weights(s), steps=10) for s in (once, twice))
    torch.testing.assert_close(first.couplings, second.couplings)


def test_a_fit_that_ran_out_of_steps_says_so(planted: tuple[Family, Sequences]) -> None:
    """Two steps are too few."""
    sequences = Sequences(planted[1].states[:50, :5], planted[1].copies[:50])
    fitted = fit_potts(sequences, sequence_weights(sequences), steps=2)
    assert not fitted.converged and len(fitted.losses) == 3
