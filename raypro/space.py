"""A search space: a base experiment, the fields of it that are varied (the axes), and which combinations are tried.

All is checked when a space is made: every combination is built once, so that what is wrong ends before the first trial.
"""

import importlib.util
import inspect
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypro.config import InputError, from_plain, nearest, to_plain
from raypro.core.random import seed_of
from raypro.experiment import AnyExperiment, FineTuning, experiment_of

MOST_COMBINATIONS = 10_000
"""Combinations that a space may have: each is built once."""
SHARED = ("name", "data", "corpus", "workers", "tracking", "probe")
"""Fields that all trials of a sweep have in common."""

Choice = tuple[int, ...]
"""A combination: for each axis the place of its value."""

_DRAW = 17  # stream of randomness


@dataclass(frozen=True)
class Grid:
    """Try every combination, in order; the last axis varies fastest."""

    def choices(self, sizes: tuple[int, ...]) -> list[Choice]:
        """Return every combination of axes with so many values."""
        return list(itertools.product(*map(range, sizes)))


@dataclass(frozen=True)
class Random:
    """Try some combinations, drawn without replacement."""

    trials: int
    """Combinations to try."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        _require_trials(self.trials)

    def choices(self, sizes: tuple[int, ...]) -> list[Choice]:
        """Return the drawn combinations."""
        return _drawn(sizes, self.trials, self.seed)


@dataclass(frozen=True)
class ASHA:
    """Try some combinations, drawn without replacement, and end those early that do not keep up: asynchronous successive halving.

    At its validations number ``first * factor**k`` a trial is compared with those that came there before it, and goes on while it is
    among the best ``1 / factor`` of them and itself (Li et al. 2020, with stopping in the place of their promotion: nothing waits).
    """

    trials: int
    """Combinations to try."""
    first: int = 1
    """Validations before the first comparison."""
    factor: int = 3
    """One trial in so many goes on after a comparison."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        _require_trials(self.trials)
        if self.first < 1 or self.factor < 2:
            raise InputError("search: ASHA's first must be 1 or more, its factor 2 or more")

    def choices(self, sizes: tuple[int, ...]) -> list[Choice]:
        """Return the drawn combinations."""
        return _drawn(sizes, self.trials, self.seed)

    def compares_at(self, validations: int) -> bool:
        """Return whether trials are compared after so many validations."""
        rung = self.first
        while rung < validations:
            rung *= self.factor
        return rung == validations

    def goes_on(self, score: float, earlier: list[float]) -> bool:
        """Return whether a trial goes on; scores are better when higher, ``earlier`` are those of the trials that came here before."""
        better = sum(other > score for other in earlier)
        return better < max(1, (len(earlier) + 1) // self.factor)


@dataclass(frozen=True)
class Optuna:
    """Let Optuna propose combinations by its tree-structured Parzen estimator; it comes with ``pip install 'raypro[optuna]'``."""

    trials: int
    """Combinations to try."""
    seed: int = 0
    """Of its sampler."""

    def __post_init__(self) -> None:
        _require_trials(self.trials)


Search = Grid | Random | ASHA | Optuna
"""How combinations are chosen."""


@dataclass(frozen=True)
class Space:
    """What a sweep tries."""

    base: AnyExperiment
    """The experiment that every trial is, but for the axes."""
    axes: Mapping[str, tuple[Any, ...]]
    """The values to try of each field, by its dotted name: ``{"optimizer.learning_rate": (1e-4, 1e-3)}``."""
    search: Search = field(default_factory=Grid)
    """Which combinations are tried."""
    seeds: int = 3
    """Runs of the best combination, each with a seed of its own, that are scored on the test splits; none for pre-training."""
    criteria: tuple[tuple[str, str], ...] = ()
    """Figures of a trial's best checkpoint, each with ``min`` or ``max`` for what is good, where one alone should not decide: trials
    are ranked by the mean of their ranks. None: by the one figure of their experiment (``ranked_by``)."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds: {self.seeds} must be 1 or more")
        for criterion in self.criteria:
            if len(criterion) != 2 or criterion[1] not in ("min", "max"):
                raise InputError(f"criteria: {criterion!r} is not a metric's name with min or max, as ('valid/loss', 'min')")
        if self.criteria and isinstance(self.search, Optuna):
            raise InputError("criteria: Optuna proposes by one figure; take another search, or leave them out")
        if not self.axes:
            raise InputError("axes: there is none; name at least one field with the values to try")
        for axis, values in self.axes.items():
            _require_field(self.base, axis)
            if not isinstance(values, tuple | list) or not values:
                raise InputError(f"axes: {axis}: expected a tuple of values, got {values!r}")
            if any(value in values[:place] for place, value in enumerate(values)):
                raise InputError(f"axes: {axis}: a value is there twice in {values!r}")
            if part := next((other for other in self.axes if other.startswith(f"{axis}.")), None):
                raise InputError(f"axes: {part} is a part of {axis}, whose values would replace it; vary either")
        if math.prod(self.sizes) > MOST_COMBINATIONS:
            raise InputError(f"axes: {math.prod(self.sizes):,} combinations, at most {MOST_COMBINATIONS:,} are taken; leave out values")
        for choice in self.combinations():
            try:
                self.experiment(choice)
            except InputError as error:
                raise InputError(f"axes: with {describe(self.values(choice))}: {error}") from None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each axis."""
        return tuple(len(values) for values in self.axes.values())

    @property
    def planned(self) -> int:
        """The number of trials."""
        all_of_them = math.prod(self.sizes)
        return all_of_them if isinstance(self.search, Grid) else min(self.search.trials, all_of_them)

    def combinations(self) -> Iterator[Choice]:
        """Yield every combination."""
        return itertools.product(*map(range, self.sizes))

    def values(self, choice: Choice) -> dict[str, Any]:
        """Return a combination's values by the names of the axes."""
        return {axis: values[place] for (axis, values), place in zip(self.axes.items(), choice, strict=True)}

    def experiment(self, choice: Choice, **changes: Any) -> AnyExperiment:
        """Return the base experiment with a combination's values, and with changes of whole fields (name, seed).

        Raises:
            InputError: a value is of another type than its field's, or the values do not go together.
        """
        plain = self.base.to_plain() | changes
        for axis, value in self.values(choice).items():
            *outer, last = axis.split(".")
            place = plain
            for name in outer:
                place = place[name]
            place[last] = to_plain(value)
        return experiment_of(plain)

    def to_plain(self) -> dict[str, Any]:
        """Return the space as plain values."""
        axes = {axis: to_plain(values) for axis, values in self.axes.items()}
        rest = {name: to_plain(getattr(self, name)) for name in ("search", "seeds", "criteria")}
        return {"base": self.base.to_plain(), "axes": axes, **rest}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Space":
        """Return the space that :meth:`to_plain` was called on; the values of axes stay plain."""
        axes = {axis: tuple(values) for axis, values in plain["axes"].items()}
        criteria = tuple((name, good) for name, good in plain.get("criteria", ()))
        return cls(experiment_of(plain["base"]), axes, from_plain(Search, plain["search"], "search"), plain["seeds"], criteria)


def describe(values: Mapping[str, Any]) -> str:
    """Return values by name in one line."""
    return ", ".join(f"{axis}={shown(value)}" for axis, value in values.items())


def shown(value: Any) -> str:
    """Return a value as a person writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def load_space(path: Path, encoder: str | None, data: str | None, probe: str | None = None) -> Space:
    """Return what the function ``space`` in a file returns; it is called with those of the other arguments that it names.

    Raises:
        InputError: there is no such file or function, it needs what was not given, or what it says is wrong.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; a search space is a Python file with a function space(encoder, data)")
    spec = importlib.util.spec_from_file_location(f"raypro_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = module.space
        parameters = inspect.signature(function).parameters
        given = {name: value for name, value in (("encoder", encoder), ("data", data), ("probe", probe)) if value is not None}
        for name in ("encoder", "data", "probe"):
            if name in parameters and name not in given and parameters[name].default is inspect.Parameter.empty:
                raise InputError(f"--{name}: {path.name} needs it")
            if name in given and name not in parameters and name != "data":
                raise InputError(f"--{name}: {path.name} takes none")
        space = function(**{name: value for name, value in given.items() if name in parameters})
    except InputError:
        raise
    except Exception as error:
        line = _line_within(path, error)
        raise InputError(f"{path}{f':{line}' if line else ''}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    if not isinstance(space, Space):
        raise InputError(f"{path}: space() returns {type(space).__name__}, expected a Space")
    return space


def _line_within(path: Path, error: Exception) -> int | None:
    """Return the last line of a file that an error came through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines, trace = [], error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None


def _require_trials(trials: int) -> None:
    if trials < 1:
        raise InputError(f"search: {trials} trials; there must be 1 or more")


def _require_field(base: AnyExperiment, axis: str) -> None:
    """Raise InputError unless a dotted name is that of a field that may be varied."""
    value: Any = base
    within = ""
    for name in axis.split("."):
        if not is_dataclass(value):
            raise InputError(f"axes: {axis}: {within} is {shown(value)} and has no field {name!r}")
        names = [f.name for f in fields(value)]
        if name not in names:
            raise InputError(f"axes: {axis}: {type(value).__name__} has no field {name!r}{nearest(name, names)}")
        value, within = getattr(value, name), f"{within}.{name}".lstrip(".")
    if axis.split(".")[0] in SHARED:
        raise InputError(f"axes: {axis}: all trials of a sweep share their {axis.split('.')[0]}; change it in the base")
    if isinstance(base, FineTuning) and axis == "seed":
        raise InputError("axes: seed: the best combination is run with several seeds anyway: seeds")


def _drawn(sizes: tuple[int, ...], trials: int, seed: int) -> list[Choice]:
    every = list(itertools.product(*map(range, sizes)))
    order = np.random.default_rng(seed_of(seed, _DRAW)).permutation(len(every))
    return [every[place] for place in order[:trials]]
