"""``hf:FOLDER`` wherever an encoder is asked for: vectors, probes, fine-tuning; each model is read once."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raypro import encoder_import
from raypro.cli import main
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.optimizer import Adam
from raypro.encoder import load_encoder
from raypro.encoder_import import import_encoder, resolve_encoder
from raypro.finetuning import FineTuned, Finetuning, resolved
from raypro.home import run_folder
from raypro.job import finetune_main
from raypro.presets import fine_tuning
from raypro.settings import Budget, SequenceBatches
from raypro.training import train
from tests.embedding_runs import read
from tests.fine_tuned import write_fasta
from tests.hugging_face_models import LONGEST, NAMES, by_hand, save
from tests.small import hydrophobic_share, random_sequences

pytest.importorskip("transformers")

PROTEINS = ["MKVLAAGIVXWC", "ACDEFGHIKLMNPQRSTVWY", "M", *random_sequences(6, 5, LONGEST, seed=2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp("models") / name, name) for name in NAMES}


def test_a_model_is_read_once_and_anew_when_its_files_change(tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "tiny-esm", "esm2")
    path = resolve_encoder(f"hf:{folder}")
    assert path.parent == raypro_home / "encoders" and path.name.startswith("tiny-esm-")
    with monkeypatch.context() as patched:
        patched.setattr(encoder_import, "read_hugging_face", lambda *_: pytest.fail("read again"))
        assert resolve_encoder(f"hf:{folder}") == path
    np.testing.assert_array_equal(load_encoder(f"hf:{folder}").embed(PROTEINS), load_encoder(path).embed(PROTEINS))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert resolve_encoder(f"hf:{folder}") != path
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    assert resolve_encoder(path) == path and resolve_encoder("nowhere") == Path("nowhere")


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


def test_two_that_read_a_model_at_once_share_it_and_leave_nothing(
    tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "model", "protbert")
    expected = resolve_encoder(f"hf:{folder}")
    kept, reading = tmp_path / "kept", encoder_import.read_hugging_face
    os.rename(expected, kept)

    def overtaken(path: Path) -> object:
        os.rename(kept, expected)
        return reading(path)

    monkeypatch.setattr(encoder_import, "read_hugging_face", overtaken)
    assert resolve_encoder(f"hf:{folder}") == expected and checkpoint.load(expected)
    assert os.listdir(expected.parent) == [expected.name]


def test_a_home_or_a_place_that_cannot_be_written_is_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYPRO_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="cannot be written .*; set RAYPRO_HOME"):
        resolve_encoder(f"hf:{folders['esm2']}")
    with pytest.raises(InputError, match="--out .*: cannot be written .*; choose another place"):
        import_encoder(folders["esm2"], tmp_path / "file" / "out", "hf")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="cannot be written .No space left on device"):
            import_encoder(folders["esm2"], tmp_path / "out", "hf")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists"):
        import_encoder(folders["esm2"], tmp_path / "dangling", "hf")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.slow
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
    assert figures.parent.name == "regression-data" and checkpoint.load(tmp_path / "imported").step == 0


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
