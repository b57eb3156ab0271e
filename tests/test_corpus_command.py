"""The corpus commands: what a person reads, and the same corpus by Ray as in one process."""

from pathlib import Path

import pytest

from raypro.cluster import corpus as commands
from raypro.config import InputError
from raypro.data import build as building
from raypro.data.build import BuildOptions, build
from raypro.data.corpus import Corpus

TEXT = "".join(f">p{i} PF{i % 5:05d}.1;Name;\n{'ACDEFGHIKLMNPQRSTVWY'[i % 20] * (i // 20 + 3)}\n" for i in range(300))


def test_summary_says_what_became_of_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.fasta").write_text(TEXT + ">bad\nAC-D\n>twice\nAAA\n")
    commands.build_command((tmp_path / "a.fasta",), out=tmp_path / "c", options=BuildOptions(hold_out=("PF00003", "PF99999")))
    said = capsys.readouterr().out
    for expected in (
        "302 records read, 300 kept, 2 left out",
        "1  gap (- or .): an alignment",
        "1  duplicate of an earlier sequence",
        str(tmp_path / "c" / "rejects.tsv"),
        "Splits: test: the families PF00003, PF99999",
        "held-out families that do not occur: PF99999",
        f"raypro corpus show {tmp_path / 'c'}",
    ):
        assert expected in said
    commands.check_command(tmp_path / "c")
    assert "300 sequences, every checksum and count is right" in capsys.readouterr().out
    commands.show_command(tmp_path / "c")
    assert "Largest of 5 families" in capsys.readouterr().out


def test_a_build_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name at least one file"):
        commands.build_command((), out=tmp_path / "c")


@pytest.mark.cluster
@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["parts in files", "parts in memory"])
def test_ray_builds_the_same_corpus(tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(building, "MEMORY_BYTES", memory)
    (tmp_path / "a.fasta").write_text(TEXT)
    for name, size in (("PIECE_BYTES", 700), ("BUCKET_BYTES", 500), ("SHARD_BUCKETS", 2)):
        monkeypatch.setattr(building, name, size)
    options = BuildOptions(hold_out=("PF00003",), row_group_rows=7)
    alone = build([tmp_path / "a.fasta"], tmp_path / "alone", options).corpus
    commands.build_command((tmp_path / "a.fasta",), out=tmp_path / "ray", options=options)
    assert len(alone.files("train")) > 2
    assert Corpus.open(tmp_path / "ray").manifest.checksum == alone.manifest.checksum


@pytest.mark.cluster
def test_an_input_error_in_a_ray_task_stays_one_line(ray_cluster: None) -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise InputError("a.fasta: damaged; get it again")
        return number

    results = commands.on_ray(fail, list(range(9)), "reading")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        next(results)
    assert str(caught.value) == "a.fasta: damaged; get it again"
