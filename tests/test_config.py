import json
from dataclasses import replace
from pathlib import Path

import pytest

from raypro.arguments import in_one_line, parse
from raypro.config import InputError, nearest
from raypro.core.objectives.mlm import MLM
from raypro.experiment import Experiment, experiment_of
from raypro.settings import Batches, Budget
from tests.small import tiny_experiment

EXPERIMENT = tiny_experiment(Path("/corpus"))


def changed(*path: str, value: object) -> dict:
    plain = json.loads(json.dumps(EXPERIMENT.to_plain()))
    inner = plain
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return plain


@pytest.mark.parametrize("experiment", [EXPERIMENT, replace(EXPERIMENT, objective=MLM(), precision="bf16", budget=Budget(minutes=1.5))])
def test_an_experiment_survives_json(experiment: Experiment) -> None:
    assert Experiment.from_plain(json.loads(json.dumps(experiment.to_plain()))) == experiment


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (changed("optimizer", "lerning_rate", value=1.0), "optimizer.lerning_rate: no such field of Adam; did you mean learning_rate?"),
        (changed("encoder", "layers", value="two"), "encoder.layers: expected int, got 'two'"),
        (changed("encoder", "layers", value=True), "encoder.layers: expected int, got True"),
        (changed("encoder", "norm", value="mid"), "encoder.norm: 'mid' is none of 'pre', 'post'"),
        (changed("objective", "kind", value="PMLMM"), "objective: unknown kind 'PMLMM'; did you mean PMLM?"),
        (changed("objective", "mask_rate", value=1.5), "objective.mask_rate: 1.5 is not in"),
        ({"kind": "Experiment"}, "name: missing field of Experiment"),
        ([], "expected the fields of Experiment"),
    ],
)
def test_a_wrong_experiment_names_its_field(plain: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        Experiment.from_plain(plain)
    assert message in str(error.value)


def test_any_field_can_be_changed_on_the_command_line() -> None:
    found = parse(
        Experiment,
        ["--optimizer.learning-rate", "1e-4", "--objective.pair-weight", "2", "--budget.steps", "None", "--budget.minutes", "3"],
        default=EXPERIMENT,
    )
    assert found.optimizer.learning_rate == 1e-4 and found.objective.pair_weight == 2
    later = parse(Experiment, ["--batches.accumulation-changes", "0.5", "2", "0.8", "4"], default=EXPERIMENT)
    assert later.batches.accumulation_changes == ((0.5, 2), (0.8, 4))
    assert found.budget == Budget(minutes=3.0)
    assert replace(found, optimizer=EXPERIMENT.optimizer, objective=EXPERIMENT.objective, budget=EXPERIMENT.budget) == EXPERIMENT


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optimizer.lerning-rate", "1"], "did you mean --optimizer.learning-rate?"),
        (["--optimizer.learning-rate", "fast"], "could not convert string to float: 'fast'"),
        (["--encoder.norm", "mid"], "Expected one of ('pre', 'post')"),
        (["--objective.mask-rate", "2"], "objective.mask_rate: 2.0 is not in (0, 1]"),
        (["--batches.accumulation", "0"], "batches.accumulation: 0 must be 1 or more"),
        (["--budget.steps", "None"], "budget: give steps, epochs, minutes or residues"),
    ],
)
def test_a_wrong_command_line_is_one_line(args: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Experiment, args, default=EXPERIMENT)
    assert message in str(error.value) and "\n" not in str(error.value) and "│" not in str(error.value)


def test_a_frame_becomes_one_line() -> None:
    frame = "╭─ Oops ──────╮\n│ Unrecognized options: --a,  │\n│ 3 │\n│ ────────── │\n│ Perhaps you meant: │\n│     --ab INT │\n╰───╯\n"
    assert in_one_line(frame) == "Unrecognized options: --a, 3; did you mean --ab?"


def test_names_that_are_no_folder_are_refused() -> None:
    for name in ("", "../elsewhere", ".hidden", "a b"):
        with pytest.raises(InputError, match="name:"):
            replace(EXPERIMENT, name=name)
    with pytest.raises(InputError, match="accumulation"):
        Batches(accumulation=0)
    for changes in (((0.5, 2), (0.3, 1)), ((0.5, 0),), ((0.5, 1), (0.5, 2)), ((160_000, 2),), ((1.0, 2),), ((-0.1, 2),)):
        with pytest.raises(InputError, match="batches.accumulation_changes: give pairs"):
            Batches(accumulation_changes=changes)


def test_accumulation_changes_at_a_share_of_whatever_steps_there_are() -> None:
    batches = Batches(accumulation=3, accumulation_changes=((0.0, 1), (0.8, 2)))
    assert [batches.accumulation_at(1000, step) for step in (0, 799, 800, 999)] == [1, 1, 2, 2]
    assert [batches.accumulation_at(10, step) for step in (7, 8)] == [1, 2]
    assert replace(EXPERIMENT, batches=batches, budget=Budget(steps=10, minutes=1)).batches == batches
    with pytest.raises(InputError, match="accumulation_changes: are shares of the budget's steps; give budget.steps"):
        replace(EXPERIMENT, batches=batches, budget=Budget(minutes=1))


def test_changes_of_accumulation_that_were_saved_in_steps_are_read() -> None:
    plain = changed("batches", "accumulation_changes", value=[[0, 1], [1, 3], [6, 2], [8, 4]])
    found = Experiment.from_plain(plain)
    assert experiment_of(plain) == found and plain == changed("batches", "accumulation_changes", value=[[0, 1], [1, 3], [6, 2], [8, 4]])
    assert [found.batches.accumulation_at(8, step) for step in range(8)] == [1, 3, 3, 3, 3, 3, 2, 2]
    assert Experiment.from_plain(json.loads(json.dumps(found.to_plain()))) == found
    plain["budget"] = {"minutes": 1.0, "steps": None}
    with pytest.raises(
        InputError, match=r"^batches.accumulation_changes: \[\[0, 1\].* are steps, as an older raypro saved them; give shares"
    ):
        experiment_of(plain)
    with pytest.raises(InputError, match="accumulation_changes"):
        experiment_of(changed("batches", "accumulation_changes", value=[3]))


def test_what_was_saved_before_there_was_a_field_has_its_default() -> None:
    plain = EXPERIMENT.to_plain()
    del plain["batches"]["accumulation_changes"]
    assert Experiment.from_plain(plain) == EXPERIMENT


def test_an_unknown_name_is_answered_by_the_nearest_the_known_ones_or_a_few_of_many_and_their_number() -> None:
    assert nearest("stabilty", ["contacts", "stability"]) == "; did you mean stability?"
    assert nearest("nope", ["a", "b"]) == "; known: a, b"
    many = [f"sweep-{i}" for i in range(40)] + ["noon"]
    assert nearest("n", many).startswith("; known: noon, sweep-") and nearest("n", many).endswith(" and 31 more")
    assert nearest("n", many).count("sweep-") == 9
