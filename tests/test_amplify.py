"""AMPLIFY: its published forward, written as loops over tokens and pairs of dimensions, gives what raypro reads from its authors' files."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from raypro.config import InputError
from raypro.core.alphabet import LETTERS
from raypro.core.encoders.amplify import AmplifyShape
from raypro.encoder import load_encoder
from raypro.encoder_import import import_encoder
from raypro.hugging_face import read_hugging_face
from tests.small import batch_of

pytest.importorskip("transformers")

TOKENS = "<pad> <unk> <mask> <bos> <eos> | X B O U Z J L A G V S E R T I D P K Q N F Y M H W C".split()
"""The published vocabulary, in its order."""
CONFIG = {
    **{"model_type": "AMPLIFY", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20},
    **{"norm_eps": 1e-5, "rms_norm": True, "hidden_act": "swiglu", "vocab_size": len(TOKENS), "pad_token_id": 0, "max_length": 64},
    **{"layer_norm_after_embedding": False, "layer_norm_before_last_layer": True, "ffn_bias": False, "att_bias": False},
}
PROTEINS = ["MKVLAAGIVXWC", "ACDEFGHIKLMNPQRSTVWYBZUO", "M"]
Weights = dict[str, Tensor]


def published(hidden: int = 16) -> Weights:
    """Return weights under the names of the authors' file; 16 is two thirds of 20, rounded up to a multiple of 8."""
    generator, d = torch.Generator().manual_seed(0), CONFIG["hidden_size"]
    sizes = {
        "encoder.weight": (len(TOKENS), d),
        "layer_norm_2.weight": (d,),
        "decoder.weight": (len(TOKENS), d),
        "decoder.bias": (len(TOKENS),),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        block = {**dict.fromkeys(("q", "k", "v", "wo"), (d, d)), "ffn.w12": (2 * hidden, d), "ffn.w3": (d, hidden)}
        block |= dict.fromkeys(("attention_norm", "ffn_norm"), (d,))
        sizes |= {f"transformer_encoder.{layer}.{name}.weight": size for name, size in block.items()}
    return {name: torch.randn(size, generator=generator) * 0.6 for name, size in sizes.items()}


def save(folder: Path, weights: Weights | None = None, **config: Any) -> Path:
    """Write a folder as the hub has it, with code beside the weights that makes a file where it is run."""
    from safetensors.torch import save_file
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    letters = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, "<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 4)])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=letters, **names).save_pretrained(folder)
    (folder / "amplify.py").write_text(f"import os\nos.mkdir({str(folder / 'ran')!r})\nclass AMPLIFY: pass\nclass AMPLIFYConfig: pass\n")
    asks = {"AutoConfig": "amplify.AMPLIFYConfig", "AutoModel": "amplify.AMPLIFY"}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": asks, **config}))
    save_file(published() if weights is None else weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def published_forward(weights: Weights, sequence: str) -> Tensor:
    """Return [L, D] float64 of one sequence: neighbouring dimensions of queries and keys are complex numbers that turn along it."""
    w = {name: weight.double() for name, weight in weights.items()}
    x = w["encoder.weight"][[TOKENS.index(token) for token in ("<bos>", *sequence, "<eos>")]]
    heads, length = CONFIG["num_attention_heads"], len(x)
    size = x.shape[1] // heads

    def normalised(rows: Tensor, name: str) -> Tensor:
        return torch.stack([row / (sum(e * e for e in row) / len(row) + CONFIG["norm_eps"]).sqrt() * w[name] for row in rows])

    def turned(row: Tensor, position: int) -> Tensor:
        out = row.clone()
        for i in range(0, size, 2):
            angle = position / 10_000 ** (i / size)
            number = complex(row[i], row[i + 1]) * complex(math.cos(angle), math.sin(angle))
            out[i], out[i + 1] = number.real, number.imag
        return out

    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"transformer_encoder.{layer}"
        y = normalised(x, f"{name}.attention_norm.weight")
        mixed = torch.zeros_like(x)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            q, k, v = (y @ w[f"{name}.{part}.weight"][own].T for part in "qkv")
            q, k = (torch.stack([turned(row, t) for t, row in enumerate(rows)]) for rows in (q, k))
            for t in range(length):
                mixed[t, own] = torch.stack([q[t] @ k[s] / math.sqrt(size) for s in range(length)]).softmax(0) @ v
        x = x + mixed @ w[f"{name}.wo.weight"].T
        both = normalised(x, f"{name}.ffn_norm.weight") @ w[f"{name}.ffn.w12.weight"].T
        half = both.shape[1] // 2
        x = x + (silu(both[:, :half]) * both[:, half:]) @ w[f"{name}.ffn.w3.weight"].T
    return normalised(x, "layer_norm_2.weight")[1:-1]


def test_read_weights_give_what_the_published_forward_gives(tmp_path: Path, raypro_home: Path) -> None:
    folder = save(tmp_path / "model")
    shape, weights = read_hugging_face(folder)
    assert shape == AmplifyShape(layers=2, width=12, heads=2, hidden=16)
    encoder = shape.build().double()
    encoder.load_state_dict(weights)
    batch = batch_of(*PROTEINS)
    h = encoder(batch.tokens)
    for row, sequence in enumerate(PROTEINS):
        torch.testing.assert_close(h[row, 1 : 1 + len(sequence)], published_forward(published(), sequence), rtol=1e-10, atol=1e-10)
    loaded = load_encoder(f"hf:{folder}")
    assert loaded.poolings == ("mean", "first_token", "max") and not (folder / "ran").exists()
    for found, sequence in zip(loaded.embed_residues(PROTEINS), PROTEINS, strict=True):
        np.testing.assert_allclose(found, published_forward(published(), sequence), atol=1e-4)


def test_each_letter_has_its_own_vector_and_what_it_lacks_that_of_x(tmp_path: Path) -> None:
    embedding = read_hugging_face(save(tmp_path / "model"))[1]["embedding.weight"]
    order = [0, 2, 3, 4, 1, *map(TOKENS.index, LETTERS)]  # our control tokens are padding, mask, first, last and unknown
    expected = published()["encoder.weight"][order]
    np.testing.assert_array_equal(embedding[[0, 1, 2, 3]], expected[[0, 1, 2, 3]])
    np.testing.assert_array_equal(embedding[5:], expected[5:])


@pytest.mark.parametrize("name", ["embedding", "blocks.0.qkv", "blocks.1.feed_in", "norm"])
def test_a_mixture_of_one_token_is_that_token_and_gradients_reach_it(name: str) -> None:
    torch.manual_seed(0)
    encoder, tokens = AmplifyShape(layers=2, width=12, heads=2, hidden=16).build().double(), batch_of(*PROTEINS).tokens
    one = torch.nn.functional.one_hot(tokens, len(encoder.embedding.weight)).double()
    torch.testing.assert_close(encoder(tokens, one), encoder(tokens), rtol=0, atol=1e-12)
    encoder(tokens, one)[tokens != 0].square().sum().backward()
    assert encoder.get_parameter(f"{name}.weight").grad.abs().sum() > 0


def test_the_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        small, large = (sum(p.numel() for p in AmplifyShape(*shape).build().parameters()) for shape in ((), (32, 960, 15, 2560)))
    assert small == pytest.approx(118e6, rel=0.01) and large == pytest.approx(354e6, rel=0.01)


def _without(name: str) -> Weights:
    return {key: weight for key, weight in published().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (None, {"hidden_act": "gelu"}, "hidden_act: 'gelu', where AMPLIFY has 'SwiGLU'"),
        (None, {"att_bias": True}, "att_bias: True"),
        (None, {"hidden_size": "wide"}, "no sizes of an AMPLIFY"),
        (None, {"num_attention_heads": 5}, "5 heads do not divide"),
        (None, {"num_hidden_layers": 1}, "'transformer_encoder.1.*' is no weight of an AMPLIFY"),
        (None, {"num_hidden_layers": 3}, "not the weights of an AMPLIFY .*transformer_encoder.2.q.weight"),
        (None, {"intermediate_size": 40}, "blocks.0.feed_in.weight should be"),
        (None, {"vocab_size": 20}, "they do not belong together"),
        (_without("layer_norm_2.weight"), {}, "not the weights of an AMPLIFY .*layer_norm_2.weight"),
        ({**published(), "layer_norm_2.weight": torch.full((12,), torch.nan)}, {}, "vectors are not finite"),
    ],
)
def test_what_is_not_as_published_is_one_line(weights: Weights | None, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", weights, **config)
    with pytest.raises(InputError, match=f"(?s)model.*{message}") as caught:
        import_encoder(folder, tmp_path / "out", "hf")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists() and not (folder / "ran").exists()


def test_damaged_tensors_are_one_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(InputError, match="model.safetensors: its weights cannot be read"):
        read_hugging_face(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors: its weights cannot be read"):
        read_hugging_face(folder)
