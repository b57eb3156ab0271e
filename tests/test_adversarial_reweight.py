"""Weights by importance: what they weigh, what their cap costs, and the loss that chooses checkpoints in their place."""

import math
from dataclasses import replace

import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, TOKEN_TO_CLASS
from raypro.core.loop import TrainState, evaluate, train_step
from raypro.core.noiser import HIDE, KEEP, OPTIONS, REPLACE
from raypro.core.noising import random_option
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.subset import gumbel
from tests.small import TINY, batch_of, random_sequences
from tests.test_adversarial import ADAM, REWEIGHTED, batches_of, choice_of, new_state, only

CAPPED = replace(REWEIGHTED, weight_cap=1.1)


def plain_weights(s: list[float], k: int, most: float) -> list[float]:
    """The weights of one sequence's residues, of scores s: tau by another search, the rest from the text."""

    def pi(log_tau: float) -> list[float]:
        return [1 - math.exp(-math.exp(min(log_tau + score, 50.0))) for score in s]

    root = scipy.optimize.brentq(lambda log_tau: sum(pi(log_tau)) - k, -40.0, 40.0, xtol=1e-12)
    return [min(most, k / len(s) / probability) for probability in pi(root)]


def plain_loss(state: TrainState) -> tuple[Tensor, list[float]]:
    """The weighed loss of the first batch, residue by residue, and the weights."""
    model, prepared = state.model, state.objective.prepare(batches_of(0)[0])
    taken, shown = choice_of(state, prepared)
    inputs, weights = prepared.tokens.clone(), {}
    for row in range(len(inputs)):
        candidates, k = prepared.candidates[row].nonzero().flatten().tolist(), int(prepared.k[row])
        if k:
            scores = model.noiser(prepared.tokens)[0][row].detach()
            found = plain_weights([float(scores[i]) for i in candidates], k, state.objective.weight_cap)
            weights |= {(row, i): weight for i, weight in zip(candidates, found, strict=True) if taken[row, i]}
    for row, i in weights:
        option = int(shown[row, i])
        if option != KEEP:
            inputs[row, i] = MASK if option == HIDE else int(CLASS_TO_TOKEN[option - REPLACE])
    logits = model.token_logits(model.encoder(inputs))
    total = torch.zeros((), dtype=torch.float64)
    for (row, i), weight in weights.items():
        own = logits[row, i, int(TOKEN_TO_CLASS[prepared.tokens[row, i]])]
        total = total + weight * (torch.logsumexp(logits[row, i], dim=0) - own)
    return total, list(weights.values())


def test_the_weighed_loss_and_its_gradient_are_those_of_plain_sums() -> None:
    state = new_state(CAPPED, torch.float64)
    prepared, parameters = CAPPED.prepare(batches_of(0)[0]), only(state, "encoder")
    ours, (expected, weights) = CAPPED.sums(state.model, prepared)[0], plain_loss(state)
    assert min(weights) < 0.8 and max(weights) == 1.1 and len(weights) == prepared.counts["masked"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    assert evaluate(state, batches_of(0))["loss_mlm"] == pytest.approx(expected.item() / len(weights), rel=1e-6)


def test_the_noiser_plays_for_the_loss_without_weights() -> None:
    plain, gradients = replace(CAPPED, reweight=False), []
    for objective in (CAPPED, plain):
        state = new_state(objective, torch.float64)
        parameters = only(state, "noiser")
        gradients.append(torch.autograd.grad(objective.sums(state.model, objective.prepare(batches_of(0)[0]))[0], parameters))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Peaked(nn.Module):
    """A noiser that prefers some classes to others, ``sharpness`` nats from one to the next."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.sharpness * torch.from_numpy(TOKEN_TO_CLASS)[tokens], torch.zeros(*tokens.shape, OPTIONS)


@pytest.mark.parametrize("objective", [Adversarial(reweight=True, random_rate=0.0), Adversarial(random_rate=0.0)])
def test_what_chooses_the_checkpoint_is_not_moved_by_the_noiser_as_the_weighed_loss_is(objective: Adversarial) -> None:
    # The encoder knows how frequent classes are, and no more: the later ones, which the noiser takes, are the harder ones.
    bias = torch.linspace(3.0, 0.0, 20)
    surprise = bias.logsumexp(dim=0) - bias
    sequences, means = random_sequences(64, 100, 100), {}
    uniform = float(torch.stack([surprise[TOKEN_TO_CLASS[batch_of(sequence).tokens[0, 1:-1]]].mean() for sequence in sequences]).mean())
    for sharpness in (0.0, 0.5):
        model = objective.build(TINY.build())
        model.noiser = Peaked(sharpness)
        with torch.no_grad():
            model.token_head[-1].weight.zero_()
            model.token_head[-1].bias.copy_(bias)
        means[sharpness] = evaluate(TrainState(objective, model, ADAM), [batch_of(*sequences)])
    judged = {sharpness: found[objective.judged_by] for sharpness, found in means.items()}
    assert judged[0.0] == judged[0.5] == pytest.approx(uniform, abs=0.12)
    assert means[0.5]["loss_adversarial"] > uniform + 0.5
    if objective.reweight:  # with the default cap
        assert means[0.0]["loss_mlm"] == pytest.approx(uniform, abs=0.12)
        assert means[0.5]["loss_mlm"] < 0.8 * uniform


def test_where_training_masks_none_at_random_its_log_has_no_loss_of_such() -> None:
    state = new_state(REWEIGHTED)
    train_step(state, batches_of(0))
    assert "loss_random" not in state.take_metrics()
    assert evaluate(state, batches_of(0))["loss_random"] > 0


def test_random_options_come_as_often_as_they_are_to() -> None:
    noise = gumbel(torch.rand(1, 20_000, OPTIONS, generator=torch.Generator().manual_seed(0)))
    found = random_option(noise, 0.7, 0.2)[0].bincount(minlength=OPTIONS) / 20_000
    assert found.tolist() == pytest.approx([0.7, 0.1] + [0.01] * 20, abs=0.01)
    assert random_option(noise, 1.0, 0.0).unique().tolist() == [HIDE]
    assert random_option(noise, 0.0, 0.0).unique().tolist() == [KEEP]
