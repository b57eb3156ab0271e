"""CPCProt's encoder: the paper's sizes, plain loops, and what stands at which residue."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from raypro.config import InputError
from raypro.core.alphabet import CLS, PAD, SEP
from raypro.core.encoders import cpcprot
from raypro.core.encoders.cpcprot import CPCPROT, GRU_LARGE, LSTM, ChannelNorm, CPCProtShape, cut
from raypro.core.gru import packed_gru
from raypro.core.reference.cpc import channel_norm, loop_vectors
from tests.small import batch_of, random_sequences

SMALL = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4))  # patches of 6
SHAPES = {
    "gru": SMALL,
    "two layers": replace(SMALL, recurrent_layers=2),
    "lstm": replace(SMALL, recurrent="lstm", recurrent_layers=2),
    "one convolution": replace(SMALL, filters=(8,), kernels=(6,)),
}


@pytest.fixture(params=SHAPES)
def encoder(request):
    return SHAPES[request.param].build().double().eval()


@pytest.mark.parametrize(("shape", "millions"), [(CPCPROT, 1.7), (GRU_LARGE, 8.4), (LSTM, 71)])
def test_parameter_counts_of_the_paper(shape, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in shape.build().parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
    assert shape.patch_length == 11


def test_vectors_and_gradients_equal_plain_loops(encoder):
    tokens = batch_of(*random_sequences(5, 3, 60)).tokens
    z, c, whole = encoder.vectors(tokens)
    plain_z, plain_c = loop_vectors(encoder, cut(tokens, 6).flatten(1), 6)
    torch.testing.assert_close(z, plain_z, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(c, plain_c, rtol=1e-10, atol=1e-12)
    assert whole.tolist() == [len(s) // 6 for s in random_sequences(5, 3, 60)]
    weight = torch.randn(c.shape, dtype=c.dtype)
    ours, plain = (torch.autograd.grad((x * weight).sum(), list(encoder.parameters())) for x in (c, plain_c))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sizes", [(1,), (3, 3, 3), (5, 4, 4, 1)], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_packed_gru_is_torchs(sizes, layers):
    gru = nn.GRU(5, 5, layers).double()
    x = torch.randn(sum(sizes), 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = packed_gru(gru, x, sizes), gru(nn.utils.rnn.PackedSequence(x, torch.tensor(sizes)))[0].data
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weight).sum(), [x, *gru.parameters()]) for y in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_the_packed_gru_has_the_gradient_of_finite_differences():
    gru = nn.GRU(3, 3).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: packed_gru(gru, x, (3, 2, 1)), (x,))


def test_bf16_runs_the_recurrence_in_the_precision_of_its_weights():
    encoder = SMALL.build()
    tokens = batch_of("MKVLAYTWMKVLAYTW").tokens
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(tokens)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, encoder(tokens), rtol=0.05, atol=0.02)


def test_channel_norm_is_the_formula_with_the_unbiased_variance():
    norm = ChannelNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.tensor([[1.0, 2.0, 6.0], [1e-3, 2e-3, 3e-3]], dtype=torch.float64)  # the second is where eps matters
    plain = channel_norm(norm.weight, norm.bias, x[:, :, None])[:, :, 0]
    torch.testing.assert_close(norm(x), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(norm(x)[0, 2], 3 / (7 + 1e-5) ** 0.5 * norm.weight[2] + norm.bias[2])  # mean 3, variance 14 / 2


def test_a_sequence_has_the_same_vectors_alone_and_beside_longer_ones(encoder):
    sequences = random_sequences(6, 1, 60)
    together = encoder(batch_of(*sequences).tokens)
    for row, sequence in enumerate(sequences):
        alone = encoder(batch_of(sequence).tokens)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-10, atol=1e-12)
        assert not together[row, len(sequence) + 1 :].any()


def test_residues_have_the_context_of_their_patch_and_a_remainder_that_of_the_last(encoder):
    tokens = batch_of("ACDEFGHIKLMNPQ", "ACDEF").tokens  # two patches and two residues; no patch
    h = encoder(tokens)
    _, c, whole = encoder.vectors(tokens)
    assert whole.tolist() == [2, 0]
    assert torch.equal(h[0, 1:7], c[0, :1].expand(6, -1))
    assert torch.equal(h[0, 7:15], c[0, 1:2].expand(8, -1))
    assert not h[0, [0, 15]].any() and not h[1].any()
    assert torch.equal(encoder.summary(h, tokens), torch.stack([c[0, 1], torch.zeros_like(c[0, 1])]))


def test_a_context_knows_nothing_of_later_patches(encoder):
    one, other = (encoder(batch_of(s).tokens) for s in ("ACDEFG" * 3, "ACDEFG" * 2 + "WWWWWW"))
    assert torch.equal(one[0, :13], other[0, :13])
    assert not torch.equal(one[0, 13:19], other[0, 13:19])


def test_a_filler_gives_zeros_that_are_connected(encoder):
    h = encoder(torch.tensor([[CLS, SEP]]))
    h.sum().backward()
    assert h.shape == (1, 2, 8) and not h.any()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_patches_are_of_residues_alone_and_padded_to_the_longest():
    tokens = batch_of("ACDEFGHI", "ACD").tokens
    assert cut(tokens, 3).tolist() == [[tokens[0, 1:4].tolist(), tokens[0, 4:7].tolist()], [tokens[1, 1:4].tolist(), [PAD] * 3]]
    assert cut(tokens, 3, max_length=5).shape == (2, 1, 3)
    assert cut(tokens, 11).tolist() == [
        [[*tokens[i, 1:9].tolist(), PAD, PAD, PAD]] if i == 0 else [[*tokens[1, 1:4].tolist(), *[PAD] * 8]] for i in (0, 1)
    ]


def test_activations_that_are_computed_again_change_no_gradient(monkeypatch):
    encoder, tokens = SMALL.build(), batch_of(*random_sequences(4, 20, 60)).tokens
    gradients = []
    for kept in (10_000, 5):
        monkeypatch.setattr(cpcprot, "KEPT", kept)
        encoder.zero_grad()
        encoder(tokens).pow(2).sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for plainly, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plainly, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": (6,)}, "encoder.filters: 1 for 2 kernels"),
        ({"kernels": (3, 0)}, "encoder.kernels: 0"),
        ({"embedding": 0}, "encoder.embedding: 0"),
        ({"recurrent_layers": 0}, "encoder.recurrent_layers: 0"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)
