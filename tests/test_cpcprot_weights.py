"""The weights of CPCProt's authors: read with their shape, whole, and nothing else."""

import pickle
from dataclasses import replace

import pytest
import torch

from raypro.cli import main
from raypro.config import InputError
from raypro.core.encoders.cpcprot import CPCPROT, LSTM
from raypro.core.imports import read_cpcprot
from raypro.finetuning import initial_model
from raypro.presets import fine_tuning
from tests.small import batch_of, random_sequences
from tests.test_cpcprot_encoder import SHAPES, SMALL


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
