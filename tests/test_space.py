"""Search spaces are checked before anything starts; the books, the halving, the proposals and the report say what is true."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypro.config import InputError
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.optimizer import Adam
from raypro.data.labelled import LabelledData
from raypro.data.source import read_here
from raypro.experiment import Budget, FineTuning
from raypro.finetuning import Finetuning, resolved
from raypro.pretraining import Pretraining
from raypro.proposals import Proposals
from raypro.space import ASHA, Grid, Optuna, Random, Space, describe, load_space
from raypro.sweep import Demand, Halving, Result, Sweep
from raypro.sweep_report import lost_to_starting, markdown, over_seeds, ranking_rows, ranking_table, rows_of_tests, spared, write_csv
from raypro.training import train
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, tiny_fine_tuning, write_corpus, write_labelled

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
    expected = ["contacts", "cpcprot_pretrain", "fluorescence", "pretraining_rates", "remote_homology", "secondary_structure", "stability"]
    assert [path.stem for path in SPACES] == expected


def tiny_data(name: str, folder: Path) -> Path:
    """Write a little of what a space is for."""
    lengths = (100, 120) if name == "cpcprot_pretrain" else (12, 20)
    sequences = {split: random_sequences(12, *lengths, seed=i) for i, split in enumerate(("train", "valid", "test"))}
    if name in PRETRAINING:
        return write_corpus(folder, sequences).path
    if name in ("stability", "fluorescence"):
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
    assert space.planned >= 12 and Space.from_plain(json.loads(json.dumps(space.to_plain()))).to_plain() == space.to_plain()
    experiment = replace(space.experiment(next(space.combinations())), budget=Budget(steps=1))
    if isinstance(experiment, FineTuning):
        job: Any = Finetuning.load(resolved(experiment, LabelledData.open(data)))
    else:
        job = Pretraining(experiment, read_here)
    (tmp_path / "run").mkdir()
    reported = []
    assert train(job, tmp_path / "run", lambda metrics, path: reported.append(metrics), None).step == 1
    assert experiment.selected_by[0] in reported[-1]


def sweep_of(space: Space, name: str = "sweep") -> Sweep:
    return Sweep.begin(name, space, "checksum", Demand(1.0, 0.0), "space.py")


def test_the_books_give_back_what_was_written(raypro_home: Path) -> None:
    sweep = sweep_of(Space(BASE, AXES, Random(4)))
    sweep.save()
    trial = sweep.trials[2]
    trial.begin("checksum")
    result = Result("finished", "", 0.5, 7, {"valid/spearman": 0.5}, 3.0, 20, 1.0, 2.0, 3.0, {"test": {"spearman": 0.4}})
    trial.end(result)
    again = Sweep.open("sweep")
    assert again == replace(sweep, space=again.space) and again.space.to_plain() == sweep.space.to_plain()
    assert [t.result for t in again.trials] == [None, None, result, None]
    assert [t.begun for t in again.trials] == [False, False, True, False]
    assert again.trials[2].experiment == trial.experiment and trial.experiment.name == "sweep.trial_0002"
    with pytest.raises(InputError, match="--name sweep: that sweep exists"):
        sweep_of(Space(BASE, AXES))
    with pytest.raises(InputError, match="--resume other: no such sweep.*'sweep'"):
        Sweep.open("other")
    (sweep.path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="sweep.json: damaged"):
        Sweep.open("sweep")


def test_seeds_are_fresh_ones_with_the_best_values(raypro_home: Path) -> None:
    sweep = sweep_of(Space(replace(BASE, seed=5), AXES, seeds=2))
    trials = sweep.seed_trials(sweep.trials[3])
    assert [(t.name, t.experiment.seed, t.experiment.batches.size, t.experiment.optimizer.learning_rate) for t in trials] == [
        ("seed_0", 6, 32, 1e-3),
        ("seed_1", 7, 32, 1e-3),
    ]


def test_low_is_good_where_a_loss_chooses(raypro_home: Path) -> None:
    sweep = sweep_of(Space(tiny_experiment(Path("corpus")), {"optimizer.learning_rate": (1e-3, 1e-2, 1e-1)}))
    sweep.path.mkdir(parents=True)
    for trial, result in zip(sweep.trials, (Result("finished", score=2.0), Result("failed"), Result("finished", score=1.0)), strict=True):
        trial.begin("checksum")
        trial.end(result)
    assert [trial.name for trial, _ in sweep.ranked(sweep.trials)] == ["trial_0002", "trial_0000", "trial_0001"]


def test_trials_are_compared_at_growing_numbers_of_validations() -> None:
    assert [n for n in range(1, 40) if ASHA(9).compares_at(n)] == [1, 3, 9, 27]
    assert [n for n in range(1, 40) if ASHA(9, first=2, factor=4).compares_at(n)] == [2, 8, 32]


def test_one_in_three_goes_on() -> None:
    rule = ASHA(9, factor=3)
    assert rule.goes_on(0.1, [])  # the first one: nothing to compare with
    assert not rule.goes_on(0.1, [0.2]) and rule.goes_on(0.3, [0.2])
    earlier = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert rule.goes_on(0.45, earlier) and not rule.goes_on(0.35, earlier)  # the best two of six


@pytest.mark.parametrize("sign", [1, -1])
def test_the_halving_answers_all_workers_alike_and_knows_what_was_before(sign: int) -> None:
    halving = Halving(ASHA(9, factor=2), sign, {"a": {10: sign * 0.5, 20: sign * 0.6}})
    assert not halving.goes_on("b", 5, sign * 0.4)  # the first validation of each is compared, at whatever step it was
    assert not halving.goes_on("b", 5, sign * 0.4)
    assert halving.goes_on("c", 7, sign * 0.7) and halving.goes_on("c", 14, sign * 0.7)
    assert halving.reported["c"] == {7: sign * 0.7, 14: sign * 0.7}
    assert not halving.goes_on("d", 7, float("nan"))
    assert halving.goes_on("a", 30, sign * 0.1)  # its third: 1, 2, 4, ... are compared


def test_proposals_are_new_each_time_and_learn() -> None:
    pytest.importorskip("optuna")
    given: list[tuple[int, ...]] = []
    proposals = Proposals(Optuna(12), (3, 4), 1, [])
    for _ in range(12):
        given.append(proposals.ask(given))
        proposals.tell(given[-1], float(given[-1][0]))
    assert sorted(given) == Grid().choices((3, 4))
    later = Proposals(Optuna(30, seed=3), (20, 2), -1, [((place, 0), float(place)) for place in range(14)] + [((15, 0), None)])
    asked = [later.ask([(place, 0) for place in range(14)]) for _ in range(3)]
    assert all(len(choice) == 2 and choice not in [(place, 0) for place in range(14)] for choice in asked)


def test_the_ranking_shows_what_the_books_hold(raypro_home: Path, tmp_path: Path) -> None:
    sweep = sweep_of(Space(replace(BASE, budget=Budget(epochs=10)), AXES))
    sweep.path.mkdir(parents=True)
    results = [
        Result("finished", "", 0.5, 10, {"valid/spearman": 0.5, "valid/mse": 1.0}, 10.0, 10, 0.0, 1.0, 5.0),
        Result("stopped", "", 0.7, 4, {"valid/spearman": 0.7, "valid/mse": 0.5}, 4.0, 10, 0.0, 1.0, 3.0),
        Result("failed", "not finite", used=0.0, allowed=10, started=1.0, ended=2.0),
    ]
    for trial, result in zip(sweep.trials, results, strict=False):
        trial.begin("checksum")
        trial.end(result)
    ranked = sweep.ranked(sweep.trials)
    rows = ranking_rows(sweep, ranked)
    assert [(row["rank"], row["trial"], row["status"], row["reason"]) for row in rows] == [
        (1, "trial_0001", "stopped", ""),
        (2, "trial_0000", "finished", ""),
        (None, "trial_0002", "failed", "not finite"),
    ]
    assert spared(ranked) == pytest.approx(1 - 14 / 20)  # the failed one does not count
    with write_csv(tmp_path / "ranking.csv", rows).open() as file:
        read = list(csv.DictReader(file))
    assert [row["optimizer.learning_rate"] for row in read] == ["0.01", "0.001", "0.1"] and read[0]["valid/mse"] == "0.5"
    assert ranking_table(sweep, ranked).row_count == 3
    assert "best valid/spearman 0.7000: batches.size=16, optimizer.learning_rate=0.01" in markdown(sweep, ranked, {}, {})


def test_test_results_are_a_mean_and_the_deviation_of_a_sample() -> None:
    runs = [(None, Result("finished", test={"test": {"spearman": value}})) for value in (0.5, 0.6, 0.7)]
    tests = over_seeds([*runs, (None, Result("failed"))])  # type: ignore[list-item]
    spread = tests["test"]["spearman"]
    assert (spread.mean, spread.deviation, spread.runs) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert str(spread) == "0.600 ± 0.100"
    assert rows_of_tests(tests, {"ridge": {"test": {"spearman": 0.4}}})[0]["ridge"] == 0.4
    assert str(over_seeds(runs[:1])["test"]["spearman"]) == "0.500 (one run)"  # type: ignore[arg-type]


def test_what_starting_costs_is_the_time_that_places_wait_for_first_steps() -> None:
    results = [
        Result("finished", started=4.0, first_step=5.0, ended=15.0),  # five seconds until the first process is there
        Result("finished", started=4.0, first_step=5.0, ended=25.0),
        Result("finished", started=16.0, first_step=17.0, ended=27.0),  # in the first place, which was free for two
        Result("failed", started=26.0, ended=26.5),
    ]
    assert lost_to_starting(results, 2, launched=0.0) == pytest.approx(12 / (12 + 40))
    assert lost_to_starting(results[3:], 2, launched=0.0) is None


def test_trials_with_one_frozen_encoder_share_its_vectors() -> None:
    from raypro.cluster.trial import data_key

    frozen = replace(BASE, frozen=True, start="checkpoint")
    assert data_key(BASE) == data_key(replace(BASE, seed=1, optimizer=Adam(learning_rate=1.0)))
    assert data_key(frozen) == data_key(replace(frozen, seed=1)) != data_key(BASE)
    assert data_key(replace(frozen, start=None)) != data_key(replace(frozen, start=None, seed=1))  # its random weights are the seed's
    assert data_key(replace(frozen, start=None, encoder=OneHotShape())) != data_key(frozen)
