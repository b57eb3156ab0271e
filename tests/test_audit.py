"""A run's record is proof: what was used twice, left out or never written is seen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raypro.audit import audit, epochs_ended, planned, read_uses
from raypro.cli import main
from raypro.data.source import read_here
from raypro.experiment import Experiment
from raypro.finetuning import Finetuning
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import Outbox
from raypro.pretraining import Pretraining, data_plan
from raypro.settings import Budget, Validation
from raypro.training import train
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, tiny_fine_tuning, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "corpus"
    write_corpus(folder, {"train": random_sequences(200, 10, 60), "valid": random_sequences(40, 10, 60, seed=1)})
    return folder


def run(experiment: Experiment, folder: Path) -> None:
    folder.mkdir()
    train(Pretraining(experiment, read_here), folder, lambda metrics, path: None, None)


def test_an_audit_sees_what_was_used_twice_or_left_out(corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(epochs=2))
    run(experiment, tmp_path / "run")
    plan, uses = planned(data_plan(experiment)), read_uses(tmp_path / "run")
    assert audit(plan, [*uses, uses[3]])[0].wrong
    assert audit(plan, uses[:3] + uses[4:])[0].wrong
    swapped = [replace(use, digest=use.digest + 1) if use is uses[5] else use for use in uses]
    assert audit(plan, swapped)[0].wrong


def test_an_audit_sees_an_epoch_left_out_and_one_that_ended_too_soon(corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(epochs=2))
    run(experiment, tmp_path / "run")
    plan, uses = planned(data_plan(experiment)), read_uses(tmp_path / "run")
    skipped = [replace(use, epoch=2) if use.epoch else use for use in uses]
    assert [bool(epoch.wrong) for epoch in audit(plan, skipped)] == [False, True, False]
    assert epochs_ended(tmp_path / "run", experiment) == 2  # by the last checkpoint
    short = [use for use in uses if use is not uses[-1]]
    assert not audit(plan, short)[1].wrong  # as of a run that goes on
    assert audit(plan, short, ended=2)[1].wrong
    assert [len(epoch.wrong) > 0 for epoch in audit(plan, uses[:3], ended=2)] == [True, True]
    assert audit(plan, []) == [] and not any(epoch.wrong for epoch in audit(plan, uses, ended=2))


def test_which_epochs_a_run_has_ended(corpus: Path, tmp_path: Path) -> None:
    """Its last checkpoint says so; where only epochs could end it, so does that it has ended."""
    experiment = tiny_experiment(corpus, budget=Budget(steps=4))
    run(experiment, tmp_path / "run")
    endless = replace(experiment, budget=Budget(epochs=3))
    assert epochs_ended(tmp_path / "run", experiment) == epochs_ended(tmp_path / "run", endless) == 0
    outbox = Outbox(tmp_path / "run", "driver")
    outbox.status("FINISHED")
    outbox.close()
    assert epochs_ended(tmp_path / "run", endless) == 3  # the checkpoint says otherwise: the audit tells what is missing
    patient = replace(endless, validation=Validation(patience=2))
    assert epochs_ended(tmp_path / "run", experiment) == epochs_ended(tmp_path / "run", patient) == 0
    data = hydrophobic_share(tmp_path / "data", {"train": 40, "valid": 8})
    for steps, ended in ((3, 1), (4, 1), (2, 0)):
        tuned, folder = tiny_fine_tuning(data.path, budget=Budget(steps=steps)), tmp_path / f"tuned{steps}"
        folder.mkdir()
        train(Finetuning.load(tuned), folder, lambda metrics, path: None, None)
        assert epochs_ended(folder, tuned) == ended


def test_an_audit_of_an_empty_record_proves_nothing(corpus: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder("empty")
    (folder / "record").mkdir(parents=True)
    plain = tiny_experiment(corpus, "empty").to_plain()
    (folder / RUN_FILE).write_text(json.dumps({"experiment": plain, "data_checksum": ""}))
    with pytest.raises(SystemExit) as exit_:
        main(["runs", "audit", "empty"])
    assert exit_.value.code == 1 and "nothing is proven" in capsys.readouterr().err
