"""Samples of labelled data: what is drawn, what stays whole, and what is not made twice."""

import dataclasses
from pathlib import Path

import pytest

from raypro.config import InputError
from raypro.data.label_sample import sample
from raypro.data.labelled import LabelledData
from tests.small import hydrophobic_share, write_labelled


@pytest.fixture
def data(tmp_path: Path) -> LabelledData:
    return hydrophobic_share(tmp_path / "data", {"train": 100, "valid": 50, "test": 60})


def pairs(data: LabelledData, split: str) -> list[tuple[str, float]]:
    examples = data.read(split)
    return list(zip(examples.sequences, [float(examples.label(row)) for row in range(len(examples))], strict=True))


def test_train_and_valid_are_drawn_with_their_labels_and_test_stays_whole(data: LabelledData, tmp_path: Path) -> None:
    drawn = sample(data, tmp_path / "drawn", 600)
    drawn.check()
    for split, file in zip(drawn.splits, drawn.manifest.files, strict=True):
        whole, its = pairs(data, split), pairs(drawn, split)
        if split == "test":
            assert its == whole and file == data.manifest.files[2]
        else:
            assert 600 - 40 < sum(len(sequence) for sequence, _ in its) <= 600  # the next one of at most 40 did not fit
            assert its == [pair for pair in whole if pair in its] and its != whole[: len(its)]
    assert "train: " in drawn.manifest.notes[-1] and "of 100 sequences" in drawn.manifest.notes[-1]
    assert drawn.manifest.checksum != data.manifest.checksum and drawn.task == data.task


def test_notes_count_the_sequences_of_the_sample(tmp_path: Path) -> None:
    shared, others = ["MKVLAA", "ACDEFG", "WYWYWY", "KKKKKK"], [f"MMMMM{letter}" for letter in "ACDEFGHI"]
    train, labels = [*shared, *others], ["--" + "HE" * 2] * 12
    splits = {"train": train, "valid": ["LLLLLL"], "test": shared}
    columns = {split: {"sequence": its, "label": labels[: len(its)]} for split, its in splits.items()}
    whole = write_labelled(tmp_path / "whole", "residue_classification", columns, ("H", "E"))
    said = "{} sequences of train are also in test, as you asked: scores on test are too good"
    noted = LabelledData(whole.path, dataclasses.replace(whole.manifest, notes=(said.format(4),)))
    drawn = sample(noted, tmp_path / "drawn", 36)
    left = sum(sequence in shared for sequence in drawn.read("train").sequences)
    assert 0 < left < 4 and drawn.manifest.notes[:-1] == (said.format(left),)


def test_the_same_seed_draws_the_same_and_another_others(data: LabelledData, tmp_path: Path) -> None:
    one, same, other = (sample(data, tmp_path / name, 600, seed) for name, seed in (("one", 0), ("same", 0), ("other", 1)))
    assert one.manifest.checksum == same.manifest.checksum != other.manifest.checksum


def test_a_split_that_is_small_enough_is_taken_whole_and_one_sequence_always(data: LabelledData, tmp_path: Path) -> None:
    assert sample(data, tmp_path / "whole", 10**6).manifest.checksum == data.manifest.checksum
    assert [file.rows for file in sample(data, tmp_path / "one", 1).manifest.files] == [1, 1, 60]


def test_a_sample_is_made_once_and_another_one_is_not_overwritten(data: LabelledData, tmp_path: Path) -> None:
    made = sample(data, tmp_path / "drawn", 600)
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    assert sample(data, tmp_path / "drawn", 600) == made and (made.path / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="drawn: another sample; remove it"):
        sample(data, tmp_path / "drawn", 300)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="taken: no manifest.json"):
        sample(data, tmp_path / "taken", 600)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]
