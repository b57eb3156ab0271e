"""``raypro tune``: a search space is checked, fitted to its data and to the cluster, shown, and then tried out (``sweeping.py``)."""

import math
from dataclasses import replace
from pathlib import Path

import ray
import tyro
from ray.util.state import list_actors
from rich.console import Console
from rich.table import Table

from raypro.checkpoint_probe import require_probing
from raypro.cluster.ingest import READ_CPUS
from raypro.cluster.resources import Node, alive_nodes, shortage, this_machine
from raypro.cluster.session import ray_session
from raypro.cluster.sweeping import Data, drive
from raypro.cluster.train import require_corpus, require_labelled
from raypro.config import InputError, from_plain, nearest, to_plain
from raypro.core.objectives.objective import Contrast
from raypro.experiment import Experiment, FineTuning, Task
from raypro.finetuning import resolved
from raypro.presets import fresh_name
from raypro.proposals import require_optuna
from raypro.space import Optuna, Space, load_space, shown
from raypro.sweep import Demand, Sweep
from raypro.training import grouped

SpaceFile = tyro.conf.Positional[Path | None]


def tune_command(
    space: SpaceFile = None,
    /,
    encoder: str | None = None,
    data: str | None = None,
    probe: str | None = None,
    name: str | None = None,
    resume: str | None = None,
    max_concurrent: int | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    retry_failed: bool = False,
) -> None:
    """Try out a search space, run its best combination with several seeds, score those on test, and register the best model.

    Args:
        space: a Python file with a function space(encoder, data) that returns a Space; tune_spaces/ holds one for each task.
        encoder: a checkpoint, hf:FOLDER_OR_NAME of Hugging Face, or one of random weights: convolution, transformer, onehot,
            tape_transformer, tape_resnet, tape_lstm, unirep, bepler or cpcprot.
        data: folder of the labelled data, or of the corpus to pre-train on.
        probe: data of the probe that ranks pre-training trials, for a space that asks for them; the space says which probe.
        name: the sweep's name, its folder in raypro's home; from the file's name and the time where missing.
        resume: name of a sweep to go on with: ended trials are not run again, open ones go on from their checkpoints.
        max_concurrent: trials at the same time; where missing as many as fit, with --resume at most as many as before.
        cpus_per_trial: CPUs that each trial reserves; one for each of its workers where missing.
        gpus_per_trial: GPUs that each trial reserves, 0.25 for four trials a GPU.
        retry_failed: with --resume: run failed trials again.
    """
    if (space is None) == (resume is None):
        raise InputError("give the file of a search space (tune_spaces/ holds some), or --resume NAME")
    if resume is None:
        assert space is not None
        prepared, source = prepare(load_space(space, encoder, data, probe))
        demand = Demand(prepared.base.workers.cpus or 1.0, prepared.base.workers.gpus, prepared.base.workers.count)
        sweep = Sweep.begin(name or fresh_name(space.stem), prepared, source.manifest.checksum, demand, str(space.absolute()))
    else:
        if encoder or data or probe or name:
            raise InputError("--resume: goes on with the sweep's own encoder, data, probe and name; leave those options out")
        sweep = Sweep.open(resume)
        prepared, source = prepare(sweep.space)
        if source.manifest.checksum != sweep.checksum:
            raise InputError(f"{source.path}: not the data that sweep {resume} began with: the checksum differs; begin a new sweep")

    def demanded(nodes: list[Node]) -> Demand:
        return demand_of(sweep, nodes, max_concurrent, cpus_per_trial, gpus_per_trial)

    with ray_session(before_start=lambda: demanded([this_machine()]), dashboard=sweep.demand.workers > 1):
        sweep = sweep.with_demand(demanded(alive_nodes()))
        if sweep.demand.workers > 1:
            require_dashboard()
        show_plan(sweep)
        drive(sweep, source, retry_failed)


def prepare(space: Space) -> tuple[Space, Data]:
    """Check that a space's base can be run, and fill in what only its data know; return it with the opened data.

    Raises:
        InputError: it cannot; says why.
    """
    if isinstance(space.search, Optuna):
        require_optuna()
    require_criteria(space)
    if isinstance(space.base, Experiment):
        corpus, base = require_corpus(space.base), require_probing(space.base)
        return replace(space, base=replace(base, corpus=str(corpus.path))), corpus
    data = require_labelled(space.base)
    base = replace(resolved(space.base, data), data=str(data.path))
    axes = {
        axis: tuple(from_plain(Task, to_plain(task), axis).fitted_to(data) for task in values) if axis == "task" else values
        for axis, values in space.axes.items()
    }
    return replace(space, base=base, axes=axes), data


def require_criteria(space: Space) -> None:
    """Raise InputError if a space ranks its trials by what they do not measure."""
    if not space.criteria:
        return
    if isinstance(space.base, FineTuning):
        raise InputError("criteria: trials of fine-tuning are ranked by the metric of their task; leave them out")
    for experiment in map(space.experiment, space.combinations()):
        assert isinstance(experiment, Experiment)
        objective = experiment.objective
        judged = objective.in_validation if isinstance(objective, Contrast) else objective
        known = [grouped("valid", name) for name in ("loss", *(quantity.name for quantity in judged.quantities))]
        known += [experiment.probe.metric] * (experiment.probe.task is not None)
        for name, _ in space.criteria:
            if name not in known:
                raise InputError(f"criteria: {name}: no figure of these trials{nearest(name, known)}")


def demand_of(sweep: Sweep, nodes: list[Node], at_once: int | None, cpus: float | None, gpus: float | None) -> Demand:
    """Return what each trial asks of the cluster and how many run at once: ``at_once``, or as many as fit.

    What was asked for when a sweep was begun, or resumed last, holds until something else is.

    Raises:
        InputError: that many do not fit, or not even one.
    """
    count = sweep.demand.workers
    each = Demand(cpus / count if cpus else sweep.demand.cpus, gpus / count if gpus is not None else sweep.demand.gpus, count)
    if each.cpus <= 0 or each.gpus < 0 or (at_once is not None and at_once < 1):
        raise InputError("--cpus-per-trial must be above 0, --gpus-per-trial not negative, --max-concurrent 1 or more")
    reading = READ_CPUS if count > 1 and isinstance(sweep.space.base, Experiment) else 0.0

    def lack(trials: int) -> str | None:
        if sum(node.cpus for node in nodes) - trials * count * each.cpus < reading:
            return shortage(nodes, trials * count, each.cpus, each.gpus) or f"{trials} trials leave no CPU to read the corpus"
        return shortage(nodes, trials * count, each.cpus, each.gpus)

    wanted = at_once or 1
    missing = lack(wanted)
    if missing:
        raise InputError(f"{wanted} trial{'s' * (wanted > 1)} at once: {missing}")
    most = max(sweep.space.planned, sweep.space.seeds)
    asked = at_once or sweep.demand.asked
    while at_once is None and wanted < min(most, asked or most) and not lack(wanted + 1):
        wanted += 1
    return replace(each, at_once=min(wanted, most), asked=asked)


def require_dashboard() -> None:
    """Raise InputError unless the cluster's dashboard answers: without it Ray Train does not free what a trial held that died."""
    try:
        list_actors(address=ray.get_runtime_context().gcs_address, limit=1, timeout=20)  # others may run on this machine
    except Exception:
        advice = "start it with 'ray start --head --include-dashboard=true', or take workers.count = 1"
        raise InputError(f"workers: trials of several workers need the cluster's dashboard, which does not answer; {advice}") from None


def show_plan(sweep: Sweep) -> None:
    """Print what will be tried, and what each trial asks of the cluster."""
    space, demand = sweep.space, sweep.demand
    table = Table(title=f"sweep {sweep.path.name}: {sweep.path}", title_justify="left")
    table.add_column("axis")
    table.add_column("values")
    for axis, values in space.axes.items():
        table.add_row(axis, ", ".join(map(shown, values)))
    console = Console()
    console.print(table)
    how, all_of_them = type(space.search).__name__, math.prod(space.sizes)
    ended = sum(trial.result is not None for trial in sweep.trials)
    asked = f"{demand.workers} worker{'s' * (demand.workers > 1)} of {demand.cpus:g} CPUs and {demand.gpus:g} GPUs"
    said = f"{space.planned} trials ({how}, of {all_of_them} combinations){f', {ended} of them ended before' if ended else ''}"
    seeds = f"; then {space.seeds} run{'s' * (space.seeds > 1)} of the best" if isinstance(space.base, FineTuning) else ""
    console.print(f"{said}, each {asked}, {demand.at_once} at once{seeds}", soft_wrap=True, highlight=False)
