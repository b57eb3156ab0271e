"""The noiser: its size, what a token's options are, and that a sequence's scores are its own."""

from dataclasses import replace

import pytest
import torch

from raypro.config import InputError
from raypro.core.alphabet import CLS, PAD, SEP, STANDARD, encode
from raypro.core.noiser import EXCLUDED, HIDE, KEEP, OPTIONS, REPLACE, GRUNoiserShape, TransformerNoiserShape
from raypro.core.subset import gumbel_softmax
from tests.small import batch_of, random_sequences

SMALL = GRUNoiserShape(embedding=6, width=8, layers=2)
SHAPES = {
    "gru": SMALL,
    "both ways": replace(SMALL, bidirectional=True),
    "transformer": TransformerNoiserShape(layers=2, width=8, heads=2, hidden=16),
}


@pytest.fixture(params=SHAPES)
def noiser(request):
    torch.manual_seed(0)
    return SHAPES[request.param].build().double()


def parameters(shape) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in shape.build().parameters())


def test_parameter_counts_by_hand():
    # 30 tokens; of a layer 3 gates, each with weights for the input and for the state and two biases; 1 + 22 scores.
    first, other = 3 * 512 * (1024 + 512 + 2), 3 * 512 * (512 + 512 + 2)
    assert parameters(GRUNoiserShape()) == 30 * 1024 + first + 2 * other + 23 * (512 + 1) == 5_556_759
    back = 3 * 512 * (1024 + 512 + 2)  # above the first layer the input has both directions
    assert parameters(GRUNoiserShape(bidirectional=True)) == 30 * 1024 + 2 * first + 4 * back + 23 * (1024 + 1)
    # Of a block: queries, keys and values, output, two layers, two norms.
    block = 3 * 512 * 513 + 512 * 513 + 2048 * 513 + 512 * 2049 + 4 * 512
    assert parameters(TransformerNoiserShape()) == 30 * 512 + 3 * block + 2 * 512 + 23 * 513


def test_scores_have_their_shapes_and_every_weight_a_gradient(noiser):
    tokens = batch_of(*random_sequences(3, 5, 12)).tokens
    which, how = noiser(tokens)
    assert which.shape == tokens.shape and how.shape == (*tokens.shape, OPTIONS)
    (which.square().sum() + how[how > EXCLUDED].square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in noiser.parameters())


def test_a_sequences_scores_depend_on_no_neighbour_and_no_padding(noiser):
    sequences = random_sequences(5, 3, 30)
    together = noiser(batch_of(*sequences).tokens)
    for row, sequence in enumerate(sequences):
        own = len(sequence) + 2
        for scores, alone in zip(together, noiser(batch_of(sequence).tokens), strict=True):
            torch.testing.assert_close(scores[row, :own], alone[0], rtol=1e-10, atol=1e-12)


def test_a_residue_may_be_replaced_by_any_but_itself(noiser):
    tokens = batch_of(STANDARD, "BOUXZ").tokens
    excluded = noiser(tokens)[1] == EXCLUDED
    assert OPTIONS == 22 and (HIDE, KEEP, REPLACE) == (0, 1, 2)
    assert torch.equal(excluded[0, 1:21, REPLACE:], torch.eye(20, dtype=torch.bool))
    assert excluded.sum() == 20  # neither control tokens nor letters beyond the standard ones have a class of their own


@pytest.mark.parametrize("temperature", [100.0, 0.01])
def test_an_excluded_option_has_no_probability_and_no_gradient(temperature):
    scores = torch.zeros(1, OPTIONS).index_fill_(1, torch.tensor([REPLACE]), EXCLUDED).requires_grad_()
    p = gumbel_softmax(scores, torch.full((1, OPTIONS), -3.0), temperature)
    assert p[0, REPLACE] == 0 and p.sum().item() == pytest.approx(1)
    assert torch.autograd.grad(p[0, KEEP], scores)[0][0, REPLACE] == 0


@pytest.mark.parametrize(("name", "sees_what_follows"), [("gru", False), ("both ways", True), ("transformer", True)])
def test_whether_what_follows_a_residue_matters(name, sees_what_follows):
    torch.manual_seed(0)
    noiser = SHAPES[name].build().double()
    one, other = (noiser(batch_of(sequence).tokens)[0][0, 3] for sequence in ("ACDEFGHIK", "ACDEFGHIW"))
    assert (one != other) == sees_what_follows


def test_scores_are_float32_under_autocast(noiser):
    tokens = torch.tensor([[CLS, *encode("MKVLA").tolist(), SEP, PAD]])
    expected = noiser.float()(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        scores = noiser(tokens)
    for low, full in zip(scores, expected, strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (lambda: GRUNoiserShape(layers=0), "noiser.layers"),
        (lambda: GRUNoiserShape(embedding=-1), "noiser.embedding"),
        (lambda: TransformerNoiserShape(hidden=0), "noiser.hidden"),
        (lambda: TransformerNoiserShape(width=10, heads=4), "noiser.heads"),
    ],
)
def test_a_shape_that_cannot_be_is_one_line(shape, field):
    with pytest.raises(InputError, match=field) as caught:
        shape()
    assert "\n" not in str(caught.value)
