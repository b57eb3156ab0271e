"""The small encoders: a convolutional network and one-hot residues."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raypro.config import InputError
from raypro.core.alphabet import MASK, SEP, SIZE
from raypro.core.batch import Batch
from raypro.core.encoders.convolution import Convolution, ConvolutionShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.reference.heads import loop_convolution, loop_layer_norm
from tests.small import TINY, batch_of, random_sequences

SMALL = ConvolutionShape(layers=2, width=6, kernel=3, dropout=0.0)
PLAIN = replace(SMALL, residues="onehot", residual=False, norm="none", activation="relu")
SHAPES = [SMALL, replace(SMALL, residual=False), replace(SMALL, norm="none"), replace(SMALL, kernel=5, dilation_growth=2, layers=3), PLAIN]
Shape = ConvolutionShape | OneHotShape | TransformerShape


def plain(encoder: Convolution, tokens: Tensor) -> Tensor:
    """The encoder's vectors [L, D] of the residues of one sequence, from loops over residues and filters."""

    def norm(layer: torch.nn.Module, vector: Tensor) -> Tensor:
        return loop_layer_norm(layer, vector) if isinstance(layer, torch.nn.LayerNorm) else vector

    x = encoder.embedding.weight[tokens]
    for depth, block in enumerate(encoder.blocks):
        normal = torch.stack([norm(block.norm, vector) for vector in x])
        y = loop_convolution(block.convolution.weight, block.convolution.bias, normal, encoder.shape.dilation_growth**depth)
        y = y * (1 + torch.erf(y / 2**0.5)) / 2 if encoder.shape.activation == "gelu" else y * (y > 0)
        x = x + y if encoder.shape.residual else y
    return torch.stack([norm(encoder.norm, vector) for vector in x])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolutions_equal_plain_loops(shape: ConvolutionShape) -> None:
    encoder = shape.build().double()
    tokens = batch_of("MKVLAYTWWQX").tokens
    ours, loops = encoder(tokens)[0, 1:-1], plain(encoder, tokens[0, 1:-1])
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    wanted = torch.randn_like(ours)
    parameters = list(encoder.parameters())
    for mine, theirs in zip(torch.autograd.grad(ours, parameters, wanted), torch.autograd.grad(loops, parameters, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, ConvolutionShape(), OneHotShape()], ids=str)
def test_a_sequence_has_the_same_vectors_alone_and_beside_longer_ones(shape: Shape, dtype: torch.dtype, tolerance: float) -> None:
    encoder = shape.build().to(dtype).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases that are not zero, which padding would let through
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    sequences = random_sequences(4, 1, 30)
    together = encoder(batch_of(*sequences).tokens)
    for row, sequence in enumerate(sequences):
        tokens = batch_of(sequence).tokens
        alone = encoder(tokens)
        scale = max(1.0, float(alone.detach().abs().max()))
        torch.testing.assert_close(together[row, : len(sequence) + 2], alone[0], rtol=0, atol=tolerance * scale)
        torch.testing.assert_close(
            encoder.summary(together, batch_of(*sequences).tokens)[row], encoder.summary(alone, tokens)[0], rtol=0, atol=tolerance * scale
        )


@pytest.mark.parametrize("shape", [SMALL, PLAIN, OneHotShape()], ids=str)
def test_control_tokens_and_padding_are_zero(shape: Shape) -> None:
    encoder = shape.build()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)  # biases too
    vectors = encoder(batch_of("MKV", "MKVLA").tokens)
    assert not vectors[:, 0].any() and not vectors[0, 4:].any() and not vectors[1, 6].any()
    assert vectors[0, 1:4].any(dim=1).all()


@pytest.mark.parametrize(("growth", "reach"), [(1, 3), (2, 7)])
def test_a_residue_sees_as_far_as_kernels_and_dilations_reach(growth: int, reach: int) -> None:
    encoder = ConvolutionShape(layers=3, width=4, kernel=3, dilation_growth=growth, dropout=0.0).build().eval()
    before, after = encoder(batch_of("A" * 31, "A" * 15 + "W" + "A" * 15).tokens)[:, 1:-1]
    changed = (before - after).abs().amax(dim=1) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(15 - reach, 16 + reach))


def test_parameter_count_by_hand() -> None:
    # 30 tokens x 256; three layers of 256 x 256 x 5 weights and 256 biases, with a normalisation of 2 x 256 each; a last one.
    assert sum(p.numel() for p in ConvolutionShape().build().parameters()) == 7680 + 3 * (327680 + 256 + 512) + 512


def test_dropout_is_for_training_alone() -> None:
    encoder = replace(SMALL, dropout=0.5).build()
    tokens = batch_of("MKVLAYTW").tokens
    assert not torch.equal(encoder(tokens), encoder(tokens))
    assert torch.equal(encoder.eval()(tokens), encoder(tokens))


def test_one_hot_has_a_place_for_each_amino_acid_and_one_for_the_rest() -> None:
    encoder = OneHotShape().build()
    vectors = encoder(torch.tensor([[2, *batch_of("ACYWXBZUO").tokens[0, 1:-1].tolist(), 1, 4, 3, 0]]))[0]
    assert vectors.sum(dim=1).tolist() == [0.0] + [1.0] * 11 + [0.0, 0.0]
    assert vectors.argmax(dim=1)[1:12].tolist() == [0, 1, 19, 18] + [20] * 7
    assert encoder.width == 21 == vectors.shape[1]
    assert not list(encoder.parameters()) and not encoder.state_dict()


def test_summaries_by_hand() -> None:
    tokens = batch_of("AAC", "WAYCA").tokens
    one_hot = OneHotShape().build()
    composition = one_hot.summary(one_hot(tokens), tokens)
    assert composition[0, :2].tolist() == pytest.approx([2 / 3, 1 / 3]) and composition[1].sum() == pytest.approx(1)
    h = torch.arange(2 * 7 * 2.0).view(2, 7, 2)
    assert SMALL.build().summary(h, tokens).tolist() == [[4, 5], [20, 21]]  # the means of rows 1-3, and of rows 1-5
    assert TINY.build().summary(h, tokens).tolist() == [[0, 1], [14, 15]]  # the rows of CLS


@pytest.mark.parametrize("shape", [SMALL, OneHotShape()], ids=str)
def test_a_batch_without_residues_gives_zeros_and_finite_gradients(shape: Shape) -> None:
    encoder, tokens = shape.build(), Batch.filler().tokens
    h = encoder(tokens)
    summary = encoder.summary(h, tokens)
    assert h.shape == (1, 2, encoder.width) and not h.any() and not summary.any()
    if list(encoder.parameters()):
        summary.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("width", 0), ("kernel", 4), ("kernel", -1), ("dilation_growth", 0), ("dropout", 1.0), ("dropout", -0.1)],
)
def test_a_shape_that_cannot_be_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"encoder\.{field}: "):
        replace(SMALL, **{field: value})


@pytest.mark.parametrize("shape", [TINY, replace(TINY, norm="post", positions="rotary"), SMALL, PLAIN], ids=str)
def test_one_hot_inputs_are_seen_as_tokens_are_and_carry_a_gradient(shape: TransformerShape | ConvolutionShape) -> None:
    encoder = shape.build().double().eval()
    tokens = batch_of("MKVLAYTWWQX", "MKV").tokens
    inputs = torch.nn.functional.one_hot(tokens, SIZE).double().requires_grad_()
    seen, expected = encoder(tokens, inputs), encoder(tokens)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(seen[0, 1:-1].square().sum(), inputs)
    assert (gradient[0, 1:-1].abs().sum(dim=-1) > 0).all()
    blank = torch.full_like(tokens[:, 1:-1], MASK)  # the inputs decide, not the tokens whose place they take
    hidden = torch.cat([tokens[:, :1], torch.where(tokens[:, 1:-1] > SEP, blank, tokens[:, 1:-1]), tokens[:, -1:]], dim=1)
    torch.testing.assert_close(encoder(hidden, inputs), expected, rtol=1e-12, atol=1e-12)
