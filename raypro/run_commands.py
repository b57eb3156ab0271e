"""The commands of ``raypro runs``: what runs there are, what one of them used, and what MLflow has not got yet."""

import tyro
from rich.console import Console
from rich.table import Table

from raypro.audit import audit, epochs_ended, planned, read_uses
from raypro.cluster.train import saved_experiment
from raypro.config import RunFailed
from raypro.experiment import FineTuning
from raypro.finetuning import labelled_steps
from raypro.home import home, run_folder
from raypro.pretraining import data_plan
from raypro.sweep import sweep_folder
from raypro.tracking import send_pending

Name = tyro.conf.Positional[str]


def list_command() -> None:
    """List the runs in raypro's home."""
    table = Table("run", "learns", "checkpoints", "last step")
    for path in sorted((home() / "runs").glob("*/run.json")):
        steps = sorted(path.parent.glob("step_*"))
        experiment, _ = saved_experiment(path.parent.name)
        learned = experiment.task if isinstance(experiment, FineTuning) else experiment.objective
        last = str(int(steps[-1].name.removeprefix("step_"))) if steps else "-"
        table.add_row(path.parent.name, type(learned).__name__, str(len(steps)), last)
    Console().print(table)


def audit_command(run: Name, /) -> int:
    """Prove from a run's own record that each sequence of an epoch was used exactly once; exit status 1 if not.

    Args:
        run: the run's name.
    """
    experiment, _ = saved_experiment(run)
    table = Table("epoch", "windows", "whole", "open", "sequences used", "verdict", title=f"run {run}, as of its last checkpoint")
    windows = labelled_steps(experiment) if isinstance(experiment, FineTuning) else planned(data_plan(experiment))
    folder = run_folder(run)
    epochs = audit(windows, read_uses(folder), epochs_ended(folder, experiment))
    if not epochs:
        raise RunFailed(f"run {run}: nothing is in its record yet, so nothing is proven; it is written with each checkpoint")
    for found in epochs:
        verdict = "; ".join(found.wrong) or ("each exactly once" if found.whole == found.windows else "none twice, epoch not finished")
        table.add_row(str(found.epoch), str(found.windows), str(found.whole), str(found.opened), f"{found.rows:,}", verdict)
    Console().print(table)
    return int(any(found.wrong for found in epochs))


def sync_command(run: Name, /) -> None:
    """Send to MLflow what a run or a sweep could not send while it lasted.

    Args:
        run: its name.
    """
    folder = run_folder(run) if run_folder(run).exists() else sweep_folder(run)
    print(f"run {run}: {send_pending(folder)} records sent")
