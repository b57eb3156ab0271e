"""``raypro embed``: every form of file, what is left out and why, and what is refused."""

import csv
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raypro.config import InputError
from raypro.data.vector_files import VECTOR_ENDINGS
from raypro.encoder import load_encoder
from tests.embedding_runs import WIDTHS, checkpoint, proteins, read, run, shrink_shards
from tests.fine_tuned import write_fasta

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("ending", VECTOR_ENDINGS)
@pytest.mark.parametrize("encoder", WIDTHS)
@pytest.mark.parametrize("per_residue", [False, True], ids=["pooled", "per_residue"])
def test_every_file_holds_what_the_encoder_gives_in_the_order_of_the_input(
    ending: str, encoder: str, per_residue: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_shards(monkeypatch)
    path, given = checkpoint(tmp_path, encoder), proteins()
    out = run(write_fasta(tmp_path / "a.fasta", given), path, tmp_path / f"out{ending}", per_residue=per_residue)
    ids, vectors = read(out, per_residue)
    loaded = load_encoder(path)
    expected = loaded.embed_residues(list(given.values())) if per_residue else loaded.embed(list(given.values()))
    assert ids == list(given)
    for found, vector, protein in zip(vectors, expected, given.values(), strict=True):
        assert found.shape == ((len(protein), WIDTHS[encoder]) if per_residue else (WIDTHS[encoder],))
        np.testing.assert_allclose(found, vector, atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.fasta", encoder, out.name])


def test_parquet_lists_are_of_fixed_size(tmp_path: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", proteins(3))
    schema = pq.read_schema(run(source, checkpoint(tmp_path), tmp_path / "out.parquet", pooling="c_final"))
    assert str(schema.field("embedding").type).startswith("fixed_size_list<") and schema.field("embedding").type.list_size == 8


def test_ids_of_any_letters_and_length_survive(tmp_path: Path) -> None:
    given = {"é" * 50: "MKVLAMKVLAM", "a": "MKVLAMKVLAMM", "sp|P12345|X_Y": "MKVLAMKVLAMMM"}
    source = write_fasta(tmp_path / "a.fasta", given)
    for ending in VECTOR_ENDINGS:
        assert read(run(source, checkpoint(tmp_path), tmp_path / f"out{ending}"))[0] == list(given)


def test_what_has_no_vector_is_left_out_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"good": "MKVLAMKVLAM", "short": "MKVLAMKVLA", "digit": "MKVLAMKV1LAM", "none": "", "long": "MKVLA" * 9, "also": "MKVLA" * 3}
    source = write_fasta(tmp_path / "a.fasta", given)
    assert read(run(source, checkpoint(tmp_path), tmp_path / "out.npz", max_length=20))[0] == ["good", "also"]
    rejects = {row["id"]: row["cause"] for row in csv.DictReader((tmp_path / "out.npz.rejects.tsv").open(), delimiter="\t")}
    assert list(rejects) == ["short", "digit", "none", "long"]
    assert rejects["short"] == "shorter than one patch of 11 residues: the encoder has no vector for it"
    said = capsys.readouterr().out
    assert "2 sequences embedded (z_mean, D = 8)" in said and "1 shorter than one patch of 11 residues" in said
    assert read(run(source, checkpoint(tmp_path, "transformer"), tmp_path / "all.npz"))[0] == ["good", "short", "long", "also"]


@pytest.mark.parametrize(
    ("source", "out", "options", "message"),
    [
        ("none.fasta", "out.npz", {}, "none.fasta: no such file"),
        ("a.fasta", "out.csv", {}, "out.csv: unknown kind of table; end its name in .parquet, .npz, .h5"),
        ("a.fasta", "nowhere/out.npz", {}, "there is no folder"),
        ("a.fasta", "there.npz", {}, "there.npz: there already"),
        ("a.fasta", "out.npz", {"token_budget": 0}, "must be 1 or more"),
        ("a.fasta", "out.npz", {"max_length": 0}, "must be 1 or more"),
        ("a.fasta", "out.npz", {"workers": -1}, "workers not negative"),
        ("a.fasta", "out.npz", {"pooling": "mean"}, "'mean' is none of this encoder's.*z_mean"),
        ("a.fasta", "out.npz", {"pooling": "c_mean", "per_residue": True}, "one vector a sequence; leave"),
        ("short.fasta", "out.npz", {}, "no protein sequence in it .*shorter than one patch"),
        ("there.npz", "there.npz", {"overwrite": True}, "that is the file of sequences"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(source: str, out: str, options: Any, message: str, tmp_path: Path) -> None:
    encoder = checkpoint(tmp_path)
    write_fasta(tmp_path / "a.fasta", {"a": "MKVLAMKVLAM"})
    write_fasta(tmp_path / "short.fasta", {"a": "MKVLA"})
    (tmp_path / "there.npz").write_text("precious")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path / source, encoder, tmp_path / out, **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before and (tmp_path / "there.npz").read_text() == "precious"


def test_a_wrong_checkpoint_is_one_line(tmp_path: Path, raypro_home: Path) -> None:
    source = write_fasta(tmp_path / "a.fasta", {"a": "MKVLAMKVLAM"})
    (tmp_path / "empty").mkdir()
    for encoder, message in ((tmp_path / "empty", "empty: not a checkpoint"), (source, "neither"), (Path("no-run"), "no-run: neither")):
        with pytest.raises(InputError, match=message):
            run(source, encoder, tmp_path / "out.npz")


def test_a_folder_in_the_place_of_the_parts_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.npz.parts").mkdir()
    (tmp_path / "out.npz.parts" / "mine").touch()
    with pytest.raises(InputError, match="out.npz.parts: cannot be made"):
        run(write_fasta(tmp_path / "a.fasta", proteins(3)), checkpoint(tmp_path), tmp_path / "out.npz", overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*") if "out" in str(path.relative_to(tmp_path))) == ["mine", "out.npz.parts"]


def test_without_h5py_hdf5_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="out.h5: HDF5 needs h5py: pip install"):
        run(tmp_path / "none.fasta", tmp_path / "none", tmp_path / "out.h5")


def test_the_job_takes_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, encoder, out = write_fasta(tmp_path / "a.fasta", proteins(3)), checkpoint(tmp_path), tmp_path / "emb.npz"
    args = [str(source), "--encoder", str(encoder), "--out", str(out), "--per-residue", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["embed.py", *args])
    runpy.run_path(str(ROOT / "jobs" / "embed.py"), run_name="__main__")
    assert [len(vectors) for vectors in read(out, per_residue=True)[1]] == [len(protein) for protein in proteins(3).values()]
