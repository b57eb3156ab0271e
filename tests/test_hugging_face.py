"""Vectors of Hugging Face's encoders: those that transformers gives, each at its residue, beside any neighbours."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import raypro
from raypro.config import InputError, from_plain, to_plain
from raypro.core.alphabet import CLS, LETTERS, MASK, SEP, SIZE, encode
from raypro.core.encoders.hugging_face import HuggingFaceShape
from raypro.core.objectives.mlm import MLM
from raypro.encoder import LoadedEncoder, load_encoder
from raypro.encoder_import import import_encoder
from raypro.experiment import Encoder, Experiment
from raypro.finetuning import resolved
from raypro.hugging_face import read_hugging_face
from raypro.settings import Batches
from tests.hugging_face_models import BERT_TOKENS, LONGEST, NAMES, SMALL, by_hand, save, write_tokenizer
from tests.small import batch_of, hydrophobic_share, random_sequences, tiny_fine_tuning

pytest.importorskip("transformers")

PROTEINS = ["MKVLAAGIVXWC", "ACDEFGHIKLMNPQRSTVWY", "M", *random_sequences(6, 5, LONGEST, seed=2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp("models") / name, name) for name in NAMES}


@pytest.fixture(scope="module")
def encoders(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedEncoder]:
    """Each model, imported and loaded."""
    made = tmp_path_factory.mktemp("checkpoints")
    return {name: load_encoder(import_encoder(folder, made / name, "hf")) for name, folder in folders.items()}


@pytest.mark.parametrize("name", NAMES)
def test_residues_have_the_vectors_that_transformers_gives(name: str, folders: dict[str, Path], encoders: dict[str, LoadedEncoder]) -> None:
    expected = by_hand(folders[name], PROTEINS)
    assert max(float(vectors.abs().max()) for vectors in expected) > 0.1
    for found, vectors in zip(encoders[name].embed_residues(PROTEINS), expected, strict=True):
        np.testing.assert_allclose(found, vectors, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_depend_neither_on_neighbours_nor_on_padding(name: str, encoders: dict[str, LoadedEncoder]) -> None:
    encoder = encoders[name]
    together = encoder.module(batch_of(*PROTEINS).tokens)
    for row, protein in enumerate(PROTEINS):
        alone = encoder.module(batch_of(protein).tokens)[0]
        torch.testing.assert_close(together[row, : len(protein) + 2], alone, atol=2e-5, rtol=1e-5)


def test_each_vector_stands_at_its_token(folders: dict[str, Path], encoders: dict[str, LoadedEncoder]) -> None:
    tokens = batch_of("MKV", "MKVLA").tokens
    empty = {name: (encoder.module(tokens)[0] == 0).all(dim=1).tolist() for name, encoder in encoders.items()}
    assert empty["esm2"] == empty["protbert"] == [False] * 5 + [True] * 2  # CLS, three residues, SEP; then padding
    assert empty["prott5"] == [True] + [False] * 4 + [True] * 2  # it has nothing before the residues
    first = encoders["esm2"].embed(["MKV"], "first_token")[0]
    np.testing.assert_allclose(first, encoders["esm2"].module(tokens)[0, 0], atol=1e-5)
    assert "first_token" in encoders["esm2"].poolings and "first_token" not in encoders["prott5"].poolings


def test_a_batch_without_residues_has_finite_vectors_and_gradients(encoders: dict[str, LoadedEncoder]) -> None:
    bare = replace(encoders["prott5"].shape, ends=False).build()
    h = bare(torch.tensor([[CLS, SEP]]))
    assert h.shape == (1, 2, 16) and (h == 0).all()
    h.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in bare.parameters() if weight.grad is not None)


def test_letters_that_a_model_does_not_know_are_its_unknown_residue(folders: dict[str, Path], encoders: dict[str, LoadedEncoder]) -> None:
    vocabulary = dict(zip(LETTERS, encoders["prott5"].shape.vocabulary[5:], strict=True))  # type: ignore[union-attr]
    assert {vocabulary[letter] for letter in "BOUZ"} == {vocabulary["X"]} != {vocabulary["A"]}
    found = encoders["prott5"].embed_residues(["MBOUZK", "MXXXXK"])
    np.testing.assert_array_equal(found[0], found[1])
    known = encoders["protbert"].shape.vocabulary  # type: ignore[union-attr]
    assert [BERT_TOKENS[token] for token in known] == ["[PAD]", "[MASK]", "[CLS]", "[SEP]", "X", *LETTERS]


def one_hot(tokens: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(tokens, SIZE).float()


@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_of_one_token_is_that_token(name: str, encoders: dict[str, LoadedEncoder]) -> None:
    original = batch_of("MKVLAAGIVW", "MKVLA").tokens
    masked = original.clone()
    masked[0, [2, 5]] = masked[1, 3] = MASK
    for given in (original, masked):  # a noiser gives the original tokens beside the mixture, or those that are masked at random
        torch.testing.assert_close(encoders[name].module(given, one_hot(masked)), encoders[name].module(masked), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["protbert", "esm1b"])
def test_a_mixture_is_seen_as_the_mean_of_its_vectors_and_passes_gradients(name: str, encoders: dict[str, LoadedEncoder]) -> None:
    module = encoders[name].shape.build().eval()
    module.load_state_dict(encoders[name].module.state_dict())
    module.double()
    tokens, (alanine, tryptophan, pyrrolysine) = batch_of("MKVLAAGI").tokens, encode("AWO").tolist()
    inputs = one_hot(tokens).double()
    inputs[0, 3] = 0.0
    inputs[0, 3, [alanine, tryptophan]] = torch.tensor([0.3, 0.7]).double()
    found = module(tokens, inputs.requires_grad_())
    (gradient,) = torch.autograd.grad(found[0, 6].sin().sum(), inputs)
    step = torch.zeros_like(inputs)
    step[0, 3, tryptophan] = 1e-6
    higher, lower = (module(tokens, inputs + sign * step)[0, 6].sin().sum() for sign in (1, -1))
    assert float(gradient[0, 3, tryptophan]) == pytest.approx(float((higher - lower).detach()) / 2e-6, rel=1e-5)
    table = module.model.get_input_embeddings().weight
    with torch.no_grad():  # the same by a letter whose vector is the mean
        a, w, o = (module.vocabulary[letter] for letter in (alanine, tryptophan, pyrrolysine))
        table[o] = 0.3 * table[a] + 0.7 * table[w]
    tokens[0, 3] = pyrrolysine
    torch.testing.assert_close(found, module(tokens), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_needs_its_folder_no_more(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "esm2")
    expected = by_hand(folder, PROTEINS)
    path = import_encoder(folder, tmp_path / "checkpoint", "hf")
    shutil.rmtree(folder)
    for found, vectors in zip(raypro.load_encoder(path).embed_residues(PROTEINS), expected, strict=True):
        np.testing.assert_allclose(found, vectors, atol=1e-5)
    said = (path / "experiment.json").read_text()
    assert str(tmp_path) not in said
    shape = from_plain(Encoder, json.loads(said)["experiment"]["encoder"])
    assert isinstance(shape, HuggingFaceShape) and from_plain(Encoder, to_plain(shape)) == shape


def test_nothing_that_gives_no_vectors_is_kept(encoders: dict[str, LoadedEncoder]) -> None:
    for name, encoder in encoders.items():
        kept = " ".join(encoder.module.state_dict())
        assert not any(part in kept for part in ("pooler", "contact_head", "lm_head", "cls.")), name


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "protbert")
    from transformers import BertForMaskedLM

    BertForMaskedLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    _, weights = read_hugging_face(folder)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_sequences_longer_than_the_positions_are_refused_before_the_model(tmp_path: Path, encoders: dict[str, LoadedEncoder]) -> None:
    encoder, longest = encoders["esm1b"], "A" * LONGEST
    assert encoder.embed([longest]).shape == (1, 16)
    assert np.isfinite(encoder.embed([longest])).all()
    with pytest.raises(InputError, match=f"sequence 1 .*longer than {LONGEST} residues: the encoder has no positions"):
        encoder.embed([longest, longest + "A"])
    with pytest.raises(InputError, match=f"{LONGEST + 1} residues, the encoder takes {LONGEST}"):
        encoder.module(batch_of(longest + "A").tokens)
    with pytest.raises(InputError, match="batches.max_length: 512 residues"):
        Experiment("long", "corpus", MLM(), encoder.shape)
    Experiment("short", "corpus", MLM(), encoder.shape, batches=Batches(max_length=LONGEST))
    data = hydrophobic_share(tmp_path / "data", {"train": 8, "valid": 8})
    with pytest.raises(InputError, match=r"data: train: \d+ residues, the encoder takes 30"):
        resolved(tiny_fine_tuning(data.path, encoder=encoder.shape), data)
    assert encoders["esm2"].limits.max_length is None and len(encoders["esm2"].embed(["A" * 1500])) == 1
    assert encoders["protbert"].limits.max_length == 198


@pytest.mark.parametrize("kind", ["DistilBert", "RoFormer", "Roberta", "Esmc"])
def test_others_take_as_many_residues_as_is_said(kind: str, tmp_path: Path) -> None:
    import transformers

    sizes = {**SMALL, "vocab_size": len(BERT_TOKENS), "max_position_embeddings": 40}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 30, "max_position_embeddings": 40}
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "protbert")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    shape, weights = read_hugging_face(tmp_path)
    assert shape.longest == {"DistilBert": 38, "RoFormer": 38, "Roberta": 36, "Esmc": None}[kind]
    module = shape.build().eval()
    module.load_state_dict(weights)
    assert torch.isfinite(module(batch_of("A" * (shape.longest or 100)).tokens)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "{"}, "encoder.config: no configuration"),
        ({"config": '{"model_type": 3}'}, "model_type: expected a name"),
        ({"vocabulary": (1, 2)}, "encoder.vocabulary: 2 numbers"),
        ({"vocabulary": (-1,) * SIZE}, "none negative"),
    ],
)
def test_a_shape_that_is_none_is_one_line(changes: dict[str, Any], message: str, encoders: dict[str, LoadedEncoder]) -> None:
    with pytest.raises(InputError, match=message):
        replace(encoders["esm2"].shape, **changes)
