"""CPCProt's encoder: the paper's sizes, plain loops, what stands at which residue, and its authors' weights."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from raypro.cli import main
from raypro.config import InputError
from raypro.core.alphabet import CLS, PAD, SEP
from raypro.core.encoders import cpcprot
from raypro.core.encoders.cpcprot import CPCPROT, GRU_LARGE, LSTM, ChannelNorm, CPCProtShape, cut
from raypro.core.gru import packed_gru
from raypro.core.imports import read_cpcprot
from raypro.core.reference.cpc import channel_norm, loop_vectors
from raypro.finetuning import initial_model
from raypro.presets import fine_tuning
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


class _Code:
    def __reduce__(self):
        return (print, ("executed",))


def published(encoder, prefix=""):
    """The weights under the names and in the shapes of the authors' public code."""
    kind = encoder.shape.recurrent
    for name, tensor in encoder.state_dict().items():
        parts = name.split(".")
        if parts[1] == "convolutions":
            name = f"enc.conv{int(parts[2]) + 1}.{parts[3]}"
        elif parts[1] == "norms":
            name, tensor = f"enc.norm{int(parts[2]) + 1}.{parts[3]}", tensor.view(1, -1, 1)
        elif parts[1] == "embedding":
            name = "enc.embedding.weight"
        else:
            name = f"autoregressor.{kind}.{parts[1]}"
        yield prefix + name, tensor


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", SHAPES)
def test_the_authors_weights_are_read_with_their_shape(name, prefix, tmp_path):
    encoder = SHAPES[name].build()
    torch.save(dict(published(encoder, prefix)), tmp_path / "best.ckpt")
    shape, weights = read_cpcprot(tmp_path / "best.ckpt")
    assert shape == SHAPES[name]
    again = shape.build()
    again.load_state_dict(weights)
    tokens = batch_of(*random_sequences(3, 10, 30)).tokens
    assert torch.equal(again(tokens), encoder(tokens))


GRU_OF_THE_PUBLIC_CODE = {
    "enc.embedding.weight": (30, 32),
    "enc.conv1.weight": (64, 32, 4),
    "enc.conv1.bias": (64,),
    "enc.norm1.weight": (1, 64, 1),
    "enc.norm1.bias": (1, 64, 1),
    "enc.conv2.weight": (64, 64, 6),
    "enc.conv2.bias": (64,),
    "enc.norm2.weight": (1, 64, 1),
    "enc.norm2.bias": (1, 64, 1),
    "enc.conv3.weight": (512, 64, 3),
    "enc.conv3.bias": (512,),
    "enc.norm3.weight": (1, 512, 1),
    "enc.norm3.bias": (1, 512, 1),
    "autoregressor.gru.weight_ih_l0": (1536, 512),
    "autoregressor.gru.weight_hh_l0": (1536, 512),
    "autoregressor.gru.bias_ih_l0": (1536,),
    "autoregressor.gru.bias_hh_l0": (1536,),
}
"""All that ``PatchedConvEncoder`` and ``GRUAutoregressor`` of the authors' src/model hold, with model_configs/default.json."""
LSTM_OF_THE_PUBLIC_CODE = {
    "enc.embedding.weight": (30, 64),
    "enc.conv1.weight": (128, 64, 4),
    "enc.conv1.bias": (128,),
    "enc.norm1.weight": (1, 128, 1),
    "enc.norm1.bias": (1, 128, 1),
    "enc.conv2.weight": (256, 128, 4),
    "enc.conv2.bias": (256,),
    "enc.norm2.weight": (1, 256, 1),
    "enc.norm2.bias": (1, 256, 1),
    "enc.conv3.weight": (512, 256, 3),
    "enc.conv3.bias": (512,),
    "enc.norm3.weight": (1, 512, 1),
    "enc.norm3.bias": (1, 512, 1),
    "enc.conv4.weight": (8, 512, 3),
    "enc.conv4.bias": (8,),
    "enc.norm4.weight": (1, 8, 1),
    "enc.norm4.bias": (1, 8, 1),
    "autoregressor.lstm.weight_ih_l0": (32, 8),
    "autoregressor.lstm.weight_hh_l0": (32, 8),
    "autoregressor.lstm.bias_ih_l0": (32,),
    "autoregressor.lstm.bias_hh_l0": (32,),
    "autoregressor.lstm.weight_ih_l1": (32, 8),
    "autoregressor.lstm.weight_hh_l1": (32, 8),
    "autoregressor.lstm.bias_ih_l1": (32,),
    "autoregressor.lstm.bias_hh_l1": (32,),
}
"""``PatchedConvEncoderLarge`` and ``LSTMAutoregressor`` with two layers, of 8 units in the place of 2,048."""


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [(CPCPROT, GRU_OF_THE_PUBLIC_CODE), (replace(LSTM, filters=(128, 256, 512, 8)), LSTM_OF_THE_PUBLIC_CODE)],
    ids=["gru", "lstm"],
)
def test_a_file_of_the_public_code_is_read_whole(shape, sizes, tmp_path):
    generator = torch.Generator().manual_seed(0)
    saved = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    torch.save(saved, tmp_path / "best.ckpt")
    found, weights = read_cpcprot(tmp_path / "best.ckpt")
    encoder = found.build()
    encoder.load_state_dict(weights)
    again = dict(published(encoder))
    assert found == shape and set(again) == set(saved)
    assert all(torch.equal(again[name], tensor) for name, tensor in saved.items())


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "cpc.head": torch.zeros(1)}, "'cpc.head' is no weight of CPCProt"),
        (lambda w: without(w, "enc.conv2.bias"), r"convolutions.1.bias should be \(8,\), found nothing"),
        (lambda w: without(w, "enc.embedding.weight"), "not the weights of a CPCProt"),
        (lambda w: {**w, "enc.embedding.weight": torch.zeros(25, 4)}, "25 tokens"),
        (lambda w: {**w, "enc.norm1.weight": torch.zeros(1, 5, 1)}, r"norms.0.weight should be \(6,\), found \(5,\)"),
        (lambda w: {}, "not the weights of a CPCProt"),
        (lambda w: [1, 2], "no state_dict"),
        (lambda w: {"a": _Code()}, "damaged, or holds more than tensors"),
    ],
)
def test_other_files_are_refused_by_name(change, message, tmp_path, capsys):
    path = tmp_path / "best.ckpt"
    torch.save(change(dict(published(SMALL.build()))), path)
    with pytest.raises(InputError, match=message) as refused:
        read_cpcprot(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_cpcprot(tmp_path / "none.ckpt")
    for content in (b"", b"no torch file", pickle.dumps(_Code(), protocol=2)):
        (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises(InputError, match="bad.ckpt: damaged"):
            read_cpcprot(tmp_path / "bad.ckpt")


def test_imported_weights_are_a_checkpoint_from_which_fine_tuning_starts(tmp_path, capsys):
    encoder = CPCPROT.build()
    torch.save(dict(published(encoder)), tmp_path / "best.ckpt")
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "import", str(tmp_path / "best.ckpt"), "--out", str(tmp_path / "cpcprot"), "--from", "cpcprot"])
    assert ended.value.code == 0
    experiment = fine_tuning("stability", str(tmp_path / "cpcprot"), "data")
    assert experiment.encoder == CPCPROT
    model = initial_model(experiment)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight)
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "import", str(tmp_path / "best.ckpt"), "--out", str(tmp_path / "cpcprot")])
    assert ended.value.code == 2 and "exists" in capsys.readouterr().err
