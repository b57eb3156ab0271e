import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.objectives.mlm import MLM
from tests.small import TINY


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch exploded",))


def saved(folder: Path, training: dict | None = None) -> Path:
    checkpoint.save(folder, MLM().build(TINY.build()), {"kind": "Experiment"}, 7, {"valid/loss": 1.5}, training)
    return folder


def test_round_trip(tmp_path: Path) -> None:
    model = MLM().build(TINY.build())
    training = {"step": 7, "cursor": {"deal": [[0, 1]]}, "moments": torch.arange(3.0)}
    checkpoint.save(tmp_path / "c", model, {"a": 1}, 7, {"valid/loss": 1.5}, training)
    loaded = checkpoint.load(tmp_path / "c")
    other = MLM().build(TINY.build())
    checkpoint.load_weights(other, loaded)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert (loaded.step, loaded.metrics, loaded.experiment) == (7, {"valid/loss": 1.5}, {"a": 1})
    again = checkpoint.load_training(tmp_path / "c")
    assert again["cursor"] == training["cursor"] and torch.equal(again["moments"], training["moments"])


def test_nothing_half_written_is_left_under_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path / "c", {"step": 1})
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = saved(tmp_path / "c", {})
    torch.save({"step": Bomb()}, folder / "training.pt")
    with pytest.raises(InputError, match="training.pt: damaged, or holds more than tensors"):
        checkpoint.load_training(folder)
    (folder / "training.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="training.pt"):
        checkpoint.load_training(folder)
    assert not (tmp_path / "exploded").exists()


def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load(tmp_path)
    folder = saved(tmp_path / "c")
    with pytest.raises(InputError, match="it can be used, but not resumed"):
        checkpoint.load_training(folder)
    about = json.loads((folder / "experiment.json").read_text())
    (folder / "experiment.json").write_text(json.dumps({**about, "version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        checkpoint.load(folder)
    (folder / "experiment.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match="damaged checkpoint"):
        checkpoint.load(folder)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    loaded = checkpoint.load(saved(tmp_path / "c"))
    with pytest.raises(InputError, match="do not fit this model"):
        checkpoint.load_weights(MLM().build(replace(TINY, width=32).build()), loaded)
