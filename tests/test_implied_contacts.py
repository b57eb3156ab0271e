"""The contact map a pair head implies, against plain loops and against a stand-in that knows the answer."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raypro.core.alphabet import CLASS_TO_TOKEN, CLS, MASK, SEP
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.pmlm import PMLM
from raypro.data.synthetic import planted_contacts, residue_couplings
from raypro.evaluate.contacts import apc, contact_precision
from raypro.evaluate.pairs import implied_contacts, mutual_information

SHAPE = TransformerShape(layers=1, width=16, heads=2, hidden=32)


def softmax(logits: Tensor) -> list[float]:
    """Return probabilities in plain Python."""
    weights = [math.exp(x) for x in logits.tolist()]
    return [w / sum(weights) for w in weights]


def naive_information(joint: list[float]) -> float:
    """Return the mutual information of a joint given as 400 probabilities."""
    first = [sum(joint[20 * a + b] for b in range(20)) for a in range(20)]
    second = [sum(joint[20 * a + b] for a in range(20)) for b in range(20)]
    return sum(joint[20 * a + b] * math.log(joint[20 * a + b] / (first[a] * second[b])) for a in range(20) for b in range(20))


def test_information_equals_plain_loops() -> None:
    """Random distributions; zero where the joint is the product; log 20 where each residue gives the other."""
    joint = torch.randn(4, 400, dtype=torch.float64).softmax(1)
    information = mutual_information(joint.view(4, 20, 20))
    for n in range(4):
        assert information[n].item() == pytest.approx(naive_information(joint[n].tolist()), rel=1e-10)
    single = torch.randn(20, dtype=torch.float64).softmax(0)
    assert mutual_information((single[:, None] * single)[None]).item() == pytest.approx(0.0, abs=1e-12)
    assert mutual_information(torch.eye(20, dtype=torch.float64)[None] / 20).item() == pytest.approx(math.log(20))


def sequence(length: int, seed: int) -> Tensor:
    """Return the tokens of a random sequence."""
    residues = CLASS_TO_TOKEN[np.random.default_rng(seed).integers(0, 20, length)]
    return torch.tensor([CLS, *residues.tolist(), SEP])


@torch.no_grad()
def naive_implied_information(model: nn.Module, tokens: Tensor) -> np.ndarray:
    """Return the uncorrected map, one pair of residues at a time, by plain loops."""
    length = len(tokens) - 2
    out = np.zeros((length, length))
    for i in range(length):
        for j in range(length):
            if i == j:
                continue
            hidden = tokens.clone()
            hidden[i + 1] = hidden[j + 1] = MASK
            h = model.hidden(hidden[None])[0]
            forward, backward = softmax(model.pair_logits(h[i + 1], h[j + 1])), softmax(model.pair_logits(h[j + 1], h[i + 1]))
            out[i, j] = naive_information([(forward[20 * a + b] + backward[20 * b + a]) / 2 for a in range(20) for b in range(20)])
    return out


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_implied_contacts_equal_plain_loops(batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several lengths together, a single residue among them, whatever the budget; the caller's tokens are left as they were."""
    model = PMLM().build(SHAPE.build()).double().eval()
    hidden, passes = model.hidden, []
    monkeypatch.setattr(model, "hidden", lambda tokens: passes.append(tuple(tokens.shape)) or hidden(tokens))
    sequences = [sequence(length, length) for length in (5, 8, 1, 8, 3)]
    before = [s.clone() for s in sequences]
    maps = implied_contacts(model, sequences, batch_tokens=batch_tokens, progress=False)
    monkeypatch.undo()
    for tokens, found in zip(sequences, maps, strict=True):
        expected = naive_implied_information(model, tokens)
        np.testing.assert_allclose(found, apc(expected), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(found, found.T)
    assert all(torch.equal(a, b) for a, b in zip(before, sequences, strict=True))
    assert sum(rows for rows, _ in passes) == sum(n * (n - 1) // 2 for n in (5, 8, 1, 8, 3))
    assert all(rows * width <= max(batch_tokens, width) for rows, width in passes)


def test_a_model_that_knows_the_couplings_implies_the_contacts() -> None:
    """A stand-in whose joint is the planted Potts model's puts every planted contact on top, each at its own place."""
    contacts = planted_contacts(32, np.random.default_rng(1))
    truth = np.zeros((32, 32), dtype=bool)
    truth[contacts[:, 0], contacts[:, 1]] = True
    truth |= truth.T
    couplings = torch.from_numpy(residue_couplings(3.0, np.random.default_rng(2))).flatten()

    class Oracle(nn.Module):
        has_pair_head = True

        def __init__(self) -> None:
            super().__init__()
            self.device_shown = nn.Parameter(torch.zeros(()))

        def hidden(self, tokens: Tensor) -> Tensor:
            assert ((tokens == MASK).sum(1) == 2).all()
            return torch.arange(-1.0, 33.0).expand(len(tokens), 34)[..., None]  # a residue's hidden state is its position

        def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
            coupled = torch.from_numpy(truth)[h_i[:, 0].long(), h_j[:, 0].long()]
            return coupled[:, None] * couplings

    (found,) = implied_contacts(Oracle(), [sequence(32, 0)], progress=False)
    assert contact_precision(found, truth)["contacts/P_at_L5_all"] == 1.0
    assert found[truth].min() > found[~truth].max()


def test_implied_contacts_need_a_pair_head() -> None:
    """A model of single residues implies no contacts."""
    with pytest.raises(ValueError, match="pair head"):
        implied_contacts(MLM().build(SHAPE.build()), [sequence(5, 0)], progress=False)
