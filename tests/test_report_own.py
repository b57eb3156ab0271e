"""A person's own data: several of a kind stand side by side, in a run's folder, in its artifacts and in the report."""

import json
from pathlib import Path
from typing import Any

import pytest

from raypro import probing
from raypro.evaluate.report_page import page
from raypro.outbox import read_records
from raypro.probe_tasks import evaluate_labelled
from raypro.probing import evaluate_command
from raypro.report import gather
from raypro.report_probed import probed_scores
from raypro.report_runs import Runs
from tests.fine_tuned import save_model
from tests.small import hydrophobic_share
from tests.test_report_tuned import BEFORE, Files


class Folders:
    """A store that holds the given files, and lists them: run -> path -> text."""

    def __init__(self, held: dict[str, dict[str, str]]) -> None:
        self.held = held
        inner = Files(held)
        self.bytes, self.json, self.curve = inner.bytes, inner.json, inner.curve

    def files(self, run_id: str, path: str) -> list[str]:
        names = [name.removeprefix(f"{path}/") for name in self.held.get(run_id, {}) if name.startswith(f"{path}/")]
        return sorted({f"{path}/{name.split('/')[0]}" for name in names})


def probed(data: str, value: float, probe: str = "regression") -> str:
    """Return what an evaluation writes."""
    findings = [
        {"representation": name, "probe": "linear regression", "scores": {"test": {"spearman": reached}}, "intervals": {}}
        for name, reached in (("this encoder", value), ("one-hot", 0.1))
    ]
    return json.dumps({"probe": probe, "data": f"/data/{data}", "data_checksum": data * 3, "fitted_to": 9, "probes": findings})


def runs(files: dict[str, str]) -> Runs:
    return Runs(Folders({"mlm": {f"probes/{path}/probes.json": text for path, text in files.items()}}), [BEFORE])  # type: ignore[arg-type]


def test_of_each_data_the_latest_probe_is_shown():
    found = runs(
        {
            "step_00000010/regression": probed("wells", 0.2),  # of an older raypro, which kept one
            "step_00000010/regression-mine": probed("mine", 0.3),
            "step_00000020/regression-wells": probed("wells", 0.4),
            "step_00000010/stability": probed("stab", 0.5, "stability"),
            "step_00000020/stability": probed("other", 0.6, "stability"),  # of a paper's task the latest, whatever its folder is called
        }
    )
    shown = {(score.task, score.data): score.value for score in probed_scores(found) if not score.model.baseline}
    assert shown == {("own regression", "wells"): 0.4, ("own regression", "mine"): 0.3, ("stability", "other"): 0.6}


def test_results_on_each_data_are_counted_and_judged():
    report = gather(runs({f"step_00000010/regression-{name}": probed(name, 0.3) for name in ("wells", "mine")}), "here")
    assert dict(report.counts)["probes"] == 2
    short = page(report).split('<section id="summary">')[1].split("</section>")[0]
    assert "Of 2 results 2 are better" in short and "wells, linear" in short and "mine, linear" in short


def test_an_evaluation_leaves_that_on_other_data_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quickly(*given: Any) -> Any:
        encoder, probe, data, pooling, _, seed = given
        return evaluate_labelled(encoder, probe, data, pooling, False, seed)

    monkeypatch.setattr(probing, "evaluate_labelled", quickly)
    monkeypatch.setattr(probing, "draw", lambda *_: [])
    monkeypatch.setattr(probing, "send_pending", lambda _: None)
    checkpoint = save_model(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    for seed, name in enumerate(("wells", "my data")):
        evaluate_command(checkpoint, "regression", hydrophobic_share(tmp_path / name, {"train": 30, "valid": 12, "test": 12}, seed).path)
    folders = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "run" / "probes" / checkpoint.name).glob("*/probes.json")
    }
    assert {name: Path(found["data"]).name for name, found in folders.items()} == {
        "regression-wells": "wells",
        "regression-my_data": "my data",
    }
    records = [record for record, _ in read_records(tmp_path / "run" / "tracking" / "outbox-probes.jsonl", 0) if record]
    assert {Path(record["folder"]).name for record in records if record["kind"] == "artifact"} == set(folders)
