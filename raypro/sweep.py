"""The books of a sweep, all of them files that anyone can read, and that hold no code: a sweep is resumed from them alone.

``$RAYPRO_HOME/sweeps/NAME/sweep.json``: the space, the data's checksum, what each trial asks of the cluster, the combinations given out.
``.../trial_0000``, ``.../seed_0``: a run's folder each; ``result.json`` in it, written last, says how the trial ended.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raypro.config import InputError, nearest
from raypro.experiment import AnyExperiment
from raypro.home import RUN_FILE, home
from raypro.outbox import FOLDER, read_records
from raypro.settings import require_name
from raypro.space import ASHA, Choice, Space

BOOK, RESULT = "sweep.json", "result.json"


@dataclass(frozen=True)
class Demand:
    """What each trial asks of the cluster."""

    cpus: float
    """CPUs of each worker."""
    gpus: float
    """GPUs of each worker."""
    workers: int = 1
    """Workers of each trial."""
    at_once: int = 1
    """Trials that run at the same time."""
    asked: int | None = None
    """Most trials that a person wants to run at the same time; None: as many as fit."""


@dataclass(frozen=True)
class Result:
    """How a trial ended."""

    status: Literal["finished", "stopped", "failed"]
    """Stopped: it did not keep up with the others."""
    reason: str = ""
    """Why it failed, in one line."""
    score: float | None = None
    """The metric that ranks, of its best checkpoint."""
    step: int | None = None
    """Of that checkpoint."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Validation metrics of that checkpoint, its probe's among them."""
    used: float | None = None
    """Epochs (steps, where the budget has no epochs) that were run."""
    allowed: float | None = None
    """Epochs (or steps) that it would have run, had it not stopped early: until whichever of the budget's limits comes first."""
    started: float = 0.0
    """When the trial began in its process, in seconds since 1970."""
    first_step: float | None = None
    """When its training began."""
    ended: float = 0.0
    """When it ended."""
    test: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Test split -> metrics of that checkpoint; of the runs with several seeds only."""

    @property
    def by_split(self) -> dict[str, Mapping[str, float]]:
        """The metrics on validation and then those on the test splits, which are the same where there are any; empty of a failed one."""
        valid = {name.removeprefix("valid/"): value for name, value in self.metrics.items() if name.startswith("valid/")}
        tested = {name for metrics in self.test.values() for name in metrics}
        valid = {name: value for name, value in valid.items() if name in tested or not tested}
        return {"valid": valid, **self.test} if valid else dict(self.test)


@dataclass(frozen=True)
class Trial:
    """A run of a sweep."""

    path: Path
    """Its folder."""
    experiment: AnyExperiment
    choice: Choice
    """Its combination of values."""

    @property
    def name(self) -> str:
        """Its name within the sweep."""
        return self.path.name

    @property
    def result(self) -> Result | None:
        """How it ended; None where it has not."""
        file = self.path / RESULT
        return Result(**json.loads(file.read_text())) if file.is_file() else None

    @property
    def begun(self) -> bool:
        """Whether it was given out."""
        return (self.path / RUN_FILE).is_file()

    def begin(self, checksum: str) -> None:
        """Make its folder, like that of any run."""
        self.path.mkdir(exist_ok=True)
        write_json(self.path / RUN_FILE, {"experiment": self.experiment.to_plain(), "data_checksum": checksum})

    def is_same(self) -> bool:
        """Return whether what was begun in its folder is this experiment, on whatever workers."""
        begun = json.loads((self.path / RUN_FILE).read_text())["experiment"]
        return {**begun, "workers": None} == {**self.experiment.to_plain(), "workers": None}

    def retry(self) -> None:
        """Forget how it ended, so that it goes on from its latest checkpoint."""
        (self.path / RESULT).unlink()

    def end(self, result: Result) -> None:
        """Write how it ended."""
        write_json(self.path / RESULT, asdict(result))


@dataclass(frozen=True)
class Sweep:
    """A sweep's books."""

    path: Path
    space: Space
    checksum: str
    """Of the data."""
    demand: Demand
    source: str
    """The file that the space came from."""
    choices: list[Choice]
    """The combinations given out or to be given out, in the order of the trials; Optuna adds to them."""

    @classmethod
    def begin(cls, name: str, space: Space, checksum: str, demand: Demand, source: str) -> "Sweep":
        """Open the books of a new sweep; nothing is written before :meth:`save`.

        Raises:
            InputError: the name is taken, or cannot be a folder's.
        """
        require_name(name)
        path = sweep_folder(name)
        if path.exists():
            raise InputError(f"--name {name}: that sweep exists ({path}); go on with it by --resume {name}, or choose another name")
        choices = space.search.choices(space.sizes) if hasattr(space.search, "choices") else []
        return cls(path, space, checksum, demand, source, choices)

    @classmethod
    def open(cls, name: str) -> "Sweep":
        """Open the books of a sweep that was begun.

        Raises:
            InputError: there are none, or they are damaged.
        """
        path = sweep_folder(name)
        if not (path / BOOK).is_file():
            there = sorted(file.parent.name for file in path.parent.glob(f"*/{BOOK}"))
            raise InputError(f"--resume {name}: no such sweep in {path.parent}{nearest(name, there) if there else '; there is none'}")
        try:
            plain = json.loads((path / BOOK).read_text())
            choices = [tuple(choice) for choice in plain["choices"]]
            return cls(path, Space.from_plain(plain["space"]), plain["data_checksum"], Demand(**plain["demand"]), plain["source"], choices)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path / BOOK}: damaged, or of another version of raypro ({error}); begin a new sweep") from None

    def save(self) -> None:
        """Write the books."""
        self.path.mkdir(parents=True, exist_ok=True)
        plain = {"space": self.space.to_plain(), "data_checksum": self.checksum, "demand": asdict(self.demand), "source": self.source}
        write_json(self.path / BOOK, {**plain, "choices": [list(choice) for choice in self.choices]})

    def trial(self, number: int) -> Trial:
        """Return the trial of a combination."""
        path, choice = self.path / f"trial_{number:04d}", self.choices[number]
        return Trial(path, self.space.experiment(choice, name=f"{self.path.name}.{path.name}"), choice)

    @property
    def trials(self) -> list[Trial]:
        """The trials of all combinations."""
        return [self.trial(number) for number in range(len(self.choices))]

    def seed_trials(self, best: Trial) -> list[Trial]:
        """Return the runs of the best combination with seeds that took no part in choosing it."""
        paths = [self.path / f"seed_{number}" for number in range(self.space.seeds)]
        seeds = [self.space.base.seed + 1 + number for number in range(self.space.seeds)]
        return [
            Trial(path, self.space.experiment(best.choice, name=f"{self.path.name}.{path.name}", seed=seed), best.choice)
            for path, seed in zip(paths, seeds, strict=True)
        ]

    def add(self, choice: Choice) -> Trial:
        """Take in one more combination; return its trial."""
        self.choices.append(choice)
        self.save()
        return self.trial(len(self.choices) - 1)

    @property
    def sign(self) -> int:
        """1 where a higher score is better, -1 where a lower one is."""
        return 1 if self.space.base.ranked_by[1] == "max" else -1

    def ranked(self, trials: list[Trial]) -> list[tuple[Trial, Result]]:
        """Return the trials that ended, the best first, the failed ones last."""
        ended = [(trial, trial.result) for trial in trials]
        found = [(trial, result) for trial, result in ended if result is not None]
        standing = self.standing([result for _, result in found])

        def goodness(place: int) -> tuple[float, float]:
            score = found[place][1].score
            return -standing[place], -math.inf if score is None else self.sign * score

        return [found[place] for place in sorted(range(len(found)), key=goodness, reverse=True)]

    def standing(self, results: Sequence[Result]) -> list[float]:
        """Return the mean of each result's ranks by the space's criteria, 1 the best; 0 without criteria.

        One that lacks a figure has infinity.
        """
        ranks = [[0.0] * len(results)]
        for name, good in self.space.criteria:
            signed = [result.metrics.get(name, math.nan) * (1 if good == "max" else -1) for result in results]
            ranks.append([math.inf if math.isnan(value) else 1.0 + sum(other > value for other in signed) for value in signed])
        return [sum(places) / max(len(self.space.criteria), 1) for places in zip(*ranks, strict=True)]

    def with_demand(self, demand: Demand) -> "Sweep":
        """Return the books with another demand."""
        workers = replace(self.space.base.workers, count=demand.workers, cpus=demand.cpus, gpus=demand.gpus)
        return replace(self, demand=demand, space=replace(self.space, base=replace(self.space.base, workers=workers)))


class Halving:
    """Who goes on under :class:`raypro.space.ASHA`; one for all trials of a sweep."""

    def __init__(self, rule: ASHA, sign: int, reported: Mapping[str, Mapping[int, float]]) -> None:
        """Take in what trials have reported before: trial -> step -> score."""
        self.rule, self.sign = rule, sign
        self.reported = {trial: dict(points) for trial, points in reported.items()}
        self.answers: dict[tuple[str, int], bool] = {}

    def goes_on(self, trial: str, step: int, score: float) -> bool:
        """Return whether a trial goes on after a validation; the workers of one trial all get the same answer."""
        if (trial, step) not in self.answers:
            points = self.reported.setdefault(trial, {})
            points[step] = score
            validations = sum(other <= step for other in points)
            earlier = [self._score_at(other, validations) for other in self.reported if other != trial]
            there = [value for value in earlier if value is not None]
            self.answers[trial, step] = not self.rule.compares_at(validations) or self.rule.goes_on(self._value(score), there)
        return self.answers[trial, step]

    def _score_at(self, trial: str, validations: int) -> float | None:
        points = sorted(self.reported[trial].items())
        return self._value(points[validations - 1][1]) if len(points) >= validations else None

    def _value(self, score: float) -> float:
        return self.sign * score if math.isfinite(score) else -math.inf


def logged(run: Path, metric: str) -> dict[int, float]:
    """Return step -> value of a metric that a run logged, in the order of its steps."""
    path = run / FOLDER / "outbox-worker.jsonl"
    records = [record for record, _ in read_records(path, 0) if record and record["kind"] == "metrics"] if path.is_file() else []
    return dict(sorted({record["step"]: record["values"][metric] for record in records if metric in record["values"]}.items()))


def sweep_folder(name: str) -> Path:
    """Return the folder of the sweep ``name``."""
    return home() / "sweeps" / name


def write_json(path: Path, value: Any) -> None:
    """Write plain values to a temporary name that is renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)
