"""Numbers that are none are refused: of an experiment's fields, on the command line, in files and in Python, and of commands."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from raypro.arguments import parse, parse_call
from raypro.config import InputError, require_finite
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment, FineTuning
from raypro.settings import Budget
from tests.small import tiny_experiment, tiny_fine_tuning

EXPERIMENT = tiny_experiment(Path("/corpus"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--objective.pair-weight", "inf"], "objective.pair_weight: inf is no finite number; give one"),
        (["--budget.minutes", "nan"], "budget.minutes: nan is no finite number; give one"),
        (["--optimizer.clip-norm", "-inf"], "optimizer.clip_norm: -inf is no finite number; give one"),
    ],
)
def test_on_the_command_line(args: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Experiment, args, default=EXPERIMENT)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_in_a_file() -> None:
    plain = json.loads(json.dumps(EXPERIMENT.to_plain()))
    plain["workers"]["cpus"] = math.nan
    with pytest.raises(InputError, match=r"^workers\.cpus: nan is no finite number; give one$"):
        Experiment.from_plain(plain)


@pytest.mark.parametrize("experiment", [EXPERIMENT, tiny_fine_tuning(Path("/data"))])
def test_in_python(experiment: Experiment | FineTuning) -> None:
    with pytest.raises(InputError, match=r"^budget\.minutes: inf is no finite number; give one$"):
        replace(experiment, budget=Budget(minutes=math.inf))
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay: nan is no finite number"):
        Adam(weight_decay=math.nan)


def test_of_a_command() -> None:
    def build(identity: float = 0.5) -> float:
        return identity

    assert parse_call(build, ["--identity", "0.25"], "raypro build")() == 0.25
    with pytest.raises(InputError, match="^identity: nan is no finite number"):
        parse_call(build, ["--identity", "nan"], "raypro build")


def test_within_anything() -> None:
    require_finite({"a": (1.0, [{"b": 2, "c": None, "d": "nan"}])})
    with pytest.raises(InputError, match=r"^a\.1\.0\.b: -inf is no finite number"):
        require_finite({"a": (1.0, [{"b": -math.inf}])})
