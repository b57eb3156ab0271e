"""Encoders of Hugging Face: the vectors are those that transformers gives, wherever an encoder is asked for, and nothing is executed."""

import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import raypro
from raypro import encoder_import
from raypro.cli import finetune_main, main
from raypro.config import InputError, from_plain, to_plain
from raypro.core import checkpoint
from raypro.core.alphabet import CLS, LETTERS, MASK, PAD, SEP, SIZE, encode
from raypro.core.encoders.hugging_face import HuggingFaceShape
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.encoder import LoadedEncoder, load_encoder
from raypro.encoder_import import import_encoder, resolve_encoder
from raypro.experiment import Encoder, Experiment
from raypro.finetuning import FineTuned, Finetuning, resolved
from raypro.home import run_folder
from raypro.hugging_face import read_hugging_face
from raypro.presets import fine_tuning
from raypro.settings import Batches, Budget, SequenceBatches
from raypro.training import train
from tests.embedding_runs import read
from tests.fine_tuned import write_fasta
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
    tokens, (alanine, tryptophan, pyrrolysine) = batch_of("MKVLAAGI").tokens, encode("AWO").tolist()
    inputs = one_hot(tokens)
    inputs[0, 3] = 0.0
    inputs[0, 3, [alanine, tryptophan]] = torch.tensor([0.3, 0.7])
    inputs.requires_grad_()
    found = module(tokens, inputs)
    assert torch.autograd.grad(found[0, 6].sum(), inputs)[0][0, 3].abs().min(dim=0).values < torch.inf
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


def test_a_model_is_read_once_and_anew_when_its_files_change(tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "tiny-esm", "esm2")
    path = resolve_encoder(f"hf:{folder}")
    assert path.parent == raypro_home / "encoders" and path.name.startswith("tiny-esm-")
    with monkeypatch.context() as patched:
        patched.setattr(encoder_import, "import_encoder", lambda *_: pytest.fail("read again"))
        assert resolve_encoder(f"hf:{folder}") == path
    np.testing.assert_array_equal(load_encoder(f"hf:{folder}").embed(PROTEINS), load_encoder(path).embed(PROTEINS))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert resolve_encoder(f"hf:{folder}") != path
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    assert resolve_encoder(path) == path and resolve_encoder("nowhere") == Path("nowhere")


def test_what_raypro_exported_is_read_by_its_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raypro.json").write_text("{}")
    asked: list[tuple[Path, Path]] = []
    monkeypatch.setattr(encoder_import, "native", lambda folder, out: asked.append((folder, out)) or out)
    assert import_encoder(tmp_path, tmp_path / "out", "hf") == tmp_path / "out" and asked == [(tmp_path, tmp_path / "out")]


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
        hostile("amplify", "config.json", model_type="AMPLIFY"),
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


def _edit(file: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))

    return change


def _write(file: str, text: str) -> Any:
    return lambda folder: (folder / file).write_text(text)


def _remove(*files: str) -> Any:
    return lambda folder: [(folder / file).unlink() for file in files]


def _lose_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["esm.encoder.layer.1.attention.self.query.weight"]
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
        (_edit("config.json", hidden_size="wide"), "no esm model can be made of it"),
        (_edit("config.json", hidden_size=32), "its weights cannot be read"),
        (_edit("config.json", is_decoder=True), "esm is no encoder of a masked language model"),
        (_edit("config.json", vocab_size=20), "they do not belong together"),
        (_write("config.json", json.dumps({"model_type": "gpt2"})), "gpt2 is no encoder"),
        (_write("config.json", json.dumps({"model_type": "bart"})), "bart is an encoder with a decoder"),
        (_remove("model.safetensors"), "no weights in it"),
        (_write("model.safetensors", "no tensors"), "its weights cannot be read"),
        (_cut, "its weights cannot be read"),
        (_lose_a_weight, "lack encoder.layer.1.attention.self.query.weight and 0 more"),
        (_remove("vocab.txt", "tokenizer_config.json"), "its tokenizer cannot be read"),
        (_write("vocab.txt", "<cls>\n<pad>\n<eos>\n<unk>\nthe\nof\n<mask>"), "no token for amino acid"),
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


@pytest.mark.parametrize("kind", ["DistilBert", "RoFormer", "Roberta", "Esmc"])
def test_others_take_as_many_residues_as_is_said(kind: str, tmp_path: Path) -> None:
    import transformers

    sizes = {**SMALL, "vocab_size": len(BERT_TOKENS), "max_position_embeddings": 40}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 30, "max_position_embeddings": 40}
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "protbert")
    _edit("tokenizer_config.json", tokenizer_class="BertTokenizer")(tmp_path)
    shape, weights = read_hugging_face(tmp_path)
    assert shape.longest == {"DistilBert": 38, "RoFormer": 38, "Roberta": 36, "Esmc": None}[kind]
    module = shape.build().eval()
    module.load_state_dict(weights)
    assert torch.isfinite(module(batch_of("A" * (shape.longest or 100)).tokens)).all()


def test_a_name_that_cannot_be_fetched_is_one_line(raypro_home: Path) -> None:
    for name, message in (
        ("nobody/no-such-protein-model", "no such folder, and the hub does not give it"),
        ("/nowhere/at/all", "no such folder, and no name on the hub"),
        ("../gone", "no such folder, and no name on the hub"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_encoder(f"hf:{name}")
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (raypro_home / "encoders").exists()


def test_without_transformers_the_way_to_it_is_named(
    folders: dict[str, Path], encoders: dict[str, LoadedEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (encoders["esm2"].shape.build, lambda: read_hugging_face(folders["esm2"])):
        with pytest.raises(InputError, match=r"pip install 'raypro\[transformers\]'"):
            call()


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


def test_embed_takes_a_folder_and_lists_what_is_too_long(folders: dict[str, Path], raypro_home: Path, tmp_path: Path) -> None:
    proteins = {f"p{i}": protein for i, protein in enumerate([*PROTEINS, "A" * (LONGEST + 1)])}
    source, out = write_fasta(tmp_path / "new.fasta", proteins), tmp_path / "vectors.npz"
    with pytest.raises(SystemExit) as ended:
        main(["embed", str(source), "--encoder", f"hf:{folders['esm1b']}", "--out", str(out), "--per-residue", "--workers", "0"])
    assert ended.value.code == 0
    ids, vectors = read(out, per_residue=True)
    assert ids == list(proteins)[:-1]
    for found, expected in zip(vectors, by_hand(folders["esm1b"], PROTEINS), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert f"longer than {LONGEST} residues" in (tmp_path / "vectors.npz.rejects.tsv").read_text()


def test_evaluate_and_import_take_a_folder(
    folders: dict[str, Path], raypro_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = hydrophobic_share(tmp_path / "data", {"train": 30, "valid": 20, "test": 20})
    evaluate = ["evaluate", "--encoder", f"hf:{folders['prott5']}", "--probe", "regression", "--data", str(data.path)]
    importing = ["encoder", "import", str(folders["protbert"]), "--from", "hf", "--out", str(tmp_path / "imported")]
    for args in (evaluate, importing):
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == 0, capsys.readouterr().err
    (figures,) = (raypro_home / "encoders" / "probes").rglob("probes.json")
    assert figures.parent.name == "regression" and checkpoint.load(tmp_path / "imported").step == 0


def test_fine_tuning_changes_every_weight(folders: dict[str, Path], raypro_home: Path, tmp_path: Path) -> None:
    data = hydrophobic_share(tmp_path / "data", {"train": 24, "valid": 12})
    experiment = fine_tuning("regression", f"hf:{folders['esm2']}", str(data.path))
    assert experiment.name.startswith("regression-esm2-")
    experiment = replace(experiment, batches=SequenceBatches(size=8), budget=Budget(steps=3), optimizer=Adam(1e-3, warmup_steps=0))
    (tmp_path / "run").mkdir()
    train(Finetuning.load(resolved(experiment, data)), tmp_path / "run", lambda metrics, path: None, None)
    (path,) = (tmp_path / "run").glob("step_*")
    before, after = load_encoder(f"hf:{folders['esm2']}").module, load_encoder(path).module.state_dict()
    assert all(not torch.equal(weight, after[name]) for name, weight in before.named_parameters())
    FineTuned.load(path)


@pytest.mark.cluster
@pytest.mark.slow
def test_the_job_fine_tunes_a_folder(folders: dict[str, Path], home: Path, ray_cluster: None) -> None:
    data = hydrophobic_share(home / "data", {"train": 24, "valid": 12, "test": 12})
    args = ["--task", "regression", "--encoder", f"hf:{folders['protbert']}", "--data", str(data.path), "--name", "protbert"]
    finetune_main(fine_tuning, [*args, "--budget.epochs", "1", "--batches.size", "8", "--workers.cpus", "0.5", "--task.hidden", "16"])
    assert (run_folder("protbert") / "scores.json").is_file()


def test_padding_tokens_do_not_matter(encoders: dict[str, LoadedEncoder]) -> None:
    tokens = batch_of("MKVLA").tokens
    padded = torch.nn.functional.pad(tokens, (0, 9), value=PAD)
    for encoder in encoders.values():
        torch.testing.assert_close(encoder.module(padded)[:, :7], encoder.module(tokens), atol=1e-5, rtol=1e-5)
