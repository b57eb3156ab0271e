"""What comparisons share: runs and sweeps that are not run twice, leakage, the same fine-tuning of every encoder, and tables.

What is held equal holds for the end of a run, so the last checkpoint is what is compared: the one with the best validation loss may
have seen less than the others.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

from raypro.cluster.overlap import overlap_command
from raypro.cluster.resources import alive_nodes
from raypro.cluster.sweeping import drive
from raypro.cluster.train import pretrain, saved_experiment
from raypro.cluster.tune import demand_of, prepare
from raypro.config import InputError, RunFailed, nearest
from raypro.core import checkpoint
from raypro.data.corpus import Corpus
from raypro.data.label_sample import sample
from raypro.data.labelled import LabelledData
from raypro.experiment import Experiment, FineTuning
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import Outbox, last_status
from raypro.settings import Budget
from raypro.space import Space
from raypro.sweep import BOOK, Demand, Sweep, sweep_folder
from raypro.sweep_report import FIGURES, TEST, Spread, failed, over_seeds
from raypro.tasks.tape import TASKS
from raypro.tracking import send_pending


@dataclass(frozen=True)
class Pretrained:
    """A finished pre-training run."""

    checkpoint: Path
    """The last one."""
    steps: int
    """Steps of all players."""
    residues: int
    """Residues that the encoder was trained on; 0 of a run of an older raypro."""
    seconds: float
    """Of training, validation included."""


def require_tasks(tasks: Sequence[tuple[str, str]]) -> None:
    """Raise InputError if a pair of a task and its data names no task."""
    for task, _ in tasks:
        if task not in TASKS:
            raise InputError(f"tasks: {task}: no such task{nearest(task, list(TASKS))}")


def require_names(folders: Iterable[str]) -> None:
    """Raise InputError if two folders of labelled data have one name: what a corpus shares with them is known by it."""
    places: dict[str, Path] = {}
    for folder in folders:
        place = Path(folder).expanduser().resolve()
        if (other := places.setdefault(place.name, place)) != place:
            raise InputError(f"{place} and {other}: two folders of one name, by which leakage is known; rename one of them")


def require_same(experiment: Experiment) -> bool:
    """Return whether the run of an experiment's name is finished.

    Raises:
        InputError: it is, and is another experiment.
    """
    run = run_folder(experiment.name)
    if last_status(run) != "FINISHED":
        return False
    if saved_experiment(run.name)[0] != experiment:
        raise InputError(f"run {run.name} exists, finished, and is another experiment; choose another --name, or remove {run}")
    return True


def run_once(experiment: Experiment, comparison: str, held: str) -> Pretrained:
    """Run a pre-training run, go on with it where it was begun, or take it as it is where it is finished.

    Args:
        experiment: what to run.
        comparison: the comparison's name, for the run's tags.
        held: what is held equal, likewise.

    Raises:
        InputError: the run of its name is another experiment.
    """
    run = run_folder(experiment.name)
    if not require_same(experiment):
        pretrain(experiment, resume=(run / RUN_FILE).is_file())
    outbox = Outbox(run, "comparison")
    outbox.tags({"comparison": comparison, "held equal": held})
    outbox.close()
    with suppress(InputError):  # no answer from MLflow: the run itself has said so, and its records stay
        send_pending(run)
    last = max(run.glob("step_*"))  # always kept
    state = checkpoint.load_training(last)
    return Pretrained(last, int(state["step"]), int(state.get("residues", 0)), float(state["seconds"]))


def measure_leakage(corpus: str | Path, folders: Sequence[str]) -> None:
    """Measure what a corpus shares with the evaluation splits of labelled data, as ``raypro corpus overlap`` does.

    What is in the corpus' manifest already is not measured again. What cannot be measured is said, and nothing else happens.

    Args:
        corpus: folder of the corpus.
        folders: of the labelled data.
    """
    known = {overlap.sha256 for overlap in Corpus.open(corpus).manifest.overlaps}
    data = [LabelledData.open(folder) for folder in dict.fromkeys(folders)]
    unknown = [its.path for its in data if not {file.sha256 for file in its.manifest.files if file.split != "train"} <= known]
    if not unknown:
        return
    try:
        overlap_command(Path(corpus).expanduser(), tuple(unknown))
    except InputError as error:
        print(f"leakage is not measured: {error}", flush=True)


@dataclass(frozen=True)
class Tuning:
    """How an encoder is fine-tuned on a task: a grid, of which validation chooses for each encoder and task apart."""

    learning_rates: tuple[float, ...] = (1e-4, 1e-3)
    """Rates that are tried."""
    batch_sizes: tuple[int, ...] = (32,)
    """Sequences of a step that are tried."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays that are tried."""
    patience: tuple[int, ...] = (2,)
    """Validations without a better one after which a run stops: values that are tried."""
    epochs: int = 5
    """Most epochs of each run."""
    warmup_steps: int = 100
    """Steps over which a run's rate rises."""
    seeds: int = 3
    """Runs of the best combination, with a seed each, that are scored on the test splits."""
    residues: int | None = None
    """Most residues of the training split, and of the validation split: sequences drawn at random, the same ones for every encoder.
    Residues, so that tasks of short and of long sequences cost alike. None: all. Test splits are whole."""
    at_once: int | None = None
    """Runs at the same time; None: as many as fit."""

    def __post_init__(self) -> None:
        if not all(self.tried.values()):
            raise InputError("tuning: give one value or more of learning_rates, batch_sizes, weight_decays and patience")
        if min(self.epochs, self.seeds, 1 if self.residues is None else self.residues) < 1:
            raise InputError("tuning: epochs, seeds and residues must be 1 or more")

    @property
    def tried(self) -> dict[str, tuple[Any, ...]]:
        """The values that are tried, by the names of :class:`raypro.experiment.FineTuning`'s fields."""
        return {
            "batches.size": self.batch_sizes,
            "optimizer.learning_rate": self.learning_rates,
            "optimizer.weight_decay": self.weight_decays,
            "validation.patience": self.patience,
        }

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Those of them that are varied; the learning rates always, since a sweep has an axis at least."""
        rate = "optimizer.learning_rate"
        return {axis: values for axis, values in self.tried.items() if axis == rate or len(values) > 1}

    def __str__(self) -> str:
        tried = prod(map(len, self.tried.values()))
        grid = "; ".join(f"{axis} {', '.join(f'{value:g}' for value in values)}" for axis, values in self.tried.items())
        part = "all sequences" if self.residues is None else f"at most {self.residues:,} residues of train and of valid, drawn at random"
        return (
            f"fine-tuning on {part}; {tried} {'combination' if tried == 1 else 'combinations'} ({grid}), at most {self.epochs} epochs, "
            f"chosen by validation for each encoder and task apart; then {self.seeds} seeds of the best, judged on whole test splits"
        )

    def drawn(self, tasks: Sequence[tuple[str, str]], folder: Path) -> list[tuple[str, str]]:
        """Return tasks with the folders of the labelled data that encoders are fine-tuned on: their own, or samples in ``folder``.

        Raises:
            InputError: a sample cannot be written, or another one is there.
        """
        if self.residues is None:
            return list(tasks)
        opened = [(task, LabelledData.open(data)) for task, data in tasks]
        return [(task, str(sample(data, folder / task / data.path.name, self.residues).path)) for task, data in opened]

    def space(self, name: str, task: str, data: str, like: Experiment, start: Path | None) -> Space:
        """Return what is tried on a task with an encoder.

        Args:
            name: of the experiment.
            task: one of :data:`raypro.tasks.tape.TASKS`.
            data: folder of its labelled data.
            like: the pre-training run whose encoder, precision, seed and tracking these are.
            start: the encoder's checkpoint; None: random weights.
        """
        base = FineTuning(
            name,
            data,
            TASKS[task](),
            like.encoder,
            start=str(start) if start else None,
            budget=Budget(epochs=self.epochs),
            tracking=like.tracking,
            precision=like.precision,
            seed=like.seed,
        )
        base = replace(
            base,
            optimizer=replace(base.optimizer, warmup_steps=self.warmup_steps, weight_decay=self.weight_decays[0]),
            batches=replace(base.batches, size=self.batch_sizes[0]),
            validation=replace(base.validation, patience=self.patience[0]),
        )
        return Space(base, self.axes, seeds=self.seeds)


PAPER_GRID = Tuning((1e-5, 1e-4, 1e-3), (16, 64), (0.0, 0.01), (3, 10), epochs=30)
"""Over what McDermott et al. 2020 varied: batch size, rate, weight decay and patience; the values are ours, the paper lists none."""


@dataclass(frozen=True)
class Tuned:
    """What a sweep reached on a test split, by the metric of its task."""

    spread: Spread
    """The best combination, over seeds."""
    baselines: Mapping[str, float]
    """What needs no encoder, as ridge regression on one-hot residues, by name."""


def sweep_once(name: str, space: Space, at_once: int | None) -> dict[str, Tuned]:
    """Run a sweep, go on with it, or take it as it is where it is finished; return what it reached on each test split.

    Raises:
        InputError: the sweep of its name is another one.
        RunFailed: every trial, or every run of the best combination with another seed, failed.
    """
    prepared, source = prepare(space)
    folder = sweep_folder(name)
    begun = (folder / BOOK).is_file()
    sweep = Sweep.open(name) if begun else Sweep.begin(name, prepared, source.manifest.checksum, Demand(1.0, 0.0), name)
    asked = (replace(prepared.base, name=sweep.space.base.name, workers=sweep.space.base.workers), dict(prepared.axes), prepared.seeds)
    if asked != (sweep.space.base, {axis: tuple(values) for axis, values in sweep.space.axes.items()}, sweep.space.seeds):
        raise InputError(f"sweep {name} exists and is another one; choose another --name, or remove {folder}")
    if not (folder / TEST).is_file():
        sweep = sweep.with_demand(demand_of(sweep, alive_nodes(), at_once, None, None))
        drive(sweep, source, retry_failed=False)
    best, _ = sweep.ranked(sweep.trials)[0]
    runs, metric = sweep.ranked(sweep.seed_trials(best)), prepared.base.task.primary
    if not (folder / TEST).is_file():
        raise RunFailed(f"sweep {name}: {failed(runs)}; after mending it: raypro tune --resume {name} --retry-failed")
    with (folder / TEST).open(newline="") as file:
        rows = {row["split"]: row for row in csv.DictReader(file) if row["metric"] == metric}
    known = {split: {name: float(cell or "nan") for name, cell in row.items() if name not in FIGURES} for split, row in rows.items()}
    baselines = {split: {name: value for name, value in found.items() if isfinite(value)} for split, found in known.items()}
    return {split: Tuned(spreads[metric], baselines[split]) for split, spreads in over_seeds(runs).items() if split != "valid"}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]
