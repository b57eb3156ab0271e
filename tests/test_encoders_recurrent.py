"""TAPE's LSTM and ResNet, Bepler and Berger's language model, UniRep: their sizes, their equations, and that a sequence is on its own."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from raypro.config import InputError, from_plain, to_plain
from raypro.core.alphabet import MASK, PAD, SEP, SIZE
from raypro.core.batch import Batch
from raypro.core.encoders.lstm import BEPLER, TAPE_LSTM, LSTMShape, reversed_places
from raypro.core.encoders.mlstm import UNIREP, MultiplicativeLSTMShape
from raypro.core.encoders.resnet import TAPE_RESNET, ResNetShape
from raypro.core.encoders.transformer import TAPE_TRANSFORMER, sinusoids
from raypro.core.objectives.mlm import MLM
from raypro.core.reference.heads import loop_convolution, loop_layer_norm
from raypro.core.reference.recurrent import loop_mlstm, loop_stack
from raypro.experiment import Encoder
from tests.small import batch_of, random_sequences

Shape = LSTMShape | MultiplicativeLSTMShape | ResNetShape

TWO = LSTMShape(layers=2, units=4, embedding=3, dropout=0.0)
SHAPES: dict[str, Shape] = {
    "both ways": TWO,
    "tied": replace(TWO, tied=True),
    "forward": replace(TWO, directions="forward"),
    "multiplicative": MultiplicativeLSTMShape(units=5, embedding=3),
    "resnet": ResNetShape(layers=2, width=6, dropout=0.0),
    "wide resnet": ResNetShape(layers=1, width=4, kernel=5, dropout=0.0),
}


@pytest.fixture(params=SHAPES)
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    built = SHAPES[request.param].build().double().eval()
    with torch.no_grad():
        for parameter in built.parameters():  # no bias is zero, which padding would let through, and no scale is one
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def plain(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """The vectors [T, D] of the tokens [T] of one sequence, from loops."""
    x = encoder.embedding.weight[tokens]
    if isinstance(encoder.shape, MultiplicativeLSTMShape):
        return loop_mlstm(encoder.cell, x)
    if isinstance(encoder.shape, LSTMShape):
        ways = range(len(encoder.directions))
        return torch.cat([loop_stack(encoder.stacks[-1 if way else 0].layers, x, backward=bool(way)) for way in ways], dim=1)
    nothing = torch.zeros(encoder.width, dtype=x.dtype)
    x = normal(encoder.norm, x + sinusoids(len(x), encoder.width, x.device))
    for block in encoder.blocks:
        y = plain_gelu(normal(block.norm_first, loop_convolution(block.first.weight, nothing, x)))
        x = plain_gelu(x + normal(block.norm_second, loop_convolution(block.second.weight, nothing, y)))
    return x


def normal(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return torch.stack([loop_layer_norm(layer, vector) for vector in x])


def plain_gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def test_an_encoder_equals_plain_loops_with_its_gradients(encoder: nn.Module) -> None:
    tokens = batch_of("MKVLAX").tokens
    ours, loops = encoder(tokens)[0], plain(encoder, tokens[0])
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    wanted = torch.randn_like(ours)
    parameters = list(encoder.parameters())
    for mine, theirs in zip(torch.autograd.grad(ours, parameters, wanted), torch.autograd.grad(loops, parameters, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_sequence_has_the_same_vectors_alone_and_beside_longer_ones(encoder: nn.Module) -> None:
    sequences = random_sequences(4, 1, 20)
    batch = batch_of(*sequences).tokens
    together = encoder(batch)
    for row, sequence in enumerate(sequences):
        tokens, own = batch_of(sequence).tokens, len(sequence) + 2
        alone = encoder(tokens)
        torch.testing.assert_close(together[row, :own], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(encoder.summary(together, batch)[row], encoder.summary(alone, tokens)[0], rtol=0, atol=1e-12)
        assert not together[row, own:].any()
    assert (together[0, : len(sequences[0]) + 2] != 0).any(dim=1).all()


def test_one_hot_inputs_are_seen_as_tokens_are_and_carry_a_gradient(encoder: nn.Module) -> None:
    tokens = batch_of("MKVLAYTWWQX", "MKV").tokens
    inputs = nn.functional.one_hot(tokens, SIZE).double().requires_grad_()
    seen, expected = encoder(tokens, inputs), encoder(tokens)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(seen[0, 1:-1].square().sum(), inputs)
    assert (gradient[0, 1:-1].abs().sum(dim=-1) > 0).all()
    hidden = torch.where(tokens > SEP, MASK, tokens)  # the inputs decide, not the tokens whose place they take
    torch.testing.assert_close(encoder(hidden, inputs), expected, rtol=1e-12, atol=1e-12)


def test_a_batch_without_residues_has_a_summary_of_zero_and_finite_gradients(encoder: nn.Module) -> None:
    tokens = Batch.filler().tokens
    h = encoder(tokens)
    assert h.shape == (1, 2, encoder.width) and not encoder.summary(h, tokens).any()
    (encoder.summary(h, tokens).sum() + 0 * h.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mixed_precision_stays_close(shape: Shape) -> None:
    encoder, tokens = shape.build().eval(), batch_of(*random_sequences(3, 4, 9)).tokens
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(tokens)
    torch.testing.assert_close(rounded.float(), encoder(tokens), rtol=0, atol=0.1)
    rounded.float().sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_shape_is_read_back_as_it_was_written(shape: Shape) -> None:
    assert from_plain(Encoder, to_plain(shape)) == shape


def test_reading_from_the_end_starts_at_each_sequences_own() -> None:
    seen = batch_of("MKV", "M").tokens != PAD
    places = reversed_places(seen)
    assert places.tolist() == [[4, 3, 2, 1, 0], [2, 1, 0, 3, 4]]
    assert torch.equal(places.gather(1, places), torch.arange(5).expand(2, 5))


def test_directions_of_a_tied_lstm_mirror_each_other() -> None:
    encoder = replace(TWO, tied=True).build().double()
    tokens = batch_of("MKVLA").tokens
    forward, backward = encoder.directional(tokens)
    torch.testing.assert_close(encoder.directional(tokens.flip(1))[1].flip(1), forward, rtol=0, atol=1e-12)
    assert not torch.allclose(forward, backward)


@pytest.mark.parametrize("shape", [replace(TWO, dropout=0.5), ResNetShape(layers=1, width=6, dropout=0.5)], ids=str)
def test_dropout_is_for_training_alone(shape: Shape) -> None:
    encoder, tokens = shape.build(), batch_of("MKVLAYTW").tokens
    assert not torch.equal(encoder(tokens), encoder(tokens))
    assert torch.equal(encoder.eval()(tokens), encoder(tokens))


def test_recomputing_activations_changes_nothing() -> None:
    kept = ResNetShape(layers=2, width=6, dropout=0.0).build()
    again = replace(kept.shape, activation_checkpointing=True).build()
    again.load_state_dict(kept.state_dict())
    tokens = batch_of("MKVLAYTW", "MK").tokens
    for module in (kept, again):
        module(tokens).square().sum().backward()
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def size(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


def test_sizes_are_those_of_the_papers_tables() -> None:
    """What tape-proteins counts on top: an LSTM's pooling weighs its six states and has a dense layer, a ResNet's attends and has one."""
    lstm_pooling, resnet_pooling = 6 + 1 + 1024 * 1025, 512 + 1 + 512 * 513
    assert size(TAPE_TRANSFORMER.build) == pytest.approx(38e6, rel=0.01)
    assert size(TAPE_LSTM.build) + lstm_pooling == pytest.approx(44e6, rel=0.01)
    assert size(TAPE_RESNET.build) + resnet_pooling == pytest.approx(48e6, rel=0.01)
    assert size(lambda: MLM().build(TAPE_RESNET.build())) == pytest.approx(48e6, rel=0.01)
    assert size(UNIREP.build) == pytest.approx(18e6, rel=0.01)


def test_parameter_counts_by_hand() -> None:
    # An LSTM's layer: four gates, each with weights for the input and for the state and two biases.
    first, second = 4 * 1024 * (128 + 1024 + 2), 4 * 1024 * (1024 + 1024 + 2)
    assert size(TAPE_LSTM.build) == 30 * 128 + 2 * (first + 2 * second) == 43_044_608
    # Both directions of Bepler and Berger's have one set of weights.
    assert size(BEPLER.build) == 30 * 21 + 4 * 1024 * (21 + 1024 + 2) + second == 12_685_942
    # Five products of the input, five of the state, a length for each unit of those ten, one bias a gate.
    assert size(UNIREP.build) == 30 * 10 + 5 * 1900 * (10 + 1900) + 10 * 1900 + 4 * 1900 == 18_171_900
    # Of a block two convolutions without biases and two norms; one norm of the embedding.
    assert size(TAPE_RESNET.build) == 30 * 512 + 30 * 2 * (512 * 512 * 3 + 1024) + 1024 == 47_263_744


@pytest.mark.parametrize(
    ("shape", "field", "value"),
    [
        *[(TWO, *wrong) for wrong in (("layers", 0), ("units", 0), ("embedding", -1), ("dropout", 1.0))],
        *[(UNIREP, *wrong) for wrong in (("units", 0), ("embedding", 0))],
        *[(TAPE_RESNET, *wrong) for wrong in (("layers", 0), ("width", 7), ("width", 0), ("kernel", 4), ("dropout", -0.1))],
        (replace(TWO, directions="forward"), "tied", True),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(shape: Shape, field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"encoder\.{field}: "):
        replace(shape, **{field: value})
