"""``raypro dca``: contacts from an alignment alone, and beside a model's map."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from raypro.address import tracking_address
from raypro.cli import main
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.alphabet import STANDARD
from raypro.core.objectives.mlm import MLM
from raypro.data.synthetic import Family, planted_contacts, residue_couplings, sample_potts
from raypro.direct_coupling import dca_command
from raypro.mlflow_store import Store
from tests.small import tiny_experiment

WIDTH = 20


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an A3M of a planted family and its contacts."""
    folder, rng = tmp_path_factory.mktemp("family"), np.random.default_rng(3)
    planted = Family("planted", planted_contacts(WIDTH, rng), rng.normal(0.0, 1.0, (WIDTH, 20)).astype(np.float32))
    rows = ["".join(STANDARD[a] for a in row) for row in sample_potts(planted, residue_couplings(2.0, rng), 600, rng).tolist()]
    (folder / "fold.a3m").write_text("".join(f">s{k}\n{row[:7]}{'acd' * (k % 2)}{row[7:]}\n" for k, row in enumerate(rows)))
    (folder / "fold.tsv").write_text("".join(f"{i + 1}\t{j + 1}\t5.0\n" for i, j in planted.contacts.tolist()))
    return folder


def save_model(folder: Path, **changes: object) -> Path:
    """Save an untrained model as a checkpoint."""
    experiment = tiny_experiment(folder, **changes)
    path = folder / "step_00000003"
    checkpoint.save(path, experiment.objective.build(experiment.encoder.build()), experiment.to_plain(), 3, {"loss": 1.0})
    return path


def test_contacts_are_ranked_scored_and_drawn(family: Path, tmp_path: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs best first with the query's residues; precision with that of a random ranking; a model's map beside it."""
    out, model = tmp_path / "new" / "out", save_model(tmp_path)
    args = ["--contacts", str(family / "fold.tsv"), "--beside", str(model), "--sequences", "2", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["dca", str(family / "fold.a3m"), *args])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "600 sequences" in said and "random" in said and str(out / "contacts.tsv") in said
    with (out / "contacts.tsv").open() as file:
        pairs = list(csv.DictReader(file, delimiter="\t"))
    assert len(pairs) == (WIDTH - 5) * (WIDTH - 4) // 2 and all(int(p["j"]) - int(p["i"]) >= 5 for p in pairs)
    scores = [float(p["score"]) for p in pairs]
    assert scores == sorted(scores, reverse=True)
    query = next(line for line in (family / "fold.a3m").read_text().splitlines() if not line.startswith(">"))
    assert all((p["residue_i"], p["residue_j"]) == (query[int(p["i"]) - 1], query[int(p["j"]) - 1]) for p in pairs)
    contacts = {tuple(line.split("\t")[:2]) for line in (family / "fold.tsv").read_text().splitlines()}
    assert all((p["contact"] == "1") == ((p["i"], p["j"]) in contacts) for p in pairs)
    found = json.loads((out / "metrics.json").read_text())
    fitted, implied = found["precision"]["direct coupling analysis"], found["precision"]["pair head, label-free"]
    hits = [p["contact"] == "1" for p in pairs]
    assert fitted["contacts/P_at_L5_over_4"] == np.mean(hits[: WIDTH // 5]) == 1.0
    assert fitted["contacts/random_precision_over_4"] == implied["contacts/random_precision_over_4"] == pytest.approx(np.mean(hits))
    assert implied["contacts/P_at_L_over_4"] < 1.0 and found["converged"] and found["sequences"] == 600
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")
    (run,) = (raypro_home / "runs").glob("dca-fold-*")
    with Store(tracking_address(None)) as store:
        (record,) = store.runs(["alignments"])
    assert (record.name, record.status, record.params["kind"]) == (run.name, "FINISHED", "Alignment")
    assert record.metrics["contacts/P_at_L5_over_4"] == 1.0 and record.metrics["train/minutes"] > 0
    logged = {name: value for name, value in record.metrics.items() if name.startswith("pair_head/")}
    assert logged == {name.replace("contacts/", "pair_head/"): pytest.approx(value) for name, value in implied.items()}
    assert "12 and more" in said and "24 and more" not in said and "nan" not in said


def test_of_a_narrow_alignment_ranges_without_a_pair_are_left_out(
    family: Path, tmp_path: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(family / "fold.a3m"), str(family / "fold.tsv")]
    with pytest.raises(SystemExit) as ended:
        main(["contacts", str(save_model(tmp_path)), *files, "--sequences", "1", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "contacts/P_at_L5_medium" in said and "P_at_L5_long" not in said and "nan" not in said


def test_without_contacts_nothing_is_scored(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs as near as asked for, a picture, no precision; what is there stays unless told otherwise; few sequences are said to be few."""
    few = tmp_path / "few.fasta"
    few.write_text("".join(f">{k}\n{row}\n" for k, row in enumerate(["ACDEFGHI", "ACDEFGHK", "MKLVWYST", "MKLAWYS-"])))
    dca_command(few, out=tmp_path, separation=1, steps=3)
    said = " ".join(capsys.readouterr().out.split())
    assert "expect little" in said and "not converged after 3 steps" in said and "precision" not in said
    lines = (tmp_path / "contacts.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["i", "j", "residue_i", "residue_j", "score"] and len(lines) == 1 + 8 * 7 // 2
    with pytest.raises(InputError, match="there already"):
        dca_command(few, out=tmp_path)
    before = (tmp_path / "contacts.tsv").read_bytes()
    dca_command(few, out=tmp_path, separation=1, steps=3, overwrite=True)
    assert (tmp_path / "contacts.tsv").read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["ACDEF", "ACDEY"], {}, "5 columns"),
        (["ACDEFGH"] * 3, {}, "all sequences are the same"),
        (["ACDEFGH", "ACDEFGY"], {"separation": 7}, "7 columns, none of them 7 apart"),
        (["ACDEFGH", "ACDEFGY"], {"identity": 1.2}, "--identity 1.2"),
        (["ACDEFGH", "ACDEFGY"], {"penalty": 0.0}, "--penalty 0.0"),
        (["ACDEFGH", "ACDEFGY"], {"steps": 0}, "--steps 0"),
        (["A" * 50_000, "C" * 50_000], {}, "50000 columns need .* GB"),
    ],
)
def test_what_cannot_be_analysed_is_named(tmp_path: Path, rows: list[str], options: dict[str, float], message: str) -> None:
    """Nothing is written then."""
    path = tmp_path / "family.fasta"
    path.write_text("".join(f">{k}\n{row}\n" for k, row in enumerate(rows)))
    with pytest.raises(InputError, match=message):
        dca_command(path, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_pair_head_is_refused_before_the_fit(family: Path, tmp_path: Path) -> None:
    """A masked language model implies no map."""
    model = save_model(tmp_path, objective=MLM())
    with pytest.raises(InputError, match="no pair head"):
        dca_command(family / "fold.a3m", out=tmp_path / "out", beside=model)
    assert not (tmp_path / "out").exists()
