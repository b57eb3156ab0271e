"""From training to the page: what was trained, probed and fine-tuned here stands in the report with the figures that it left."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raypro import probing, tracking
from raypro.cluster.train import describe_corpus, describe_experiment, describe_labelled
from raypro.config import to_plain
from raypro.core.objectives.mlm import MLM
from raypro.data.labelled import LabelledData
from raypro.data.source import read_here
from raypro.experiment import AnyExperiment
from raypro.finetuning import FineTuned, Finetuning, resolved
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import Outbox
from raypro.pretraining import Pretraining
from raypro.probing import evaluate_command
from raypro.report import report_command
from raypro.scoring import score_and_report
from raypro.summary import conclude, logged_points
from raypro.training import train
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, tiny_fine_tuning, write_corpus


@contextmanager
def begun(experiment: AnyExperiment, checksum: str) -> Iterator[tuple[Path, Outbox]]:
    """Do what the driver does around a run; give its folder and outbox."""
    run = run_folder(experiment.name)
    run.mkdir(parents=True)
    (run / RUN_FILE).write_text(json.dumps({"experiment": experiment.to_plain(), "data_checksum": checksum}))
    with tracking.Sender(run, experiment.stage, experiment.name) as sender:
        describe_experiment(sender.outbox, experiment)
        yield run, sender.outbox


def pretrain(folder: Path) -> Path:
    """Pre-train a tiny model; return its run."""
    corpus = write_corpus(folder, {"train": random_sequences(80, 12, 30), "valid": random_sequences(12, 12, 30, seed=1)})
    experiment = tiny_experiment(corpus.path, "before", objective=MLM())
    with begun(experiment, corpus.manifest.checksum) as (run, outbox):
        describe_corpus(outbox, experiment, corpus)
        train(Pretraining(experiment, read_here), run, lambda metrics, path: None, None)
        conclude(experiment, run, run / "step_00000008", outbox)
    return run


def fine_tune(start: Path, data: LabelledData) -> Path:
    """Fine-tune an encoder on labelled data; return the run."""
    experiment = resolved(tiny_fine_tuning(data.path, "after", start=str(start)), data)
    with begun(experiment, data.manifest.checksum) as (run, outbox):
        describe_labelled(outbox, experiment, data)
        train(Finetuning.load(experiment), run, lambda metrics, path: None, None)
        score_and_report(FineTuned.load(max(run.glob("step_*"))), data, run, outbox)
    return run


@pytest.mark.slow
def test_what_was_trained_probed_and_fine_tuned_stands_on_the_page(
    tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "INTERVAL", 0.1)
    monkeypatch.setattr(probing, "draw", lambda *_: [])  # pictures, which take longer than all else, are no figures of the report
    manifest = hydrophobic_share(tmp_path / "stab", {"train": 30, "valid": 12, "test": 16}).manifest
    (tmp_path / "stab" / "manifest.json").write_text(json.dumps(to_plain(replace(manifest, options='{"task": "stability"}'))))
    data = LabelledData.open(tmp_path / "stab")
    before = pretrain(tmp_path / "corpus")
    start = before / "step_00000004"  # half of the way
    evaluate_command(start, "stability", data.path)
    after = fine_tune(start, data)
    report_command(tmp_path / "report", ui="http://127.0.0.1:5000")
    html = (tmp_path / "report" / "report.html").read_text()
    with (tmp_path / "report" / "report.csv").open(newline="") as file:
        cells = {(row["table"], row["row"], row["column"]): row for row in csv.DictReader(file)}

    logged = {name: dict(points) for name, points in logged_points(before).items()}
    learned = cells["What pre-training learned", "MLM, Transformer", "perplexity, masked"]
    assert float(learned["residues"]) == logged["train/residues"][8] and f">{float(learned['ours']):.2f}</a>" in html

    found = json.loads((before / "probes" / start.name / "stability" / "probes.json").read_text())["probes"]
    own = next(f for f in found if f["representation"] == "this encoder" and f["probe"] == "linear regression")
    probed = cells["Stability, static vectors", "MLM, Transformer", "linear: ρ"]
    assert float(probed["ours"]) == own["scores"]["test"]["spearman"] and float(probed["residues"]) == logged["train/residues"][4]

    reached = json.loads((after / "scores.json").read_text())
    tuned = cells["The five tasks", "MLM, Transformer", "stability, ρ"]
    assert float(tuned["ours"]) == reached["scores"]["test"]["spearman"] and f">{float(tuned['ours']):.3f}".replace("-", "−") in html
    assert [float(tuned["low"]), float(tuned["high"])] == reached["intervals"]["test"]["spearman"]
    again = {name: dict(points) for name, points in logged_points(after).items()}["train/residues"]
    assert float(tuned["residues"]) == logged["train/residues"][4] + again[max(again)]
    assert (tuned["about"], tuned["checksum"], tuned["published"]) == ("from before", learned["checksum"], "0.73")
    assert tuned["run_id"] != learned["run_id"] == probed["run_id"] and f"/runs/{tuned['run_id']}" in html
