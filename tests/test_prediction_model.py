"""Which model is meant: a checkpoint, a run, a registered model; and what is refused."""

import json
from pathlib import Path

import pytest

from raypro import tracking
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.objectives.pmlm import PMLM
from raypro.experiment import Experiment
from raypro.home import run_folder
from raypro.prediction import find_checkpoint, predict_command
from tests.fine_tuned import save_model, write_fasta
from tests.small import TINY


def test_a_pretraining_checkpoint_is_refused_with_advice(tmp_path: Path) -> None:
    experiment = Experiment(name="pre", corpus="nowhere", objective=PMLM(), encoder=TINY)
    checkpoint.save(tmp_path / "step_1", PMLM().build(TINY.build()), experiment.to_plain(), 1, {})
    with pytest.raises(InputError, match="no head that predicts; fine-tune it"):
        predict_command(write_fasta(tmp_path / "a.fasta", {"a": "MKV"}), str(tmp_path / "step_1"), tmp_path / "out.csv")


def test_a_run_means_its_best_checkpoint(raypro_home: Path) -> None:
    run = run_folder("mine")
    for step, metric in ((10, 0.2), (20, 0.7), (30, 0.4)):
        save_model(run, "regression", step, metric)
    (run / "run.json").write_text(json.dumps({}))
    assert find_checkpoint("mine") == find_checkpoint(str(run)) == run / "step_00000020"
    assert find_checkpoint(str(run / "step_00000030")) == run / "step_00000030"


def test_a_run_that_is_not_there_is_named_with_the_nearest(raypro_home: Path) -> None:
    with pytest.raises(InputError, match="stability: neither a checkpoint's folder nor a run; there are no runs"):
        find_checkpoint("stability")
    run_folder("stability-2").mkdir(parents=True)
    (run_folder("stability-2") / "run.json").write_text("{}")
    with pytest.raises(InputError, match="neither .* did you mean stability-2"):
        find_checkpoint("stability")
    with pytest.raises(InputError, match="no checkpoint yet"):
        find_checkpoint("stability-2")


def test_a_registered_model_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    path = save_model(tmp_path / "run")
    monkeypatch.setattr(tracking, "fetch_model", lambda uri: asked.append(uri) or path, raising=False)
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKV"})
    predict_command(source, "models:/stability/3", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,predicted\na,")
    assert asked == ["models:/stability/3"]
