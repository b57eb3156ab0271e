"""Adversarial against random masking: encoders pre-trained either way, fine-tuned on tasks, in one table (McDermott et al. 2020, Table 2).

Random masking is there twice: for as many steps of the encoder, and, since the noiser's steps cost time, for as much time. What is
finished is not run again, so a comparison that was stopped goes on when it is asked for again.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raypro.arguments import one_line_errors, parse
from raypro.cluster.comparing import (
    Pretrained,
    Tuned,
    Tuning,
    markdown,
    measure_leakage,
    require_names,
    require_tasks,
    run_once,
    sweep_once,
)
from raypro.cluster.session import ray_session
from raypro.cluster.train import require_corpus
from raypro.cluster.tune import prepare
from raypro.config import InputError
from raypro.core.objectives.adversarial import Adversarial
from raypro.experiment import Experiment
from raypro.home import home
from raypro.outbox import Outbox
from raypro.settings import Budget, require_name
from raypro.space import Space
from raypro.sweep_report import Spread
from raypro.tasks.tape import TASKS
from raypro.tracking import Sender

SCRATCH, RANDOM, LONGER, ADVERSARIAL = "not pre-trained", "random", "random, equal time", "adversarial"
STEPS, TIME = "equal steps", "equal time"
"""What is held equal."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what."""

    name: str
    """Name of the comparison: its folder in raypro's home, and the beginning of the names of its runs."""
    adversarial: Experiment
    """The adversarial pre-training run; those with random masking are the same in all else. Its name is not used."""
    tasks: tuple[tuple[str, str], ...] = ()
    """Pairs of a task and the folder of its labelled data."""
    tuning: Tuning = field(default_factory=Tuning)
    """How encoders are fine-tuned on the tasks."""

    def __post_init__(self) -> None:
        require_name(self.name)
        if not isinstance(self.adversarial.objective, Adversarial):
            raise InputError("adversarial.objective: is not the adversarial one; start from a preset of jobs/pretrain_adversarial.py")
        budget = self.adversarial.budget
        if budget.steps is None or budget.minutes is not None or budget.residues is not None:
            raise InputError("adversarial.budget: give steps, and no minutes or residues: the steps are what is held equal")
        require_tasks(self.tasks)

    @property
    def folder(self) -> Path:
        """Where the table is."""
        return home() / "comparisons" / self.name

    @property
    def encoder_share(self) -> float:
        """Which part of the adversarial run's steps are the encoder's."""
        objective = self.adversarial.objective
        assert isinstance(objective, Adversarial)
        return objective.encoder_steps / (objective.noiser_steps + objective.encoder_steps)

    def pretraining(self, condition: str, longer: float = 1.0) -> Experiment:
        """Return a condition's pre-training run; ``longer``: how many times as many steps as equal steps are."""
        adversarial = replace(self.adversarial, name=f"{self.name}-{condition.replace(', ', '-').replace(' ', '-')}")
        if condition == ADVERSARIAL:
            return adversarial
        assert isinstance(adversarial.objective, Adversarial) and adversarial.budget.steps is not None
        share = self.encoder_share * longer
        rate, every = adversarial.optimizer, adversarial.validation.every
        return replace(
            adversarial,
            objective=adversarial.objective.random_masking(),
            budget=Budget(steps=_scaled(adversarial.budget.steps, share)),
            optimizer=replace(rate, warmup_steps=round(rate.warmup_steps * share), decay_steps=_scaled(rate.decay_steps, share)),
            validation=replace(adversarial.validation, every=_scaled(every, share)),
        )

    def fine_tuning(self, task: str, data: str, start: Path | None) -> Space:
        """Return what is tried on a task with an encoder, that of a checkpoint or one with random weights."""
        return self.tuning.space(f"{self.name}-{task}", task, data, self.adversarial, start)


@dataclass(frozen=True)
class Row:
    """What the encoders reach on a test split, by condition, beside what needs none."""

    task: str
    split: str
    metric: str
    reached: Mapping[str, Spread]
    baselines: Mapping[str, float]


def compare_main(default: Comparison, args: Sequence[str] | None = None) -> None:
    """Run a comparison, changed in any field that the command line names."""
    with one_line_errors():
        compare(parse(Comparison, args, default=default, description="Asked for again by the same --name, it goes on."))


def compare(comparison: Comparison) -> list[Row]:
    """Run what is not finished of a comparison; write, log and print its table.

    Raises:
        InputError: something of it cannot be run here, or a run of its name is another one.
        RunFailed: a run failed; the comparison may be asked for again.
    """
    if not comparison.tasks:
        raise InputError("tasks: give pairs of a task and its data: --tasks stability FOLDER secondary_structure FOLDER")
    require_corpus(comparison.adversarial)
    folders = [data for _, data in comparison.tasks]
    require_names(folders)
    for task, data in comparison.tasks:
        prepare(comparison.fine_tuning(task, data, None))
    measure_leakage(comparison.adversarial.corpus, folders)
    tasks = comparison.tuning.drawn(comparison.tasks, comparison.folder / "data")
    tracking = comparison.adversarial.tracking
    comparison.folder.mkdir(parents=True, exist_ok=True)
    with ray_session(), Sender(comparison.folder, "comparison", comparison.name, tracking.uri) as sender:
        runs = pretrain_all(comparison)
        starts = {SCRATCH: None, **{condition: run.checkpoint for condition, run in runs.items()}}
        rows = [row for task, data in tasks for row in fine_tune_all(comparison, task, data, starts)]
        report(comparison, runs, rows, sender.outbox)
    return rows


def pretrain_all(comparison: Comparison) -> dict[str, Pretrained]:
    """Run the three pre-training runs, or take them as they are where they are finished."""
    random, adversarial = (run_once(comparison.pretraining(condition), comparison.name, STEPS) for condition in (RANDOM, ADVERSARIAL))
    longer = comparison.pretraining(LONGER, adversarial.seconds / random.seconds)
    return {RANDOM: random, LONGER: run_once(longer, comparison.name, TIME), ADVERSARIAL: adversarial}


def fine_tune_all(comparison: Comparison, task: str, data: str, starts: Mapping[str, Path | None]) -> list[Row]:
    """Fine-tune each encoder on a task; return a row for each test split."""
    reached: dict[str, dict[str, Tuned]] = {}
    for condition, start in starts.items():
        name = f"{comparison.name}-{task}-{condition.replace(', ', '-').replace(' ', '-')}"
        reached[condition] = sweep_once(name, comparison.fine_tuning(task, data, start), comparison.tuning.at_once)
    primary = TASKS[task]().primary
    return [
        Row(task, split, primary, {c: found[split].spread for c, found in reached.items()}, tuned.baselines)
        for split, tuned in reached[SCRATCH].items()
    ]


def report(comparison: Comparison, runs: Mapping[str, Pretrained], rows: Sequence[Row], outbox: Outbox) -> None:
    """Write the table as CSV and Markdown, log both, and print it."""
    conditions = (SCRATCH, *runs)
    path = comparison.folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "split", "metric", "condition", "mean", "deviation", "runs"])
        for row in rows:
            for condition, spread in row.reached.items():
                writer.writerow([row.task, row.split, row.metric, condition, spread.mean, spread.deviation, spread.runs])
            for name, value in row.baselines.items():
                writer.writerow([row.task, row.split, row.metric, name, value, "", ""])
    outbox.artifact(path)
    table = Table(title=f"{comparison.name}: mean ± deviation over fine-tuning seeds", title_justify="left")
    columns = ["task", "split", "metric", *conditions, "best baseline"]
    shown = [[row.task, row.split, row.metric, *(str(row.reached[c]) for c in conditions), _best(row.baselines)] for row in rows]
    costs = [f"- {c}: {run.steps:,} steps, {run.seconds / 60:.1f} minutes, `{run.checkpoint}`" for c, run in runs.items()]
    about = ["", f"Figures: mean ± deviation over seeds; {comparison.tuning}.", ""]
    text = "\n".join([*markdown(columns, shown), *about, "Pre-training (steps of both players, where there are two):", "", *costs]) + "\n"
    (comparison.folder / "table.md").write_text(text)
    outbox.artifact(comparison.folder / "table.md")
    outbox.description(text)
    outbox.metrics(0, {f"{c.replace(', ', ' ')}/{r.task}_{r.split}_{r.metric}": s.mean for r in rows for c, s in r.reached.items()})
    for column in columns:
        table.add_column(column)
    for line in shown:
        table.add_row(*line)
    console = Console()
    console.print(table)
    console.print(str(comparison.tuning), highlight=False)
    console.print(f"table        {comparison.folder}", soft_wrap=True, highlight=False)


def _best(baselines: Mapping[str, float]) -> str:
    name = max(baselines, key=lambda name: baselines[name], default=None)
    return f"{baselines[name]:.3f} ({name})" if name else "-"


def _scaled(steps: int | None, share: float) -> int | None:
    return None if steps is None else max(1, round(steps * share))
