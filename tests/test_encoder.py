"""Vectors of a checkpoint's encoder: naive references, what they do not depend on, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raypro
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.alphabet import encode
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.encoder import LoadedEncoder, load_encoder
from raypro.experiment import FineTuning
from tests.fine_tuned import TASKS, save_model
from tests.small import TINY, batch_of, random_sequences, tiny_experiment

PATCHES = CPCProtShape(embedding=4, filters=(5, 6, 8), kernels=(4, 6, 3))
SHAPES: dict[str, Any] = {
    "transformer": TINY,
    "rotary": replace(TINY, positions="rotary"),
    "convolution": ConvolutionShape(width=8),
    "onehot": OneHotShape(),
    "cpcprot": PATCHES,
    "cpcprot_lstm": replace(PATCHES, recurrent="lstm", recurrent_layers=2),
    "cpcprot_even": CPCProtShape(embedding=4, filters=(5, 8), kernels=(2, 3)),
}
CPCPROTS = [name for name in SHAPES if name.startswith("cpcprot")]
PLAIN = [name for name in SHAPES if name not in CPCPROTS]


def untrained(name: str, double: bool = False) -> LoadedEncoder:
    torch.manual_seed(1)
    module = SHAPES[name].build().eval().requires_grad_(False)
    return LoadedEncoder(module.double() if double else module, SHAPES[name], torch.device("cpu"))


def naive_contexts(module: Any, sequence: str, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z and c [P, D] of the patches of a sequence from residue ``first`` on, one patch and one step at a time."""
    length = module.shape.patch_length
    tokens = torch.from_numpy(encode(sequence).astype(np.int64))
    z, c, state = [], [], None
    for start in range(first, len(sequence) - length + 1, length):
        z.append(module.patch_encoder(tokens[None, start : start + length])[0])
        out, state = module.autoregressor(z[-1][None, None], state)
        c.append(out[0, 0])
    return torch.stack(z), torch.stack(c)


@pytest.mark.parametrize("name", CPCPROTS)
def test_cpcprot_pools_whole_patches_as_plain_loops_do(name: str) -> None:
    encoder, proteins = untrained(name, double=True), random_sequences(9, 11, 50, seed=3)
    found = {pooling: encoder.embed(proteins, pooling, token_budget=120) for pooling in encoder.poolings}
    for row, protein in enumerate(proteins):
        z, c = naive_contexts(encoder.module, protein, 0)
        for pooling, expected in (("z_mean", z.mean(0)), ("c_mean", c.mean(0)), ("c_final", c[-1])):
            np.testing.assert_allclose(found[pooling][row], expected, atol=1e-6)


@pytest.mark.parametrize("name", CPCPROTS)
def test_each_residue_has_the_context_of_the_patch_around_it(name: str) -> None:
    encoder, proteins = untrained(name, double=True), [*random_sequences(6, 11, 40, seed=4), "ACDEFGHIKLM", "ACDEFGHIKLMN"]
    length = encoder.shape.patch_length  # type: ignore[union-attr]
    for protein, found in zip(proteins, encoder.embed_residues(proteins, token_budget=100), strict=True):
        phases = [naive_contexts(encoder.module, protein, first)[1] for first in range(min(length, len(protein) - length + 1))]
        for residue in range(len(protein)):
            window = min(max(residue - (length - 1) // 2, 0), len(protein) - length)  # the ends: the nearest whole patch
            np.testing.assert_allclose(found[residue], phases[window % length][window // length], atol=1e-6)


def test_a_residue_sees_nothing_behind_its_patch() -> None:
    encoder, protein = untrained("cpcprot"), random_sequences(1, 60, 60)[0]
    changed = encoder.embed_residues([protein[:40] + "W" * 20])[0]
    same = np.isclose(encoder.embed_residues([protein])[0], changed, atol=1e-6).all(axis=1)
    assert same[:35].all() and not same[35:].any()  # the patch around residue 34 ends with residue 39


@pytest.mark.parametrize("name", PLAIN)
def test_other_encoders_pool_their_residues(name: str) -> None:
    encoder, proteins = untrained(name), random_sequences(7, 1, 30, seed=5)
    residues = encoder.embed_residues(proteins, token_budget=64)
    found = {pooling: encoder.embed(proteins, pooling, token_budget=64) for pooling in encoder.poolings}
    assert ("first_token" in found) == isinstance(encoder.shape, TransformerShape)
    for row, protein in enumerate(proteins):
        h = encoder.module(batch_of(protein).tokens)[0].numpy()
        np.testing.assert_allclose(residues[row], h[1:-1], atol=1e-5)
        np.testing.assert_allclose(found["mean"][row], h[1:-1].mean(0), atol=1e-5)
        np.testing.assert_allclose(found["max"][row], h[1:-1].max(0), atol=1e-5)
        if "first_token" in found:
            np.testing.assert_allclose(found["first_token"][row], h[0], atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_vectors_depend_neither_on_neighbours_nor_on_the_order(name: str) -> None:
    encoder, proteins = untrained(name), random_sequences(40, 11, 150, seed=6)
    order = np.random.default_rng(0).permutation(len(proteins))
    shuffled = [proteins[i] for i in order]
    for pooling in encoder.poolings:
        alone = np.concatenate([encoder.embed([protein], pooling) for protein in proteins])
        np.testing.assert_allclose(encoder.embed(proteins, pooling), alone, atol=2e-6)
        np.testing.assert_allclose(encoder.embed(shuffled, pooling, token_budget=500), alone[order], atol=2e-6)
    for protein, among_others in zip(shuffled, encoder.embed_residues(shuffled), strict=True):
        np.testing.assert_allclose(among_others, encoder.embed_residues([protein])[0], atol=2e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_a_checkpoint_of_a_fine_tuned_model_gives_its_encoder(name: str, tmp_path: Path) -> None:
    module, shape = untrained(name).module, SHAPES[name]
    experiment = FineTuning("tiny", "nowhere", TASKS["residues"], shape, frozen=isinstance(shape, OneHotShape))
    model = experiment.task.build(module)
    checkpoint.save(tmp_path / "step_1", model, experiment.to_plain(), 1, {})
    loaded = raypro.load_encoder(tmp_path / "step_1")
    assert loaded.shape == shape and not loaded.module.training
    proteins = random_sequences(5, 11, 40)
    found = loaded.embed(proteins)
    assert found.shape == (5, module.width) and found.dtype == np.float32
    np.testing.assert_array_equal(found, untrained(name).embed(proteins, loaded.poolings[0]))


def test_a_checkpoint_of_a_pre_training_run_gives_its_encoder(tmp_path: Path) -> None:
    experiment = tiny_experiment(tmp_path)
    model = experiment.objective.build(experiment.encoder.build())
    checkpoint.save(tmp_path / "step_1", model, experiment.to_plain(), 1, {})
    found = load_encoder(tmp_path / "step_1").module.state_dict()
    assert found.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(weight, model.encoder.state_dict()[name]) for name, weight in found.items())


def test_letters_are_cleaned_as_in_a_file() -> None:
    encoder = untrained("transformer")
    np.testing.assert_array_equal(encoder.embed(["mkv la*\n"]), encoder.embed(["MKVLA"]))


def test_no_sequences_have_no_vectors() -> None:
    encoder = untrained("cpcprot")
    assert encoder.embed([]).shape == (0, 8) and encoder.embed_residues([]) == []


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (["MKVLAMKVLAM", "MKVLAMKVLA"], "sequence 1 .*: shorter than one patch of 11 residues: the encoder has no vector for it"),
        (["MKVLAMKVLAM", "MKVLAMKVLAM", "MKV1LAMKVLAM"], "sequence 2 .*: digit in the sequence"),
        ([""], "sequence 0 .*: no sequence"),
        (["MKVLAMKVLAé"], "sequence 0 .*: another character"),
        (["MKVLAMKVLAM", None], "sequence 1 .*: None is no string"),
        ("MKVLAMKVLAM", "one string; give a list"),
        ((sequence for sequence in ("MKVLAMKVLAM",)), "no list but generator; give a list"),
        ({"MKVLAMKVLAM"}, "no list but set; give a list"),
        (None, "no list but NoneType; give a list"),
    ],
)
def test_what_is_no_protein_or_too_short_is_named(sequences: Any, message: str) -> None:
    for call in (untrained("cpcprot").embed, untrained("cpcprot").embed_residues):
        with pytest.raises(InputError, match=message):
            call(sequences)


def test_a_pooling_that_the_encoder_has_not_is_refused() -> None:
    with pytest.raises(InputError, match="'c_maen' is none of this encoder's; did you mean c_mean"):
        untrained("cpcprot").embed(["MKVLAMKVLAM"], "c_maen")
    with pytest.raises(InputError, match="'z_mean' .*mean"):
        untrained("transformer").embed(["MKVLAMKVLAM"], "z_mean")


def edited(path: Path, **changes: Any) -> Path:
    """Change the encoder that a checkpoint says it has."""
    about = json.loads((path / "experiment.json").read_text())
    about["experiment"]["encoder"].update(changes)
    (path / "experiment.json").write_text(json.dumps(about))
    return path


def test_what_is_no_checkpoint_of_an_encoder_is_one_line(tmp_path: Path) -> None:
    other = save_model(tmp_path / "a")
    about = json.loads((other / "experiment.json").read_text())
    del about["experiment"]["encoder"]
    (other / "experiment.json").write_text(json.dumps(about))
    cases = [
        (tmp_path / "none", "not a checkpoint"),
        (other, "says nothing of an encoder"),
        (edited(save_model(tmp_path / "b"), kind="Oracle"), "unknown kind 'Oracle'"),
        (edited(save_model(tmp_path / "c"), layers=2), "its weights are not those of its encoder"),
        (edited(save_model(tmp_path / "d"), width="wide"), "width: expected int"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            load_encoder(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_importing_raypro_loads_nothing_heavy() -> None:
    code = "import sys, raypro; raypro.__version__; sys.exit(bool({'torch', 'numpy', 'ray', 'mlflow', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="load_encodr"):
        _ = raypro.load_encodr


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    encoder, proteins = untrained(name), random_sequences(30, 11, 120)
    pooled = {pooling: encoder.embed(proteins, pooling) for pooling in encoder.poolings}
    residues = encoder.embed_residues(proteins)
    on_gpu = LoadedEncoder(encoder.module.to("cuda"), encoder.shape, torch.device("cuda"))
    for pooling, expected in pooled.items():
        np.testing.assert_allclose(on_gpu.embed(proteins, pooling), expected, atol=1e-3)
    for found, expected in zip(on_gpu.embed_residues(proteins), residues, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
