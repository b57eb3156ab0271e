"""What comparisons do before anything is trained: leakage is measured, names are checked, samples are drawn."""

from dataclasses import replace
from pathlib import Path

import pytest

from raypro.cluster import compare, compare_objectives, comparing
from raypro.cluster.comparing import Tuning, measure_leakage, require_names
from raypro.config import InputError
from raypro.data.corpus import Corpus
from raypro.data.labelled import LabelledData
from tests.small import hydrophobic_share, random_sequences, write_labelled
from tests.test_compare import comparison as of_masking
from tests.test_compare_objectives import comparison as of_objectives
from tests.test_compare_objectives import small_corpus


def refuse(*_: object) -> None:
    raise InputError("no room")


def test_leakage_is_measured_once_and_said_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = small_corpus(tmp_path / "corpus")
    known = {"sequence": random_sequences(120, 12, 30)[:3], "label": [0.1, 0.2, 0.3]}  # of the corpus
    data = write_labelled(tmp_path / "data", "regression", {"train": known, "test": known})
    measure, measured = comparing.overlap_command, []
    monkeypatch.setattr(comparing, "overlap_command", lambda corpus, tasks: (measured.append(tasks), measure(corpus, tasks)))
    for _ in range(2):
        measure_leakage(corpus, [str(data.path), str(data.path)])
    assert measured == [(data.path,)]
    assert [(o.task, o.split, o.rows, o.identical) for o in Corpus.open(corpus).manifest.overlaps] == [("data", "test", 3, 3)]
    monkeypatch.setattr(comparing, "overlap_command", refuse)
    capsys.readouterr()
    measure_leakage(corpus, [str(hydrophobic_share(tmp_path / "other", {"test": 8}).path)])
    assert "leakage is not measured: no room" in capsys.readouterr().out
    measure_leakage(corpus, [str(hydrophobic_share(tmp_path / "bare", {"train": 8}).path)])  # no split to be judged by
    assert len(measured) == 1 and not capsys.readouterr().out


def test_two_folders_of_one_name_are_refused_and_one_folder_twice_is_not(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "data").mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "data").symlink_to(tmp_path / "one" / "data")
    one = str(tmp_path / "one" / "data")
    require_names([one, one, f"{one}/", str(tmp_path / "link" / "data"), str(tmp_path / "other")])
    with pytest.raises(InputError, match="two/data and .*one/data: two folders of one name"):
        require_names([one, str(tmp_path / "two" / "data")])


@pytest.mark.parametrize("kind", ["masking", "objectives"])
def test_samples_are_drawn_before_anything_is_trained(
    kind: str, tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = (("regression", str(hydrophobic_share(tmp_path / "data", {"train": 48, "valid": 16, "test": 16}).path)),)
    changes = {"tasks": tasks, "tuning": Tuning((1e-3,), residues=500)}
    module, run = {"masking": (compare, compare.compare), "objectives": (compare_objectives, compare_objectives.compare_objectives)}[kind]
    corpus = small_corpus(tmp_path / "corpus")
    asked = replace(of_masking(corpus) if kind == "masking" else of_objectives(corpus), **changes)
    monkeypatch.setattr(module, "ray_session", refuse)
    monkeypatch.setattr(module, "measure_leakage", lambda *_: None)
    with pytest.raises(InputError, match="no room"):
        run(asked)
    drawn = LabelledData.open(asked.folder / "data" / "regression" / "data")
    assert drawn.manifest.files[0].residues <= 500 and drawn.manifest.files[2].rows == 16
