"""Next-token modelling: the loss of plain loops, nothing predicted from itself, and a model judged beside chance."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raypro.config import InputError
from raypro.core.alphabet import STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.lstm import LSTMShape
from raypro.core.encoders.mlstm import MultiplicativeLSTMShape
from raypro.core.encoders.resnet import ResNetShape
from raypro.core.objectives.next_token import BEFORE, NextToken
from raypro.core.reference.recurrent import loop_next_token
from raypro.encoder import LoadedEncoder
from raypro.validation import Model, validate_model
from tests.small import TINY, batch_of, random_sequences, tiny_experiment, write_corpus

APART, TOGETHER = NextToken(), NextToken(directions="together")
BOTH = LSTMShape(layers=2, units=6, embedding=4, dropout=0.0)
SHAPES = {
    "both ways": BOTH,
    "tied": replace(BOTH, tied=True),
    "forward": replace(BOTH, directions="forward"),
    "multiplicative": MultiplicativeLSTMShape(units=6, embedding=4),
}
BATCH = batch_of("M", "BXZ", *random_sequences(3, 5, 20))


def model_of(shape: LSTMShape | MultiplicativeLSTMShape, objective: NextToken = APART) -> nn.Module:
    torch.manual_seed(0)
    return objective.build(shape.build()).double()


@pytest.mark.parametrize("objective", [APART, TOGETHER], ids=["apart", "together"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_loss_equals_plain_loops(shape: LSTMShape | MultiplicativeLSTMShape, objective: NextToken) -> None:
    model = model_of(shape, objective)
    prepared = objective.prepare(BATCH)
    sums = objective.sums(model, prepared)
    loss, correct, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for tokens in BATCH.tokens:
        tokens = tokens[tokens != 0]
        states = dict(zip(model.encoder.directions, (h[0] for h in model.encoder.directional(tokens[None])), strict=True))
        classes = TOKEN_TO_CLASS[tokens].tolist()
        one = loop_next_token(model.output, states, classes, together=objective is TOGETHER)
        loss, correct, count = loss + one[0], correct + one[1], count + one[2]
    torch.testing.assert_close(sums[0], loss, rtol=1e-10, atol=1e-10)
    assert sums[1].item() == pytest.approx(correct) and prepared.counts == {"predicted": count}
    parameters = list(model.parameters())
    for mine, theirs in zip(torch.autograd.grad(sums[0], parameters), torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_nothing_is_predicted_from_itself_nor_from_what_is_still_to_be_read(shape: LSTMShape | MultiplicativeLSTMShape) -> None:
    """A residue is changed: the logits that change are those of the residues read after it, never its own."""
    model, prepared = model_of(shape), APART.prepare(batch_of("MKVLAYT"))
    before = model.logits(prepared)
    for changed in range(1, 8):
        tokens = prepared.tokens.clone()
        tokens[0, changed] = tokens[0, changed] % 20 + 6  # another letter
        differs = (model.logits(replace(prepared, tokens=tokens)) != before).any(dim=-1)
        for direction, places in zip(model.encoder.directions, differs, strict=True):
            later = range(changed + 1, 8) if direction == "forward" else range(1, changed)
            assert (places.nonzero().flatten() + 1).tolist() == list(later)


def test_the_first_residue_is_predicted_from_the_control_token_alone() -> None:
    model = model_of(SHAPES["multiplicative"])
    first = [model.logits(APART.prepare(batch_of(sequence)))[0, 0] for sequence in ("MKV", "AYTWA")]
    torch.testing.assert_close(*first, rtol=0, atol=1e-12)
    assert BEFORE == {"forward": -1, "backward": 1}


def test_only_standard_residues_are_predicted_but_all_are_read() -> None:
    prepared = APART.prepare(batch_of("MXBKZ", "A"))
    assert prepared.rows.tolist() == [0, 0, 1] and prepared.columns.tolist() == [1, 4, 1]
    assert [STANDARD[label] for label in prepared.labels.tolist()] == ["M", "K", "A"]
    model = model_of(BOTH)
    unknown = model.logits(prepared), model.logits(APART.prepare(batch_of("MXUKZ", "A")))
    assert not torch.equal(unknown[0][0, 1], unknown[1][0, 1])


def test_the_directions_apart_are_a_mean_and_together_one_prediction() -> None:
    model, prepared = model_of(BOTH), APART.prepare(BATCH)
    forward, backward = model.logits(prepared).log_softmax(dim=-1)
    own = torch.arange(len(prepared.labels)), prepared.labels
    torch.testing.assert_close(APART.sums(model, prepared)[0], -(forward[own] + backward[own]).sum() / 2)
    product = (forward + backward).log_softmax(dim=-1)  # the product of their probabilities, normalised
    torch.testing.assert_close(TOGETHER.sums(model, prepared)[0], -product[own].sum())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_filler_weighs_nothing_and_still_reaches_every_parameter(shape: LSTMShape | MultiplicativeLSTMShape) -> None:
    for objective in (APART, TOGETHER):
        model, prepared = model_of(shape, objective), objective.prepare(Batch.filler())
        sums = objective.sums(model, prepared)
        assert sums.tolist() == [0.0, 0.0] and prepared.counts == {"predicted": 0}
        sums.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("shape", [TINY, ConvolutionShape(layers=1, width=4), ResNetShape(layers=1, width=4)], ids=str)
def test_an_encoder_whose_vectors_know_their_residue_is_refused(shape: ConvolutionShape) -> None:
    with pytest.raises(InputError, match=r"^encoder: \w+ has no states that have not seen the next residue"), torch.device("meta"):
        APART.build(shape.build())


def test_a_model_is_judged_beside_chance(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": ["A" * 30, "C" * 10], "valid": ["A" * 15, "C" * 5]})
    experiment = tiny_experiment(corpus.path, objective=APART, encoder=BOTH)
    module = APART.build(BOTH.build())
    nn.init.zeros_(module.output.weight)
    with torch.no_grad():
        module.output.bias.copy_(torch.arange(20) == 0)  # A, with probability e / (e + 19)
    found = validate_model(Model(module.eval(), experiment, 0, {}), corpus, tmp_path / "out").metrics
    loss = math.log(math.e + 19) - 15 / 20
    assert found["next_token/perplexity"] == pytest.approx(math.exp(loss)) and found["next_token/accuracy"] == pytest.approx(0.75)
    assert found["chance/perplexity"] == pytest.approx(math.exp(-(15 * math.log(31 / 60) + 5 * math.log(11 / 60)) / 20))


@pytest.mark.parametrize("shape", [*SHAPES.values(), ResNetShape(layers=1, width=6)], ids=str)
def test_the_encoder_gives_vectors_to_sequences(shape: LSTMShape | MultiplicativeLSTMShape | ResNetShape) -> None:
    encoder = LoadedEncoder(shape.build().eval().requires_grad_(False), shape, torch.device("cpu"))
    vectors, residues = encoder.embed(["MKVLA", "W"]), encoder.embed_residues(["MKVLA", "W"])
    assert [len(each) for each in residues] == [5, 1] and vectors.shape == (2, encoder.width)
    np.testing.assert_allclose(vectors, [each.mean(axis=0) for each in residues], atol=1e-6)
