"""Reading models of Hugging Face: wherever an encoder is asked for, damaged ones refused in one line, and no code ever executed."""

import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raypro import encoder_import, hugging_face_files
from raypro.config import InputError
from raypro.core.alphabet import LETTERS
from raypro.core.encoders.hugging_face import HuggingFaceShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.mlm import MLM
from raypro.encoder import load_encoder
from raypro.encoder_import import import_encoder
from raypro.hugging_face import read_hugging_face
from raypro.hugging_face_export import export
from tests.hugging_face_models import BERT_TOKENS, LONGEST, NAMES, save, write_pieces, write_tokenizer
from tests.small import random_sequences

pytest.importorskip("transformers")

PROTEINS = ["MKVLAAGIVXWC", "ACDEFGHIKLMNPQRSTVWY", "M", *random_sequences(6, 5, LONGEST, seed=2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp("models") / name, name) for name in NAMES}


def _edit(file: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))

    return change


def test_what_raypro_exported_is_read_by_its_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raypro.json").write_text("{}")
    asked: list[tuple[Path, Path]] = []
    monkeypatch.setattr(encoder_import, "native", lambda folder, out: asked.append((folder, out)) or out)
    assert import_encoder(tmp_path, tmp_path / "out", "hf") == tmp_path / "out" and asked == [(tmp_path, tmp_path / "out")]


def test_prott5_is_read_as_its_authors_published_it(tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of sentencepiece, and nothing else; where that library is missing it is named, whatever transformers says."""
    folder = shutil.copytree(folders["prott5"], tmp_path / "prott5")
    write_pieces(folder)
    shape, same = read_hugging_face(folder)[0], read_hugging_face(folders["prott5"])[0]
    assert (shape.vocabulary, shape.starts, shape.ends) == (same.vocabulary, False, True)
    (folder / "spiece.model").write_bytes(b"damaged")
    with pytest.raises(InputError, match="its tokenizer cannot be read"):
        read_hugging_face(folder)
    monkeypatch.setattr(hugging_face_files, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"spiece.model: needs the package sentencepiece: pip install 'raypro\[transformers\]'"):
        read_hugging_face(folder)


class Runs:
    """A pickle of it makes a file where it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


def test_weights_that_are_pickled_are_read_as_tensors_only(tmp_path: Path, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    folder = shutil.copytree(folders["esm2"], tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    _, weights = read_hugging_face(folder)
    for name, weight in read_hugging_face(folders["esm2"])[1].items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0)
    for hostile in (pickle.dumps(Runs(tmp_path / "ran"), protocol=2), None):
        if hostile is None:
            torch.save({"weights": Runs(tmp_path / "ran")}, folder / "pytorch_model.bin")
        else:
            (folder / "pytorch_model.bin").write_bytes(hostile)
        with pytest.raises(InputError, match="its weights cannot be read") as caught:
            read_hugging_face(folder)
        assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_code_in_a_folder_is_never_run(tmp_path: Path, folders: dict[str, Path]) -> None:
    code = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Config: pass\nclass Model: pass\nclass Tokens: pass\n"
    asks = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokens", None]}

    def hostile(name: str, file: str, **changes: Any) -> Path:
        folder = shutil.copytree(folders["esm2"], tmp_path / name)
        (folder / "own.py").write_text(code)
        plain = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**plain, "auto_map": asks, **changes}))
        return folder

    for folder in (
        hostile("own type", "config.json", model_type="OWN"),
        hostile("untyped", "config.json", model_type=None),
        hostile("tokens", "tokenizer_config.json", tokenizer_class="Tokens"),
    ):
        with pytest.raises(InputError, match="asks to run code from its folder .*raypro never does") as caught:
            read_hugging_face(folder)
        assert str(folder) in str(caught.value)
    known = hostile("known", "config.json")  # transformers has the type: its own class is taken
    torch.testing.assert_close(read_hugging_face(known)[1], read_hugging_face(folders["esm2"])[1], rtol=0, atol=0)
    shape = read_hugging_face(known)[0]
    assert "own" not in shape.config and not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="no model of type 'AMPLIFY'"):
        replace(shape, config=json.dumps({"model_type": "AMPLIFY", "auto_map": asks})).build()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_code_that_a_configuration_names_on_the_hub_is_never_fetched(field: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["esm2"], tmp_path / "model")
    _edit("config.json", **{field: "somebody/kernel"})(folder)
    shape, weights = read_hugging_face(folder)
    assert "somebody" not in shape.config
    torch.testing.assert_close(weights, read_hugging_face(folders["esm2"])[1], rtol=0, atol=0)
    named = json.dumps({**json.loads(shape.config), field: "somebody/kernel"})  # a checkpoint can be edited, too
    assert replace(shape, config=named).build().model.config._attn_implementation != "somebody/kernel"


def _write(file: str, text: str) -> Any:
    return lambda folder: (folder / file).write_text(text)


def _remove(*files: str) -> Any:
    return lambda folder: [(folder / file).unlink() for file in files]


def _lose_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["esm.encoder.layer.1.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _fill_with_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["esm.encoder.layer.1.attention.self.query.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _merge_residues(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pairs = Tokenizer(models.BPE({token: i for i, token in enumerate(["<unk>", *LETTERS, "AC"])}, [("A", "C")], unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=pairs, unk_token="<unk>").save_pretrained(folder)


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("config.json"), "no config.json in it"),
        (_write("config.json", "{"), "config.json: not valid JSON"),
        (_write("config.json", "[1]"), "expected a JSON object, found list"),
        (_write("config.json", "{}"), "no model_type"),
        (_edit("config.json", model_type="esm99"), "no model of type 'esm99' that the installed transformers"),
        (_edit("config.json", hidden_size="wide"), "config.json: .*no esm model can be made of it"),
        (_edit("config.json", hidden_size=32), "lack embeddings.word_embeddings.weight and .* more, of config.json's sizes"),
        (_edit("config.json", is_decoder=True), "esm is no encoder of a masked language model"),
        (_edit("config.json", vocab_size=20), "they do not belong together"),
        (_edit("config.json", vocab_size=None), "they do not belong together"),
        (_write("config.json", json.dumps({"model_type": "gpt2"})), "gpt2 is no encoder"),
        (_write("config.json", json.dumps({"model_type": "bart"})), "bart is an encoder with a decoder"),
        (_remove("model.safetensors"), "no weights in it"),
        (_write("model.safetensors", "no tensors"), "its weights cannot be read"),
        (_cut, "its weights cannot be read"),
        (_lose_a_weight, "lack encoder.layer.1.attention.self.query.weight and 0 more"),
        (_remove("vocab.txt", "tokenizer_config.json"), "its tokenizer cannot be read"),
        (_write("vocab.txt", "<cls>\n<pad>\n<eos>\n<unk>\nthe\nof\n<mask>"), "no token of its own for amino acid A"),
        (_write("vocab.txt", ""), "its tokenizer cannot be read"),
        (_edit("tokenizer_config.json", tokenizer_class="AutoModelForCausalLM"), "AutoModelForCausalLM is no tokenizer"),
        (_edit("tokenizer_config.json", tokenizer_class="EsmConfig"), "EsmConfig is no tokenizer"),
        (_fill_with_nan, "its vectors are not finite"),
        (_merge_residues, "does not make one token of each residue"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_line(damage: Any, message: str, tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["esm2"], tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        import_encoder(folder, tmp_path / "out", "hf")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_model_that_sees_its_padding_or_takes_no_tokens_is_refused(tmp_path: Path) -> None:
    from transformers import ConvBertConfig, ConvBertModel, FNetConfig, FNetModel, PerceiverConfig, PerceiverModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "vocab_size": len(BERT_TOKENS)}
    heads = {"num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2}
    foreign = {
        "depend on its neighbours' lengths": (
            ConvBertModel(ConvBertConfig(**sizes, num_attention_heads=4, embedding_size=16)),
            FNetModel(FNetConfig(**sizes)),
        ),
        "does not work on tokens and a mask alone": (PerceiverModel(PerceiverConfig(d_latents=16, d_model=16, num_latents=4, **heads)),),
    }
    for message, models in foreign.items():
        for model in models:
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.4)
            folder = tmp_path / type(model).__name__
            model.save_pretrained(folder)
            write_tokenizer(folder, "protbert")
            _edit("tokenizer_config.json", tokenizer_class="BertTokenizer")(folder)
            with pytest.raises(InputError, match=message):
                read_hugging_face(folder)


def test_an_exported_model_comes_back_and_is_read_like_any_other(tmp_path: Path, raypro_home: Path) -> None:
    from tests.exported import TINY as SHAPE
    from tests.exported import saved

    for positions, norm in (("sinusoidal", "pre"), ("rotary", "pre"), ("sinusoidal", "post"), ("rotary", "post")):
        folder = tmp_path / f"{positions}-{norm}"
        _, path = saved(folder, replace(SHAPE, positions=positions, norm=norm), MLM())
        export(path, folder / "exported", max_length=60)
        expected = load_encoder(path).embed_residues(PROTEINS)
        ours = load_encoder(f"hf:{folder / 'exported'}")
        (folder / "exported" / "raypro.json").unlink()
        theirs = load_encoder(f"hf:{folder / 'exported'}")
        assert isinstance(ours.shape, TransformerShape) and isinstance(theirs.shape, HuggingFaceShape)
        for found in (ours.embed_residues(PROTEINS), theirs.embed_residues(PROTEINS)):
            for vectors, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_of_the_hub_code_is_not_even_fetched(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    kept, asked = shutil.copytree(folders["esm2"], tmp_path / "0123abc"), []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options["allow_patterns"], options.get("revision")))
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert read_hugging_face("somebody/esm2")[0] == read_hugging_face(folders["esm2"])[0]
    ((name, patterns, _),) = asked
    assert name == "somebody/esm2" and not any(fnmatch(file, pattern) for pattern in patterns for file in ("own.py", "pytorch_model.bin"))
    (kept / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights in it"):
        read_hugging_face("somebody/esm2")
    assert asked[-1] == ("somebody/esm2", ["pytorch_model*.bin"], "0123abc")  # of the same version


def test_a_name_that_cannot_be_fetched_is_one_line(raypro_home: Path) -> None:
    for name, message in (
        ("nobody/no-such-protein-model", "no such folder, and the hub does not give it"),
        ("/nowhere/at/all", "no such folder, and no name on the hub"),
        ("../gone", "no such folder, and no name on the hub"),
        (str(Path(__file__)), "a file; give its folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_encoder(f"hf:{name}")
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (raypro_home / "encoders").exists()


def test_without_transformers_the_way_to_it_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shape, _ = read_hugging_face(folders["esm2"])
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (shape.build, lambda: read_hugging_face(folders["esm2"]), lambda: read_hugging_face("facebook/esm2_t6_8M_UR50D")):
        with pytest.raises(InputError, match=r"pip install 'raypro\[transformers\]'"):
            call()
