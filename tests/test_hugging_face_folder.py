"""The folder of an exported model: its card, the commands, and what is refused. transformers is not needed for any of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raypro.cli import main
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.objectives.mlm import MLM
from raypro.encoder_import import import_encoder
from raypro.hugging_face_export import export, native
from raypro.settings import Tracking
from tests.exported import LONGEST, TINY, saved
from tests.small import random_sequences, write_corpus


def test_the_card_says_what_the_run_knows_and_nothing_of_the_machine(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "secret" / "pfam", {"train": random_sequences(9, 5, 5), "valid": ["MK"], "test": ["MK"]})
    tracking = Tracking(uri="https://me:password@server")
    _, path = saved(tmp_path / "secret", TINY, MLM(head_norm=True), corpus=corpus.path, tracking=tracking)
    (path.parent / "run.json").write_text(json.dumps({"data_checksum": corpus.manifest.checksum}))
    export(path, tmp_path / "out", max_length=LONGEST)
    card = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "corpus `pfam`",
        corpus.manifest.checksum,
        "9 sequences of 45 residues",
        "| valid/loss | 2.5 |",
        "EsmForMaskedLM",
        "Licence",
    ):
        assert said in card
    assert "license:" not in card
    texts = [file.read_text() for file in (tmp_path / "out").iterdir() if file.suffix in (".json", ".md")]
    assert not any("secret" in text or "password" in text for text in texts)


def test_counts_of_a_corpus_that_is_not_the_runs_are_not_on_the_card(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "pfam", {"train": ["MK"], "valid": ["MK"], "test": ["MK"]})
    _, path = saved(tmp_path / "run", TINY, MLM(), corpus=corpus.path)
    (path.parent / "run.json").write_text(json.dumps({"data_checksum": "of another"}))
    export(path, tmp_path / "out", LONGEST)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`of another`" in card and corpus.manifest.checksum not in card and "1 sequences" not in card


def test_the_commands_export_and_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = saved(tmp_path, TINY, MLM(head_norm=True))
    with pytest.raises(SystemExit) as exported:
        main(["encoder", "export", str(path), "--to", "hf", "--out", str(tmp_path / "out"), "--max-length", "60"])
    assert exported.value.code == 0 and "EsmForMaskedLM" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "raypro.json", "raypro.safetensors")
    }
    with pytest.raises(SystemExit) as back:
        main(["encoder", "import", f"hf:{tmp_path / 'out'}", "--out", str(tmp_path / "back")])  # says whose it is
    assert back.value.code == 0
    assert torch.equal(checkpoint.load(tmp_path / "back").weights["encoder.embedding.weight"], model.encoder.embedding.weight)


def test_a_source_that_contradicts_the_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["encoder", "import", "hf:some/model", "--from", "tape", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "hf:some/model: a model of Hugging Face, but --from tape" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved(tmp_path / "run", TINY, MLM())
    _, other = saved(tmp_path / "other", ConvolutionShape(width=8), MLM())
    _, broken = saved(tmp_path / "broken", TINY, MLM())
    _, imported = saved(tmp_path / "imported", TINY, MLM())
    weights = load_file(imported / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if name.startswith("encoder.")}, imported / "model.safetensors")
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.norm.bias"]
    save_file(weights, broken / "model.safetensors")
    (tmp_path / "taken").mkdir()
    cases = [
        (tmp_path / "none", tmp_path / "out", {}, "not a checkpoint"),
        (path, tmp_path / "taken", {}, "exists"),
        (path, tmp_path / "out", {"max_length": 0}, "--max-length 0"),
        (other, tmp_path / "out", {}, "of another kind .Convolution.*Transformers"),
        (broken, tmp_path / "out", {}, "encoder.norm.bias"),
        (imported, tmp_path / "out", {}, "an imported encoder"),
        (path, path / "model.safetensors" / "out", {}, "cannot be written"),
    ]
    for checkpoint_, out, options, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            export(checkpoint_, out, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("raypro.hugging_face_export.card", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(path, tmp_path / "out")
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        plain = json.loads((folder / "raypro.json").read_text())
        change(plain)
        (folder / "raypro.json").write_text(json.dumps(plain))

    return edit


def without(file: str, name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / file)
        del weights[name]
        save_file(weights, folder / file)

    return edit


def resized(name: str, *size: int, file: str = "model.safetensors") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / file)
        assert name in weights
        weights[name] = torch.zeros(size)
        save_file(weights, folder / file)

    return edit


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no_json": (lambda folder: (folder / "raypro.json").write_text("{"), "raypro.json: damaged"),
    "a_list": (lambda folder: (folder / "raypro.json").write_text("[1]"), "raypro.json: damaged"),
    "no_parts": (lambda folder: (folder / "raypro.json").write_text("{}"), "raypro.json: damaged"),
    "newer": (edited(lambda plain: plain["about"].update(version=2)), "of format version 2, this raypro reads 1"),
    "unknown_field": (edited(lambda plain: plain["about"].update(run="rm")), "about.run: no such field"),
    "step_is_text": (edited(lambda plain: plain["about"].update(step="7")), "about.step: expected int"),
    "metrics_are_a_list": (edited(lambda plain: plain.update(metrics=[1])), "metrics: expected numbers by name"),
    "metric_is_text": (edited(lambda plain: plain["metrics"].update(loss="low")), "metrics.loss: expected float"),
    "unknown_kind": (edited(lambda plain: plain["experiment"].update(kind="Evil")), "raypro.json: .*unknown kind 'Evil'"),
    "unknown_encoder": (edited(lambda plain: plain["experiment"]["encoder"].update(width="wide")), "raypro.json: .*width: expected int"),
    "no_width": (edited(lambda plain: plain["experiment"]["encoder"].update(width=0)), "raypro.json: encoder.width: 0 must be 1 or more"),
    "no_heads": (edited(lambda plain: plain["experiment"]["encoder"].update(heads=0)), "raypro.json: encoder.heads: 0 must be 1 or more"),
    "other_encoder": (edited(lambda plain: plain["experiment"].update(encoder={"kind": "ConvolutionShape"})), "expected TransformerShape"),
    "more_layers": (edited(lambda plain: plain["experiment"]["encoder"].update(layers=3)), "no weight .*layer.2"),
    "no_weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: missing or damaged"),
    "half_weights": (lambda folder: os.truncate(folder / "model.safetensors", 999), "model.safetensors: missing or damaged"),
    "no_query": (without("model.safetensors", "esm.encoder.layer.1.attention.self.query.weight"), "no weight .*layer.1.*query.weight"),
    "other_shape": (resized("lm_head.dense.bias", 3), r"token_head.0.bias should be \(24,\), found \(3,\)"),
    "other_query": (resized("esm.encoder.layer.1.attention.self.query.weight", 3, 3), "not those of its experiment"),
    "no_table": (resized("esm.embeddings.word_embeddings.weight", 3), "encoder.embedding.weight should be"),
    "number": (resized("lm_head.bias"), "not those of its experiment"),
    "kept_number": (resized("encoder.embedding.weight", file="raypro.safetensors"), "not those of its experiment"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_folder_is_one_line(name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    _, path = saved(tmp_path, TINY, MLM(head_norm=True))
    export(path, tmp_path / "out", max_length=LONGEST)
    change(tmp_path / "out")
    with pytest.raises(InputError, match=message) as caught:
        native(tmp_path / "out", tmp_path / "back")
    assert "\n" not in str(caught.value) and str(tmp_path / "out") in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_a_folder_for_the_checkpoint_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    _, path = saved(tmp_path, TINY, MLM())
    export(path, tmp_path / "out", max_length=LONGEST)
    with pytest.raises(InputError, match="exists"):
        import_encoder(tmp_path / "out", path, "hf")
