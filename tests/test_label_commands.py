"""What a person gives and gets: the names of files and splits, errors in one line, the commands of labelled data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypro.arguments import parse_call
from raypro.config import InputError
from raypro.data import label_commands
from raypro.data.build import build
from raypro.data.label_import import import_labelled
from raypro.data.label_options import ImportOptions
from raypro.data.label_sources import find_sources, split_of
from tests.label_files import STABILITY, run, to_csv, to_json


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("stability_train.json.gz", "train"),
        ("stability.valid.csv.gz", "valid"),
        ("remote_homology_test_fold_holdout.lmdb", "test_fold_holdout"),
        ("secondary_structure_cb513.json", "cb513"),
        ("secondary_structure_CASP12.lmdb", "casp12"),
        ("train.parquet", "train"),
        ("x-dev.csv", "valid"),
        ("x_validation.tsv", "valid"),
        ("strain.csv", None),
        ("contest.csv", None),
        ("contacts.parquet", None),
        ("train_me_well.csv", None),
    ],
)
def test_the_end_of_a_files_name_says_its_split(name: str, split: str | None) -> None:
    assert split_of(Path(name)) == split


def test_a_folder_with_several_data_sets_is_asked_for_one(tmp_path: Path) -> None:
    for name in ("stability_train.json", "stability_valid.json", "fluorescence_train.json"):
        to_json(tmp_path / name, STABILITY)
    with pytest.raises(InputError, match="fluorescence_train.json and stability_train.json are both train; .* or --task"):
        run([tmp_path], tmp_path / "d", kind="regression", label_column="stability_score")
    assert [source.split for source in find_sources([str(tmp_path)], "stability")] == ["train", "valid"]
    (tmp_path / "stability_train.lmdb").mkdir()  # the same again, in the form that needs another package
    assert [source.path.suffix for source in find_sources([str(tmp_path)], "stability")] == [".json", ".json"]
    with pytest.raises(InputError, match="no file with labels named proteinnet_"):
        find_sources([str(tmp_path)], "proteinnet")


def test_what_a_person_gives_wrongly_is_said_in_one_line(tmp_path: Path) -> None:
    good = to_csv(tmp_path / "good.csv", [{"sequence": "ACD", "labels": "1"}])
    train = to_json(tmp_path / "x_train.json", STABILITY)
    (tmp_path / "x.fasta").write_text(">a\nACD\n")
    to_json(tmp_path / "empty_train.json", [])
    for names, options, message in (
        ([], {"task": "stability"}, "name at least one file"),
        ([tmp_path / "none.csv"], {"task": "stability"}, "none.csv: no such file"),
        ([good], {}, "say what the labels are by one of --task"),
        ([good], {"task": "stability", "kind": "regression"}, "by one of --task"),
        ([good], {"kind": "regression"}, r"no field 'label'; did you mean labels\? .*--label-column"),
        ([good], {"kind": "regression", "label_column": "labels", "sequence_column": "x"}, "no field 'x'.*--sequence-column"),
        ([good], {"kind": "regression", "label_column": "labels", "id_column": "name"}, "no field 'name'.*--id-column"),
        ([good], {"kind": "regression", "label_column": "labels", "mask_column": "m"}, "only labels of residues and contacts have a mask"),
        ([train, good], {"kind": "regression"}, "good.csv: which split is it"),
        ([f"{'x' * 70}={good}"], {"kind": "regression"}, "no name of a split"),
        ([f"../up={good}"], {"kind": "regression"}, "no name of a split"),
        ([train], {"task": "stability", "split_column": "id"}, "its name says split train"),
        ([tmp_path / "x.fasta"], {"task": "stability"}, "x.fasta: no labels in it"),
        ([tmp_path / "empty_train.json"], {"task": "stability"}, "no record with fields in it"),
        ([train], {"task": "fluorescence"}, "no field 'log_fluorescence' or 'label'"),
        ([good], {"kind": "regression", "valid_share": 0.6, "test_share": 0.4}, "leave nothing to train on"),
        ([good], {"kind": "regression", "seed": -1}, "seed: -1"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            run(names, tmp_path / "d", **options)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "d").exists()


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = to_json(tmp_path / "x_train.json", [{**record, "stability_score": [float("nan")]} for record in STABILITY])
    with pytest.raises(InputError, match=r"x_train.json: no labelled sequence is left \(2 label that is not finite\)"):
        run([path], tmp_path / "d", task="stability")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x_train.json"]


def test_only_labelled_data_are_replaced_and_only_when_asked(tmp_path: Path) -> None:
    first, second = to_json(tmp_path / "a_train.json", STABILITY), to_json(tmp_path / "b_train.json", STABILITY[:1])
    before = run([first], tmp_path / "d", task="stability").data.manifest
    with pytest.raises(InputError, match="there are labelled data already"):
        run([second], tmp_path / "d", task="stability")
    options = ImportOptions(task="stability")
    with pytest.raises(InputError, match="no such file"):
        import_labelled([str(tmp_path / "none")], tmp_path / "d", options, overwrite=True)
    assert import_labelled([str(first)], tmp_path / "d", options, overwrite=True).data.manifest.checksum == before.checksum
    assert len(import_labelled([str(second)], tmp_path / "d", options, overwrite=True).data.read("train")) == 1
    (tmp_path / "x.fasta").write_text(">a\nACD\n")
    build([tmp_path / "x.fasta"], tmp_path / "corpus")
    with pytest.raises(InputError, match="there already, and no labelled data"):
        import_labelled([str(first)], tmp_path / "corpus", options, overwrite=True)
    with pytest.raises(InputError, match="there already, and no corpus"):
        build([tmp_path / "x.fasta"], tmp_path / "d", overwrite=True)


def command(function: Callable[..., None], args: list[str]) -> None:
    parse_call(function, args, "raypro task")()


def test_the_commands_say_what_a_person_must_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [*STABILITY, {**STABILITY[0], "primary": "AC1"}, {**STABILITY[0], "stability_score": [2.0]}]
    path = to_json(tmp_path / "stability_train.json", records)
    command(label_commands.import_command, [str(path), "--out", str(tmp_path / "d"), "--task", "stability"])
    said = capsys.readouterr().out
    for expected in (
        "4 records read",
        "train: 1  digit in the sequence",
        str(tmp_path / "d" / "rejects.tsv"),
        "Look: there is no valid split",
        "1 repeat an earlier sequence of the split, 1 of them with another label",
        f"raypro task show {tmp_path / 'd'}",
    ):
        assert expected in said
    command(label_commands.check_command, [str(tmp_path / "d")])
    assert "whole: 3 labelled sequences in train" in capsys.readouterr().out
    command(label_commands.show_command, [str(tmp_path / "d")])
    said = capsys.readouterr().out
    for expected in ("regression, stability_score", "stability_train.json", "1 digit in the sequence (train)", "1.083"):  # the mean label
        assert expected in said


@pytest.mark.parametrize(
    ("options", "records", "expected"),
    [
        ({"kind": "classification"}, [("ACD", "[a]"), ("MKV", "[a]"), ("WYL", "b")], "[a]   │ 2 (66.7 %)"),
        ({"kind": "classification"}, [("ACD" * n, str(n // 2)) for n in range(1, 40)], "Largest of 20 classes"),
        ({"kind": "residue_classification"}, [("ACD", "HH-"), ("MKV", "HEH")], "not scored │ 1 (16.7 %)"),
    ],
)
def test_show_counts_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], records: list[tuple[str, str]], expected: str
) -> None:
    path = to_csv(tmp_path / "x_train.csv", [{"sequence": s, "label": label} for s, label in records])
    run([path], tmp_path / "d", **options)
    label_commands.show_command(tmp_path / "d")
    assert expected in capsys.readouterr().out
