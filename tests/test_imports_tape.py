"""TAPE's own weights read as ours: the same vectors as TAPE's architectures written plainly, under the names that its files have."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raypro.cli import main
from raypro.config import InputError
from raypro.core.encoders.lstm import LSTMShape
from raypro.core.encoders.mlstm import MultiplicativeLSTMShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.imports_tape import read_tape
from raypro.encoder import load_encoder
from raypro.validation import load_model
from tests.small import batch_of, random_sequences

Weights = dict[str, Tensor]
SEQUENCES = ["MKVLAYTWBZXUO", "ACDEFGHIKLMNPQRSTVWY", "MK"]
# TAPE's tables of tokens, from its public code; the IUPAC one is ours too.
IUPAC = {letter: token for token, letter in enumerate("ABCDEFGHIKLMNOPQRSTUVWXYZ", start=5)}
UNIREP = {**{letter: token for token, letter in enumerate("MRHKDESTNQCUGPAVIFYWLOX", start=1)}, "Z": 23, "B": 23}


def drawn(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Weights of given shapes, neither small nor centred, so that every one of them shows."""
    return {name: 0.4 * torch.randn(shape) + 0.1 for name, shape in shapes.items()}


def transformer(layers: int = 2, width: int = 128, hidden: int = 96, positions: int = 30) -> Weights:
    """TAPE's Transformer with a language-modelling head, as ``bert-base`` is saved."""
    norm = {"weight": (width,), "bias": (width,)}
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30, width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (1, width),
        **{f"embeddings.LayerNorm.{part}": size for part, size in norm.items()},
        "pooler.dense.weight": (width, width),
        "pooler.dense.bias": (width,),
    }
    for layer in range(layers):
        start = f"encoder.layer.{layer}."
        linears = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (width, width), "intermediate.dense": (hidden, width), "output.dense": (width, hidden)}
        for name, size in linears.items():
            shapes |= {f"{start}{name}.weight": size, f"{start}{name}.bias": size[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{start}{name}.{part}": size for part, size in norm.items()}
    weights = {f"bert.{name}": torch.randn(size) * (size[-1] ** -0.5 if len(size) > 1 else 0.3) for name, size in shapes.items()}
    return {**weights, "mlm.transform.dense.weight": torch.zeros(width, width), "mlm.decoder.weight": torch.zeros(30, width)}


def plain_transformer(weights: Weights, tokens: list[int], heads: int) -> Tensor:
    """The vectors [T, D] of one sequence: Devlin et al. 2019 with TAPE's choices, a head and a residue at a time, in float64."""
    w = {name.removeprefix("bert."): tensor.double() for name, tensor in weights.items()}

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return w[f"{name}.weight"] * centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12) + w[f"{name}.bias"]

    embedded = [w["embeddings.word_embeddings.weight"][token] for token in tokens]
    places, kind = w["embeddings.position_embeddings.weight"], w["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", torch.stack([vector + places[at] + kind for at, vector in enumerate(embedded)]))
    size = x.shape[1] // heads
    for layer in range(len({name.split(".")[2] for name in w if name.startswith("encoder.layer.")})):
        start = f"encoder.layer.{layer}."
        q, k, v = (dense(f"{start}attention.self.{part}", x) for part in ("query", "key", "value"))
        mixed = torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for at in range(len(tokens)):
                shares = torch.softmax(k[:, part] @ q[at, part] / math.sqrt(size), dim=0)
                mixed[at, part] = shares @ v[:, part]
        x = norm(f"{start}attention.output.LayerNorm", dense(f"{start}attention.output.dense", mixed) + x)
        inner = dense(f"{start}intermediate.dense", x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = norm(f"{start}output.LayerNorm", dense(f"{start}output.dense", inner) + x)
    return x


def lstm(layers: int = 2, units: int = 5, embedding: int = 3) -> Weights:
    """TAPE's LSTM with a language-modelling head."""
    shapes: dict[str, tuple[int, ...]] = {"lstm.embed_matrix.weight": (30, embedding), "lstm.pooler.dense.bias": (units,)}
    for way in ("forward", "reverse"):
        for layer in range(layers):
            start = f"lstm.encoder.{way}_lstm.{layer}.lstm."
            shapes |= {f"{start}weight_ih_l0": (4 * units, units if layer else embedding), f"{start}weight_hh_l0": (4 * units, units)}
            shapes |= {f"{start}bias_ih_l0": (4 * units,), f"{start}bias_hh_l0": (4 * units,)}
    return {**drawn(shapes), "feedforward.weight": torch.zeros(30, units)}


def plain_lstm(weights: Weights, tokens: list[int]) -> Tensor:
    """The vectors [T, 2 H] of one sequence: each direction's stack on its own, step by step, in float64."""
    w = {name.removeprefix("lstm."): tensor.double() for name, tensor in weights.items()}
    layers = len({name.split(".")[2] for name in w if name.startswith("encoder.forward_lstm.")})
    ways = []
    for way in ("forward", "reverse"):
        steps = [w["embed_matrix.weight"][token] for token in (tokens if way == "forward" else tokens[::-1])]
        for layer in range(layers):
            x_w, h_w, x_b, h_b = (w[f"encoder.{way}_lstm.{layer}.lstm.{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            h = c = torch.zeros(h_w.shape[1], dtype=torch.float64)
            states = []
            for step in steps:
                i, f, g, o = (x_w @ step + x_b + h_w @ h + h_b).chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                states.append(h)
            steps = states
        ways.append(torch.stack(steps if way == "forward" else steps[::-1]))
    return torch.cat(ways, dim=1)


def unirep(units: int = 6, embedding: int = 4) -> Weights:
    """UniRep as ``babbler-1900`` is saved."""
    shapes: dict[str, tuple[int, ...]] = {"unirep.embed_matrix.weight": (26, embedding)}
    for name, rows, columns in (("wmx", 1, embedding), ("wmh", 1, units), ("wx", 4, embedding), ("wh", 4, units)):
        start = f"unirep.encoder.mlstm_cell.{name}."
        shapes |= {f"{start}weight_g": (rows * units, 1), f"{start}weight_v": (rows * units, columns)}
    return {**drawn(shapes | {"unirep.encoder.mlstm_cell.wh.bias": (4 * units,)}), "feedforward.weight": torch.zeros(25, units)}


def plain_unirep(weights: Weights, tokens: list[int]) -> Tensor:
    """The states [T, H] of one sequence, step by step, in float64."""
    w = {name.removeprefix("unirep.encoder.mlstm_cell."): tensor.double() for name, tensor in weights.items()}
    directions = {name: w[f"{name}.weight_v"] for name in ("wmx", "wmh", "wx", "wh")}
    wmx, wmh, wx, wh = (w[f"{name}.weight_g"] * v / v.norm(dim=1, keepdim=True) for name, v in directions.items())
    h = c = torch.zeros(len(wmh), dtype=torch.float64)
    states = []
    for token in tokens:
        x = w["unirep.embed_matrix.weight"][token]
        i, f, o, u = (wx @ x + wh @ ((wmx @ x) * (wmh @ h)) + w["wh.bias"]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * u.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states)


def iupac(sequence: str) -> list[int]:
    return [2, *(IUPAC[letter] for letter in sequence), 3]


def unirep_tokens(sequence: str) -> list[int]:
    return [24, *(UNIREP[letter] for letter in sequence), 25]


CASES: dict[str, tuple[Callable[[], Weights], Any, Callable[[Weights, str], Tensor]]] = {
    "transformer": (
        transformer,
        TransformerShape(2, 128, 2, 96, positions="learned", longest=28, norm="post", norm_epsilon=1e-12),
        lambda w, s: plain_transformer(w, iupac(s), heads=2),
    ),
    "lstm": (lstm, LSTMShape(layers=2, units=5, embedding=3), lambda w, s: plain_lstm(w, iupac(s))),
    "unirep": (unirep, MultiplicativeLSTMShape(units=6, embedding=4), lambda w, s: plain_unirep(w, unirep_tokens(s))),
}


def saved(weights: Any, folder: Path) -> Path:
    torch.save(weights, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("case", CASES)
def test_imported_weights_give_what_the_published_architecture_gives(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, expected_shape, plain = CASES[case]
    weights = make()
    shape, ours = read_tape(saved(weights, tmp_path))
    assert shape == expected_shape
    encoder = shape.build().eval()
    encoder.load_state_dict(ours)
    together = encoder(batch_of(*SEQUENCES).tokens)
    for row, sequence in enumerate(SEQUENCES):
        expected = plain(weights, sequence)
        assert expected.std() > 0.05
        torch.testing.assert_close(together[row, : len(sequence) + 2].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_transformer_is_plain_bert_of_another_library(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    weights = transformer()
    shapes = {"vocab_size": 30, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = transformers.BertConfig(**shapes, max_position_embeddings=30, type_vocab_size=1, layer_norm_eps=1e-12)
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    base = {name.removeprefix("bert."): w for name, w in weights.items() if name.startswith("bert.") and "pooler" not in name}
    bert.load_state_dict(base)
    shape, ours = read_tape(saved(weights, tmp_path))
    encoder = shape.build().eval()
    encoder.load_state_dict(ours)
    tokens = batch_of(*random_sequences(3, 5, 25)).tokens
    seen = tokens != 0
    with torch.no_grad():
        expected = bert(tokens, attention_mask=seen.long()).last_hidden_state
    torch.testing.assert_close(encoder(tokens)[seen], expected[seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [lambda n: f"module.{n}", lambda n: n.removeprefix("bert.")], ids=["several GPUs", "base model"])
def test_names_may_have_a_prefix_or_none(change: Callable[[str], str], tmp_path: Path) -> None:
    weights = transformer(layers=1)
    shape, ours = read_tape(saved({change(name): tensor for name, tensor in weights.items()}, tmp_path))
    again, same = read_tape(saved(weights, tmp_path))
    assert shape == again and ours.keys() == same.keys() and all(torch.equal(ours[name], same[name]) for name in ours)


def test_sizes_of_the_published_models() -> None:
    def count(shape: Any) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in shape.build().parameters())

    published = TransformerShape(positions="learned", longest=8190, norm="post", norm_epsilon=1e-12)
    assert count(published) == pytest.approx(91.4e6, rel=0.001)  # base's 85 M and 8,192 positions of 768
    assert count(published) - count(replace(published, positions="sinusoidal", longest=None)) == 8192 * 768


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "bert.extra.weight": torch.zeros(1)}, "'extra.weight' is no weight of"),
        (lambda w: {n: t for n, t in w.items() if "layer.1.output.dense.bias" not in n}, "no 'encoder.layer.1.output.dense.bias'"),
        (lambda w: {**w, "bert.embeddings.word_embeddings.weight": torch.zeros(25, 128)}, r"embedding.weight should be \(30, 128\)"),
        (lambda w: {**w, "bert.embeddings.word_embeddings.weight": torch.zeros(30, 100)}, "width 100 is no multiple of the 64"),
        (lambda w: {**w, "bert.embeddings.position_embeddings.weight": torch.zeros(30, 64)}, "not the weights of"),
        (lambda w: {**w, "bert.encoder.layer.last.x": torch.zeros(1)}, "not the weights of"),
        (lambda w: {**unirep(), "unirep.embed_matrix.weight": torch.zeros(30, 4)}, "30 tokens, where UniRep's alphabet has 26"),
        (lambda w: {"resnet.encoder.layer.0.conv1.weight": torch.zeros(4, 4, 3)}, "positions depend on the other sequences"),
        (lambda w: {}, "none of their first layers"),
        (lambda w: {"epoch": 3}, "no state_dict"),
    ],
)
def test_other_files_are_refused_by_name(change: Callable[[Weights], Any], message: str, tmp_path: Path) -> None:
    path = saved(change(transformer()), tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        read_tape(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


def test_a_file_that_holds_code_is_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.x": _Code()}, protocol=2))
    with pytest.raises(InputError, match="damaged, or holds more than tensors"):
        read_tape(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="damaged, or holds more than tensors"):
        read_tape(saved({"bert.x": _Code()}, tmp_path))
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(InputError, match="no such file"):
        read_tape(tmp_path / "none.bin")


@pytest.mark.parametrize("case", CASES)
def test_imported_weights_are_a_checkpoint_that_embeds(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    make, _, plain = CASES[case]
    weights = make()
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "import", str(saved(weights, tmp_path)), "--from", "tape", "--out", str(tmp_path / "tape")])
    assert ended.value.code == 0 and "tape encoder" in capsys.readouterr().out
    loaded = load_encoder(tmp_path / "tape")
    for sequence, vectors in zip(SEQUENCES, loaded.embed_residues(SEQUENCES), strict=True):
        torch.testing.assert_close(torch.from_numpy(vectors).double(), plain(weights, sequence)[1:-1], rtol=1e-5, atol=1e-5)
    if case == "transformer":
        with pytest.raises(InputError, match="longer than"):
            loaded.embed(["M" * 29])
    with pytest.raises(InputError, match="an encoder alone, without a head to validate"):
        load_model(tmp_path / "tape")
