"""Exported models: the same outputs in transformers, the same weights back, and what is refused. Nothing is downloaded."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.alphabet import CLASS_TO_TOKEN, PAD, encode
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.pmlm import PMLM
from raypro.exported import modeling_raypro
from raypro.exported.weights import to_ours, to_theirs
from raypro.hugging_face_export import export, native
from tests.exported import LONGEST, PROTEINS, TINY, saved
from tests.fine_tuned import save_model
from tests.small import batch_of, random_sequences

transformers = pytest.importorskip("transformers")

SHAPES = {
    "pre_sinusoidal": TINY,
    "pre_rotary": replace(TINY, positions="rotary"),
    "post_sinusoidal": replace(TINY, norm="post"),
    "post_rotary": replace(TINY, norm="post", positions="rotary"),
    "pre_learned": replace(TINY, positions="learned", longest=LONGEST),
    "post_learned": replace(TINY, norm="post", positions="learned", longest=LONGEST),
    "other_epsilon": replace(TINY, norm="post", norm_epsilon=1e-3),
}
ENCODERS = {"pre": "EsmModel", "post": "BertModel", "other": "BertModel", "post_rotary": "RoFormerModel"}
OBJECTIVES: dict[str, Any] = {
    "mlm": MLM(),
    "mlm_norm": MLM(head_norm=True),
    "pmlm": PMLM(),
    "pmlm_norm": PMLM(head_norm=True),
    "pairs_only": PMLM(pair_only=True),
}
CASES = [
    *[(shape, objective) for shape in list(SHAPES)[:4] for objective in list(OBJECTIVES)[:4]],
    *[("pre_rotary", "pairs_only"), ("post_rotary", "pairs_only")],
    *[("pre_learned", "pmlm_norm"), ("post_learned", "mlm"), ("other_epsilon", "pmlm_norm")],
]
CLASSES = torch.from_numpy(CLASS_TO_TOKEN)
SAME = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def quiet_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)


def tokens_of(folder: Path, proteins: list[str]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)(proteins, padding=True, return_tensors="pt")


def masked_model(folder: Path) -> Any:
    """The class that the card names, from raypro's own copy of the file in the folder."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    own = getattr(modeling_raypro, f"Raypro{name.removeprefix('Raypro')}")
    return own.from_pretrained(folder).eval()


def our_logits(model: Any, h: Tensor) -> Tensor:
    return model.token_logits(h) if model.has_token_head else model.pair_logits(h, h)[..., ::21]


def checked(model: Any, folder: Path, *batches: list[str]) -> None:
    """Vectors, logits and pair logits are the same in transformers, whatever the batch."""
    encoder, masked = transformers.AutoModel.from_pretrained(folder), masked_model(folder)
    others = [token for token in range(30) if token not in CLASSES.tolist()]
    for proteins in batches:
        inputs, tokens = tokens_of(folder, proteins), batch_of(*proteins).tokens
        assert torch.equal(inputs["input_ids"], tokens)
        seen = tokens != PAD
        with torch.inference_mode():
            ours, theirs, logits = model.encoder(tokens), encoder(**inputs).last_hidden_state, masked(**inputs).logits
            torch.testing.assert_close(theirs[seen], ours[seen], **SAME)
            torch.testing.assert_close(logits[seen][:, CLASSES], our_logits(model, ours)[seen], **SAME)
            assert torch.all(logits[..., others] == -1e4)
            if model.has_pair_head:
                pairs = masked.pair_logits(theirs[:, 1], theirs[:, 2])
                torch.testing.assert_close(pairs, model.pair_logits(ours[:, 1], ours[:, 2]), **SAME)


@pytest.mark.parametrize(("shape", "objective"), CASES)
def test_transformers_gives_the_same_and_the_weights_come_back_to_the_last_digit(shape: str, objective: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path, SHAPES[shape], OBJECTIVES[objective])
    export(path, tmp_path / "out", max_length=LONGEST)
    checked(model, tmp_path / "out", PROTEINS, PROTEINS[:1])
    back = checkpoint.load(native(tmp_path / "out", tmp_path / "back"))
    assert back.weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, back.weights[name]) for name, weight in model.state_dict().items())
    assert (back.step, back.metrics) == (7, {"valid/loss": 2.5})
    assert back.experiment["objective"] == checkpoint.load(path).experiment["objective"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_encoder_is_a_plain_class_of_transformers(shape: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path, SHAPES[shape], PMLM())
    export(path, tmp_path / "out", max_length=LONGEST)
    found, loaded = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(found).__name__ == (ENCODERS.get(shape) or ENCODERS[shape.split("_")[0]])
    assert {name.split(".")[0] for name in loaded["missing_keys"]} <= {"pooler"}


@pytest.mark.parametrize("shape", ["pre_rotary", "post_sinusoidal", "post_rotary"])
def test_with_a_head_norm_the_plain_masked_class_gives_the_same(shape: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path, SHAPES[shape], PMLM(head_norm=True), steps=20)
    export(path, tmp_path / "out", LONGEST)
    plain, found = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(plain).__module__.startswith("transformers.models.") and not found["missing_keys"]
    tokens = batch_of(*PROTEINS).tokens
    with torch.inference_mode():
        logits = plain(**tokens_of(tmp_path / "out", PROTEINS)).logits[..., CLASSES]
        expected = model.token_logits(model.encoder(tokens))
    torch.testing.assert_close(logits[tokens != PAD], expected[tokens != PAD], **SAME)


@pytest.mark.parametrize("shape", ["pre_sinusoidal", "pre_rotary", "post_rotary"])
def test_a_trained_model_gives_the_same(shape: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path, SHAPES[shape], PMLM(), steps=30)
    untrained, _ = saved(tmp_path / "untrained", SHAPES[shape], PMLM())
    assert not torch.equal(model.token_head[2].weight, untrained.token_head[2].weight)
    export(path, tmp_path / "out", LONGEST)
    checked(model, tmp_path / "out", PROTEINS)


@pytest.mark.parametrize("shape", ["pre_sinusoidal", "pre_rotary", "post_sinusoidal", "post_rotary"])
def test_positions_hold_to_the_longest_sequence(shape: str, tmp_path: Path) -> None:
    model, path = saved(tmp_path, SHAPES[shape], MLM())
    export(path, tmp_path / "out", max_length=700)
    checked(model, tmp_path / "out", random_sequences(1, 700, 700))


def test_the_file_in_the_folder_runs_without_raypro_and_by_trust(tmp_path: Path) -> None:
    model, path = saved(tmp_path, SHAPES["pre_rotary"], PMLM())
    export(path, tmp_path / "out", LONGEST)
    inputs = tokens_of(tmp_path / "out", PROTEINS)
    by_trust = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    by_hand = imported(tmp_path / "out" / "modeling_raypro.py").RayproEsmForMaskedLM.from_pretrained(tmp_path / "out")
    assert "raypro" not in {line.split()[1].split(".")[0] for line in imports_of(tmp_path / "out" / "modeling_raypro.py")}
    with torch.inference_mode():
        assert torch.equal(by_trust(**inputs).logits, by_hand(**inputs).logits)
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == PAD, -100)
        labels = labels.masked_fill(~torch.isin(labels, CLASSES), -100)
        found = by_hand(**inputs, labels=labels).loss
        logits, tokens = model.token_logits(model.encoder(batch_of(*PROTEINS).tokens)), inputs["input_ids"]
        terms = [
            -logits[b, t].log_softmax(0)[CLASSES.tolist().index(tokens[b, t])]
            for b, t in (labels != -100).nonzero().tolist()
        ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(terms).mean(), **SAME)


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("modeling_of_a_folder", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imports_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]


@pytest.mark.parametrize("text", ["MKTAYIAKQR", "mktayiakqr", "MkJtX-*1", "B", "ACDEFGHIKLMNOPQRSTUVWXYZJ"])
def test_the_tokenizer_gives_the_tokens_of_the_alphabet(text: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path, TINY, MLM())
    export(path, tmp_path / "out", max_length=LONGEST)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(text)["input_ids"] == [2, *encode(text).tolist(), 3]


def test_the_tokenizer_knows_masks_white_space_pads_and_its_longest_sequence(tmp_path: Path) -> None:
    _, path = saved(tmp_path, TINY, MLM())
    export(path, tmp_path / "out", max_length=LONGEST)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    m, k = encode("MK").tolist()
    assert tokenizer("M<mask>K")["input_ids"] == [2, m, 1, k, 3]
    assert tokenizer("M <mask> K\n")["input_ids"] == [2, m, 1, k, 3]
    assert tokenizer(["MK", "M"], padding=True)["input_ids"] == [[2, m, k, 3], [2, m, 3, 0]]
    assert tokenizer(["MK", "M"], padding=True)["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert set(tokenizer("MK")) == {"input_ids", "attention_mask"}  # no types of tokens, which BERT would add
    assert tokenizer.decode([m, k]) == "MK" and tokenizer.unk_token_id == 4 and tokenizer.mask_token_id == 1
    assert len(tokenizer("M" * 100, truncation=True)["input_ids"]) == tokenizer.model_max_length == 62


def test_an_adversarial_model_keeps_its_noiser_and_shows_its_token_head(tmp_path: Path) -> None:
    model, path = saved(tmp_path, TINY, Adversarial())
    export(path, tmp_path / "out", max_length=LONGEST)
    checked(model, tmp_path / "out", PROTEINS)
    assert not any("noiser" in name for name in load_file(tmp_path / "out" / "model.safetensors"))
    back = checkpoint.load(native(tmp_path / "out", tmp_path / "back")).weights
    assert all(torch.equal(weight, back[name]) for name, weight in model.state_dict().items())


def test_of_a_fine_tuned_model_the_encoder_is_exported_and_the_head_kept(tmp_path: Path) -> None:
    path = save_model(tmp_path, encoder=TINY)
    export(path, tmp_path / "out", max_length=LONGEST)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["EsmModel"] and "auto_map" not in config
    assert not (tmp_path / "out" / "modeling_raypro.py").exists()
    before, back = checkpoint.load(path), checkpoint.load(native(tmp_path / "out", tmp_path / "back"))
    assert back.weights.keys() == before.weights.keys()
    assert all(torch.equal(weight, back.weights[name]) for name, weight in before.weights.items())
    with torch.inference_mode():
        model = transformers.AutoModel.from_pretrained(tmp_path / "out")
        vectors = model(**tokens_of(tmp_path / "out", PROTEINS[:1])).last_hidden_state
    encoder = TINY.build().eval()
    encoder.load_state_dict({n.removeprefix("encoder."): w for n, w in before.weights.items() if n.startswith("encoder.")})
    torch.testing.assert_close(vectors, encoder(batch_of(PROTEINS[0]).tokens), **SAME)


def test_what_was_trained_further_in_transformers_comes_back_trained(tmp_path: Path) -> None:
    model, path = saved(tmp_path, TINY, MLM(head_norm=True))
    export(path, tmp_path / "out", max_length=LONGEST)
    theirs = transformers.EsmForMaskedLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        theirs.esm.embeddings.word_embeddings.weight += 1.0
        theirs.lm_head.decoder.weight += 1.0
    theirs.save_pretrained(tmp_path / "out")
    back = checkpoint.load(native(tmp_path / "out", tmp_path / "back")).weights
    torch.testing.assert_close(back["encoder.embedding.weight"], model.encoder.embedding.weight + 24**-0.5, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(back["token_head.3.weight"], model.token_head[3].weight + 1.0, rtol=1e-6, atol=1e-6)


def test_scaled_weights_come_back_within_rounding_without_what_was_kept() -> None:
    model = MLM().build(SHAPES["pre_learned"].build())
    weights = model.state_dict()
    theirs, kept = to_theirs(SHAPES["pre_learned"], weights, 60)
    assert set(kept) == {"encoder.embedding.weight", "encoder.places.weight"}
    back = to_ours(SHAPES["pre_learned"], weights, theirs, {})
    different = [name for name, weight in weights.items() if not torch.equal(back[name], weight)]
    assert set(different) <= set(kept)
    for name in kept:
        torch.testing.assert_close(back[name], weights[name], rtol=1e-6, atol=0.0)


def test_a_head_norm_is_as_written_and_changes_nothing_elsewhere() -> None:
    torch.manual_seed(1)
    plain = MLM().build(TINY.build())
    torch.manual_seed(1)
    normed = MLM(head_norm=True).build(TINY.build())
    first, last = normed.token_head[0], normed.token_head[3]
    assert torch.equal(first.weight, plain.token_head[0].weight) and torch.equal(last.weight, plain.token_head[2].weight)
    h = torch.randn(4, 24)
    x = torch.nn.functional.gelu(h @ first.weight.T + first.bias)
    expected = ((x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()) @ last.weight.T + last.bias
    torch.testing.assert_close(normed.token_logits(h), expected)


def test_a_head_norm_without_a_token_head_is_refused() -> None:
    with pytest.raises(InputError, match="head_norm"):
        PMLM(head_norm=True, pair_only=True)
