"""``raypro evaluate``: what it writes and logs, and one line where it cannot."""

import importlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raypro import probing
from raypro.config import InputError
from raypro.encoder import load_encoder
from raypro.evaluate import probe_plots
from raypro.job import command_main
from raypro.outbox import read_records
from raypro.probe_tasks import PROBES, evaluate_labelled
from raypro.probing import evaluate_command, said
from tests.fine_tuned import save_model
from tests.small import hydrophobic_share
from tests.test_probing import NAMES, SIZES, classes_of, family_table, residues_of
from tests.test_representations import encoder_of


def evaluated(tmp_path: Path, probe: str, **options: Any) -> tuple[Path, Path]:
    """Evaluate a model of a run; return the folder of what was found, and the run's."""
    run = tmp_path / "run"
    data = family_table(tmp_path / "f.tsv") if probe == "families" else None
    if data is None:
        make = {"stability": hydrophobic_share, "remote_homology": classes_of, "secondary_structure": residues_of}[probe]
        data = make(tmp_path / "data", SIZES).path
    checkpoint = save_model(run)
    (run / "run.json").write_text("{}")
    evaluate_command(checkpoint, probe, data, **options)
    return options.get("out") or run / "probes" / checkpoint.name / probe, run


@pytest.mark.parametrize("probe", ["stability", "remote_homology", "secondary_structure", "families"])
def test_the_command_writes_figures_predictions_pictures_and_the_outbox(
    probe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Path] = []
    monkeypatch.setattr(probing, "send_pending", sent.append)
    monkeypatch.setattr(probe_plots, "MOST_POINTS", 15)
    folder, run = evaluated(tmp_path, probe, **({"members": 10} if probe == "families" else {}))
    figures = json.loads((folder / "probes.json").read_text())
    assert figures["probe"] == probe and {p["representation"] for p in figures["probes"]} == set(NAMES) == set(figures["representations"])
    table = pq.read_table(folder / "predictions.parquet")
    rows = sum(figures["predicted"].values()) * len(figures["probes"])
    assert table.num_rows == rows and {"representation", "probe", "split", "id", "predicted"} < set(table.column_names)
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    expected = {"stability": {"tsne_test.png", "scatter_test.png"}, "families": {"tsne_test.png"}}
    assert pictures == {"beside_baselines.png"} | expected.get(probe, {"confusion_test.png"})
    records = [record for record, _ in read_records(run / "tracking" / "outbox-probes.jsonl", 0) if record]
    assert [record["step"] for record in records if record["kind"] == "metrics"] == [3] and sent == [run]
    assert all(name.startswith(f"probe_{probe}/") for name in records[0]["values"])
    assert {Path(record["path"]).name for record in records if record["kind"] == "artifact"} == {"probes.json"} | pictures
    (text,) = (record["text"] for record in records if record["kind"] == "text")
    assert text.count("| random weights |") == len(figures["probes"]) // 4
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES) and str(folder / "predictions.parquet") in shown


def test_a_server_that_does_not_answer_leaves_the_figures_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Path) -> None:
        raise InputError("no answer")

    monkeypatch.setattr(probing, "send_pending", refuse)
    folder, _ = evaluated(tmp_path, "families", members=10, out=tmp_path / "out")
    assert folder == tmp_path / "out" and (folder / "probes.json").is_file()
    assert "not in MLflow yet: no answer; raypro runs sync run sends it" in capsys.readouterr().out


def test_a_checkpoint_of_no_run_has_no_outbox(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "alone")
    evaluate_command(checkpoint, "families", family_table(tmp_path / "f.tsv"), out=tmp_path / "out", members=10)
    assert not (tmp_path / "alone" / "tracking").exists() and (tmp_path / "out" / "probes.json").is_file()


def test_an_encoder_may_be_named_as_embed_takes_it(tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of a run, whose best checkpoint is meant."""
    monkeypatch.setattr(probing, "send_pending", lambda run: None)
    run, table = raypro_home / "runs" / "mine", family_table(tmp_path / "f.tsv")
    best = save_model(run)
    (run / "run.json").write_text("{}")
    evaluate_command("mine", "families", table, members=10)
    figures = json.loads((run / "probes" / best.name / "families" / "probes.json").read_text())
    assert figures["encoder"] == str(best)
    with pytest.raises(InputError, match="mien: neither a checkpoint's folder nor a run; did you mean mine"):
        evaluate_command("mien", "families", table)


def test_two_proteins_are_no_map_and_lose_no_figures(tmp_path: Path) -> None:
    folder, _ = evaluated(tmp_path, "families", families=2, members=2, out=tmp_path / "out")
    assert json.loads((folder / "probes.json").read_text())["predicted"] == {"test": 2}
    assert (folder / "predictions.parquet").is_file()
    assert [path.name for path in (folder / "pictures").iterdir()] == ["beside_baselines.png"]


def test_a_picture_that_cannot_be_drawn_takes_no_figures_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr(probing, "draw", fail)
    with pytest.raises(ValueError, match="no picture"):
        evaluated(tmp_path, "families", members=10, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"probes.json", "predictions.parquet"}


def test_what_did_not_converge_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypro.evaluate.probes.MOST_ITERATIONS", 1)
    monkeypatch.setattr("raypro.evaluate.probes.LEAST_ITERATIONS", 1)
    found = evaluate_labelled(encoder_of(), "classification", classes_of(tmp_path / "data"))
    assert any("this encoder, logistic regression (C = " in line and "not converged after 1 iterations" in line for line in said(found))


def test_the_job_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "jobs"))
    assert importlib.import_module("evaluate").evaluate_command is evaluate_command
    args = ["--encoder", str(save_model(tmp_path / "run")), "--probe", "families", "--data", str(family_table(tmp_path / "f.tsv"))]
    command_main(evaluate_command, [*args, "--members", "10", "--families", "3", "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "probes.json").read_text())["notes"][0].startswith("the 3 largest families, 10 sequences")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, data = save_model(tmp_path / "run"), hydrophobic_share(tmp_path / "data", SIZES).path
    no_valid = hydrophobic_share(tmp_path / "no_valid", {"train": 5, "test": 5}).path
    (tmp_path / "plain.tsv").write_text("id\tsequence\np\tACDEF\n")
    for probe, where, options, message in [
        ("stabilty", data, [], "--probe stabilty: no such probe; did you mean stability?"),
        ("contacts", data, [], "--probe contacts: no such probe"),
        ("remote_homology", data, [], "--probe remote_homology: needs classification labels"),
        ("stability", no_valid, [], "no valid split; probes are fitted to train and chosen by valid"),
        ("stability", tmp_path / "nothing", [], "nothing: no such folder of labelled data"),
        ("stability", data, ["--pooling", "c_final"], "pooling: 'c_final' is none of this encoder's"),
        ("contrastive", data, ["--pooling", "mean"], "--pooling: --probe contrastive has no vector of a whole sequence; leave it out"),
        ("secondary_structure", data, ["--pooling", "mean"], "--pooling: --probe secondary_structure has no vector"),
        ("stability", data, ["--families", "50"], "--families, --members and --family-column: --probe stability draws no families"),
        ("contrastive", data, ["--members", "9"], "--probe contrastive draws no families; leave them out"),
        ("regression", data, ["--family-column", "clan"], "--probe regression draws no families; leave them out"),
        ("families", tmp_path / "plain.tsv", [], "plain.tsv: no protein in it has a family"),
        ("families", tmp_path / "plain.tsv", ["--family-column", "fold"], "--family-column fold: proteins are grouped by"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            command_main(evaluate_command, ["--encoder", str(encoder), "--probe", probe, "--data", str(where), *options])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    assert "contacts" not in PROBES
    with pytest.raises(InputError, match="not a checkpoint"):
        evaluate_command(tmp_path, "stability", data)


def test_weights_that_are_no_numbers_are_one_line(tmp_path: Path) -> None:
    encoder = load_encoder(save_model(tmp_path / "run"))
    next(encoder.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite numbers"):
        evaluate_labelled(encoder, "regression", hydrophobic_share(tmp_path / "data", SIZES))
