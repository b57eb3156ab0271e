"""A corpus build that fails, is killed or meets another one damages nothing."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raypro.config import InputError
from raypro.data.build import BuildOptions, build
from raypro.data.corpus import MANIFEST, Corpus, sha256_of
from raypro.data.readers import Piece, pieces_of
from tests.test_corpus_build import pfam


def folders(path: Path) -> dict[str, str]:
    """Return every file below a folder with its checksum."""
    return {str(p.relative_to(path)): sha256_of(p) for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "a.fasta: empty"),
        (None, {}, "no such file"),
        (">a\nAC-\n", {}, r"no sequence is left \(1 gap"),
        (">a\nACD\n", {"min_length": 4}, r"no sequence is left \(1 shorter"),
        (">a\nACD\n", {"hold_out": ("PF00001",)}, "name neither families nor clans"),
        (">a\nACD\n", {}, "there is a corpus already"),
    ],
)
def test_a_failing_build_damages_nothing(tmp_path: Path, content: str | None, options: dict[str, Any], message: str) -> None:
    build([pfam(tmp_path / "old.fasta")], tmp_path / "c")
    if content is not None:
        (tmp_path / "a.fasta").write_text(content)
    before = folders(tmp_path)
    with pytest.raises(InputError, match=message):
        build([tmp_path / "a.fasta"], tmp_path / "c", BuildOptions(**options), overwrite="already" not in message)
    assert folders(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_overwrite_replaces_a_corpus_but_nothing_else(tmp_path: Path) -> None:
    build([pfam(tmp_path / "a.fasta")], tmp_path / "c")
    first = Corpus.open(tmp_path / "c").manifest.checksum
    build([pfam(tmp_path / "b.fasta", seed=1)], tmp_path / "c", overwrite=True)
    Corpus.open(tmp_path / "c").check()
    assert Corpus.open(tmp_path / "c").manifest.checksum != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="no corpus"):
        build([tmp_path / "a.fasta"], tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def _build_and_die(path: Path, out: Path, after: str) -> None:
    def run(function: Callable[[Any], Any], items: list[Any], stage: str) -> Iterator[Any]:
        yield from map(function, items)
        if stage == after:
            os.kill(os.getpid(), signal.SIGKILL)

    build([path], out, run=run)


@pytest.mark.parametrize("after", ["reading", "shuffling and writing"])
def test_a_killed_build_leaves_no_corpus_and_running_it_again_completes_it(tmp_path: Path, after: str) -> None:
    path = pfam(tmp_path / "a.fasta")
    child = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(path, tmp_path / "c", after))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "c").exists() and (tmp_path / ".c.building").is_dir()
    assert not list(tmp_path.rglob(MANIFEST))
    again = build([path], tmp_path / "c").corpus
    again.check()
    assert not (tmp_path / ".c.building").exists()
    assert again.manifest.checksum == build([path], tmp_path / "d").corpus.manifest.checksum


def test_two_builds_of_one_corpus_at_once(tmp_path: Path) -> None:
    path = pfam(tmp_path / "a.fasta")

    def run(function: Callable[[Any], Any], items: list[Any], stage: str) -> Iterator[Any]:
        with pytest.raises(InputError, match="another build is writing it"):
            build([path], tmp_path / "c")
        return map(function, items)

    build([path], tmp_path / "c", run=run).corpus.check()


def test_a_build_that_ends_between_two_places_gives_back_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build([pfam(tmp_path / "a.fasta")], tmp_path / "c")
    before = folders(tmp_path / "c")
    rename = os.rename

    def stop_at_new(source: Path, target: Path) -> None:
        if Path(source).name == "corpus":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", stop_at_new)
        build([pfam(tmp_path / "b.fasta", seed=1)], tmp_path / "c", overwrite=True)
    assert folders(tmp_path / "c") == before and not (tmp_path / ".c.building").exists()
    (tmp_path / ".c.building").mkdir()  # as SIGKILL leaves it there
    (tmp_path / "c").rename(tmp_path / ".c.building" / "old")
    with pytest.raises(InputError, match="there is a corpus already"):
        build([tmp_path / "b.fasta"], tmp_path / "c")
    assert folders(tmp_path / "c") == before
    (tmp_path / ".c.building").mkdir()
    (tmp_path / "c").rename(tmp_path / ".c.building" / "old")
    build([tmp_path / "b.fasta"], tmp_path / "c", overwrite=True).corpus.check()
    assert folders(tmp_path / "c") != before and not (tmp_path / ".c.building").exists()


def test_a_corpus_that_another_build_has_just_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not there when the second build began, but is when that one's turn comes."""

    def meanwhile(*arguments: Any) -> list[Piece]:
        monkeypatch.undo()
        build([pfam(tmp_path / "a.fasta")], tmp_path / "c")
        return pieces_of(*arguments)

    monkeypatch.setattr("raypro.data.build.pieces_of", meanwhile)
    with pytest.raises(InputError, match="there is a corpus already"):
        build([pfam(tmp_path / "b.fasta", seed=1)], tmp_path / "c")
    assert "a.fasta" in Corpus.open(tmp_path / "c").manifest.sources[0]


def test_rejected_dna_is_suspected_where_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nACGT-ACGT\n")
    with pytest.raises(InputError, match=r"no sequence is left \(1 gap.*DNA or RNA\? 100 %"):
        build([tmp_path / "a.fasta"], tmp_path / "c")
