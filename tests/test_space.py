"""Search spaces are checked before anything starts, and each of tune_spaces/ takes a step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypro.config import InputError
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.data.labelled import LabelledData
from raypro.data.source import read_here
from raypro.experiment import FineTuning
from raypro.finetuning import Finetuning, resolved
from raypro.pretraining import Pretraining
from raypro.settings import Budget
from raypro.space import ASHA, Grid, Optuna, Random, Space, describe, load_space
from raypro.training import train
from tests.small import hydrophobic_share, random_sequences, tiny_fine_tuning, write_corpus, write_labelled

ROOT = Path(__file__).resolve().parent.parent
SPACES = sorted((ROOT / "tune_spaces").glob("*.py"))
PRETRAINING = ("cpcprot_pretrain", "pretraining_rates")
BASE = tiny_fine_tuning(Path("data"))
AXES = {"batches.size": (16, 32), "optimizer.learning_rate": (1e-3, 1e-2, 1e-1)}


def test_a_grid_is_every_combination_and_each_has_its_values() -> None:
    space = Space(BASE, AXES)
    choices = space.search.choices(space.sizes)
    experiments = [space.experiment(choice, name=f"trial_{i}") for i, choice in enumerate(choices)]
    expected = [(size, rate) for size in (16, 32) for rate in (1e-3, 1e-2, 1e-1)]
    assert [(e.batches.size, e.optimizer.learning_rate) for e in experiments] == expected
    assert [e.name for e in experiments] == [f"trial_{i}" for i in range(6)] and space.planned == 6
    assert replace(experiments[0], name="tiny", batches=BASE.batches, optimizer=BASE.optimizer) == BASE
    assert describe(space.values(choices[1])) == "batches.size=16, optimizer.learning_rate=0.01"


def test_a_random_search_draws_without_replacement_and_the_same_again() -> None:
    choices = Random(5).choices((2, 3))
    assert len(set(choices)) == 5 and Random(5).choices((2, 3)) == choices and Random(5, seed=1).choices((2, 3)) != choices
    assert sorted(Random(100).choices((2, 3))) == Grid().choices((2, 3))
    assert Space(BASE, AXES, Random(100)).planned == 6


def test_any_field_can_be_an_axis_whole_dataclasses_and_none_too() -> None:
    encoders = (ConvolutionShape(layers=1, width=8), TransformerShape(layers=1, width=8, heads=2, hidden=8))
    space = Space(BASE, {"encoder": encoders, "validation.patience": (None, 2), "task.pooling": ("mean", "max"), "frozen": (False, True)})
    last = space.experiment((1, 1, 1, 1))
    assert (last.encoder, last.validation.patience, last.task.pooling, last.frozen) == (encoders[1], 2, "max", True)
    again = Space.from_plain(json.loads(json.dumps(space.to_plain())))
    assert [again.experiment(choice) for choice in again.combinations()] == [space.experiment(choice) for choice in space.combinations()]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "axes: there is none"),
        ({"optimizer.lerning_rate": (1e-3,)}, "Adam has no field 'lerning_rate'; did you mean learning_rate"),
        ({"optimiser.learning_rate": (1e-3,)}, "FineTuning has no field 'optimiser'; did you mean optimizer"),
        ({"precision.bits": (16,)}, "precision is float32 and has no field 'bits'"),
        ({"batches.size": (16, 32.0)}, "with batches.size=32: batches.size: expected int, got 32.0"),
        ({"batches.size": (16, "32")}, "batches.size: expected int, got '32'"),
        ({"batches.size": (16, 0)}, "with batches.size=0: batches: size and token_budget must be 1 or more"),
        ({"optimizer.learning_rate": (-1.0,)}, "optimizer.learning_rate: -1.0 must be above 0"),
        ({"encoder.heads": (2, 3), "encoder.width": (16,)}, "with encoder.heads=3, encoder.width=16"),
        ({"task.pooling": ("mean", "median")}, "'median' is none of"),
        ({"batches.size": 16}, "expected a tuple of values, got 16"),
        ({"task.pooling": "mean"}, "expected a tuple of values, got 'mean'"),
        ({"batches.size": ()}, "expected a tuple of values"),
        ({"batches.size": (16, 32, 16)}, "a value is there twice"),
        ({"name": ("a", "b")}, "all trials of a sweep share their name"),
        ({"workers.count": (1, 2)}, "all trials of a sweep share their workers"),
        ({"seed": (0, 1)}, "several seeds anyway"),
        ({"encoder.width": (8, 16), "encoder": (ConvolutionShape(),)}, "axes: encoder.width is a part of encoder"),
        ({"batches.size": tuple(range(1, 200)), "budget.epochs": tuple(range(1, 200))}, "39,601 combinations"),
    ],
)
def test_what_is_wrong_with_an_axis_is_said_when_the_space_is_made(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Space(BASE, axes)


@pytest.mark.parametrize(
    "search", [lambda: Random(0), lambda: ASHA(trials=3, factor=1), lambda: ASHA(trials=3, first=0), lambda: Optuna(0)]
)
def test_a_search_of_nothing_is_refused(search: Any) -> None:
    with pytest.raises(InputError, match="search: "):
        search()
    with pytest.raises(InputError, match="seeds: 0"):
        Space(BASE, AXES, seeds=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def space(:", "SyntaxError"),
        ("import nothing_like_it", ":1: ModuleNotFoundError"),
        ("x = 1", "AttributeError.*space"),
        ("def space():\n    return 3", "returns int, expected a Space"),
        ("def space(data):\n    return 1 / 0", ":2: ZeroDivisionError"),
        ("def space(encoder, data):\n    return 3", "--encoder: space.py needs it"),
        (
            "from raypro.presets import fine_tuning\ndef space(data):\n    return fine_tuning('stabilty', 'onehot', data)",
            "did you mean stability",
        ),
    ],
)
def test_what_is_wrong_with_a_space_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_space(path, None, "data")
    assert "\n" not in str(error.value)


def test_a_space_file_gets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_space(tmp_path / "space.py", None, None)
    with pytest.raises(InputError, match="--encoder: pretraining_rates.py takes none"):
        load_space(ROOT / "tune_spaces" / "pretraining_rates.py", "onehot", "corpus")


def test_there_is_a_space_for_every_task_and_one_for_pre_training() -> None:
    tasks = ["contacts", "fluorescence", "remote_homology", "secondary_structure", "stability"]
    expected = sorted([*tasks, *PRETRAINING, "adversarial_finetune", "stability_convolution"])  # for any task; that of ARCHITECTURE.md
    assert [path.stem for path in SPACES] == expected


def tiny_data(name: str, folder: Path) -> Path:
    """Write a little of what a space is for."""
    lengths = (100, 120) if name == "cpcprot_pretrain" else (12, 20)
    sequences = {split: random_sequences(12, *lengths, seed=i) for i, split in enumerate(("train", "valid", "test"))}
    if name in PRETRAINING:
        return write_corpus(folder, sequences).path
    if name in ("stability", "stability_convolution", "fluorescence", "adversarial_finetune"):
        return hydrophobic_share(folder, {"train": 12, "valid": 12, "test": 12}).path
    kinds: dict[str, tuple[str, Any, tuple[str, ...]]] = {
        "remote_homology": ("classification", lambda some: {"label": ["ab"[len(s) % 2] for s in some]}, ("a", "b")),
        "secondary_structure": (
            "residue_classification",
            lambda some: {"label": ["HE" * (len(s) // 2) + "-" * (len(s) % 2) for s in some]},
            ("H", "E"),
        ),
        "contacts": (
            "contacts",
            lambda some: {
                "contact_i": [[0, 1]] * len(some),
                "contact_j": [[8, 9]] * len(some),
                "resolved": [[True] * len(s) for s in some],
            },
            (),
        ),
    }
    labels, columns, classes = kinds[name]
    return write_labelled(folder, labels, {split: {"sequence": some, **columns(some)} for split, some in sequences.items()}, classes).path


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_can_be_built_and_takes_a_step(path: Path, tmp_path: Path) -> None:
    data = tiny_data(path.stem, tmp_path / "data")
    space = load_space(path, None if path.stem in PRETRAINING else "convolution", str(data))
    assert space.planned >= 12 and all(len(values) > 1 for values in space.axes.values())
    assert Space.from_plain(json.loads(json.dumps(space.to_plain()))).to_plain() == space.to_plain()
    experiment = replace(space.experiment(next(space.combinations())), budget=Budget(steps=1))
    if isinstance(experiment, FineTuning):
        job: Any = Finetuning.load(resolved(experiment, LabelledData.open(data)))
    else:
        job = Pretraining(experiment, read_here)
    (tmp_path / "run").mkdir()
    reported = []
    assert train(job, tmp_path / "run", lambda metrics, path: reported.append(metrics), None).step == 1
    assert experiment.selected_by[0] in reported[-1]
