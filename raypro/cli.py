"""The commands a person types, and the main of the jobs. Bad input ends with one line and exit status 2."""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.table import Table

from raypro.arguments import one_line_errors, parse, parse_command
from raypro.audit import audit, epochs_ended, planned, read_uses
from raypro.cluster.corpus import build_command, check_command, show_command
from raypro.cluster.doctor import doctor
from raypro.cluster.embed import embed_command
from raypro.cluster.overlap import overlap_command
from raypro.cluster.train import finetune, pretrain, saved_experiment
from raypro.cluster.tune import tune_command
from raypro.config import InputError, RunFailed, nearest
from raypro.data.corpus import Corpus
from raypro.data.download_command import download_command
from raypro.data.label_commands import check_command as check_task_command
from raypro.data.label_commands import import_command
from raypro.data.label_commands import show_command as show_task_command
from raypro.data.synthetic import build_synthetic
from raypro.direct_coupling import dca_command
from raypro.encoder_import import import_encoder_command
from raypro.evaluate.alignment import read_alignment, read_contacts
from raypro.experiment import AnyExperiment, Experiment, FineTuning
from raypro.finetuning import labelled_steps
from raypro.home import RUN_FILE, home, run_folder
from raypro.hugging_face_export import export_encoder_command
from raypro.prediction import predict_command
from raypro.presets import SCRATCH, demo_corpus
from raypro.pretraining import data_plan
from raypro.probing import evaluate_command
from raypro.report import report_command
from raypro.summary import log_findings
from raypro.sweep import sweep_folder
from raypro.tasks.tape import TASKS
from raypro.tracking import send_pending
from raypro.ui import ui
from raypro.validation import Findings, load_model, validate_alignment, validate_model

Name = tyro.conf.Positional[str]
Folder = tyro.conf.Positional[Path]


def main(args: Sequence[str] | None = None) -> None:
    """Run ``raypro``: see ``raypro --help``."""
    with one_line_errors():
        status = parse_command(COMMANDS, sys.argv[1:] if args is None else args, "raypro")()
    sys.exit(status if isinstance(status, int) else 0)


def command_main(command: Callable[..., Any], args: Sequence[str] | None = None) -> None:
    """Run one command as a job of its own."""
    with one_line_errors():
        parse_command({"job": command}, ["job", *(sys.argv[1:] if args is None else args)], Path(sys.argv[0]).name)()


def pretrain_main(presets: Mapping[str, Callable[[], Experiment]], args: Sequence[str] | None = None) -> None:
    """Run a pre-training job: a preset, changed in any field that the command line names.

    ``--preset NAME`` chooses the experiment that the fields default to (the first of ``presets`` where it is missing);
    ``--resume RUN`` goes on with a run: its own experiment, of which budget, validation, workers and tracking may be changed.
    """
    with one_line_errors():
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--preset", default=next(iter(presets)))
        first.add_argument("--resume", metavar="RUN")
        first.error = _refuse  # type: ignore[method-assign]
        chosen, rest = first.parse_known_args(args)
        if chosen.preset not in presets:
            raise InputError(f"--preset: {chosen.preset}: no such preset{nearest(chosen.preset, list(presets))}")
        default = _saved(chosen.resume, Experiment) if chosen.resume else presets[chosen.preset]()
        about = f"--preset {{{','.join(presets)}}} chooses the defaults below; --resume RUN goes on with a run."
        experiment = parse(Experiment, rest, default=default, description=about)
        if experiment.corpus == demo_corpus() and not Path(experiment.corpus).exists():
            print(f"making the demonstration corpus of synthetic families: {experiment.corpus}", flush=True)
            build_synthetic(Path(experiment.corpus))
        pretrain(experiment, resume=bool(chosen.resume))


def finetune_main(base: Callable[[str, str, str], FineTuning], args: Sequence[str] | None = None) -> None:
    """Run a fine-tuning job: ``--task``, ``--encoder`` and ``--data`` choose the defaults, which the command line may change in any field.

    ``--resume RUN`` goes on with a run: its own experiment, of which budget, validation, workers and tracking may be changed.
    """
    with one_line_errors():
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in ("--task", "--encoder", "--data", "--resume"):
            first.add_argument(name)
        first.error = _refuse  # type: ignore[method-assign]
        chosen, rest = first.parse_known_args(args)
        about = "--task NAME --encoder CHECKPOINT --data FOLDER choose the defaults below; --resume RUN goes on with a run."
        if {"-h", "--help"} & set(rest) and not chosen.task:
            chosen.task, chosen.encoder, chosen.data = "regression", "convolution", "FOLDER"
        if chosen.resume:
            default = replace(_saved(chosen.resume, FineTuning), **({"data": chosen.data} if chosen.data else {}))
        elif chosen.task and chosen.encoder and chosen.data:
            default = base(chosen.task, chosen.encoder, chosen.data)
        else:
            _refuse(f"give --task ({', '.join(TASKS)}), --encoder (a checkpoint, {', '.join(SCRATCH)}) and --data, or --resume")
        finetune(parse(FineTuning, rest, default=default, description=about), resume=bool(chosen.resume))


def _saved(run: str, kind: type[Any]) -> Any:
    """Return a run's experiment, which must be of a kind."""
    experiment, _ = saved_experiment(run)
    if not isinstance(experiment, kind):
        raise InputError(f"{run}: that is a {type(experiment).__name__} run, not a {kind.__name__} one; give another, or its own job")
    return experiment


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message}; see --help")


def synthetic_command(
    out: Path, families: int = 4, length: int = 32, sequences: int = 4000, held_out: int = 1, seed: int = 0, overwrite: bool = False
) -> None:
    """Make a corpus of synthetic families with planted, known contacts.

    Args:
        out: the corpus folder to make.
        families: families to train on.
        length: residues of every sequence.
        sequences: sequences of each family.
        held_out: further families, which are the test split.
        seed: of everything random.
        overwrite: replace a corpus that is there already.
    """
    corpus = build_synthetic(out, families=families, length=length, sequences=sequences, held_out=held_out, seed=seed, overwrite=overwrite)
    show_command(corpus.path)


def validate_command(checkpoint: Folder, /, corpus: str | None = None, out: Path | None = None, sequences: int = 32) -> None:
    """Measure a checkpoint on held-out data: Table 2, Figure 3 and, where contacts are known, the label-free contact maps.

    Args:
        checkpoint: a folder step_... of a run.
        corpus: the corpus; the one it was trained on where missing.
        out: folder for the pictures; ``validation/step_...`` in the run's where missing.
        sequences: sequences of each family that its contact map is averaged over.
    """
    model = load_model(checkpoint)
    opened = Corpus.open(corpus or model.experiment.corpus)
    run = checkpoint.absolute().parent
    _conclude(run, model.step, validate_model(model, opened, out or run / "validation" / checkpoint.name, sequences), "validation")


def contacts_command(
    checkpoint: Folder, alignment: Folder, contacts: Folder, /, out: Path | None = None, sequences: int = 32, seed: int = 0
) -> None:
    """Score the contact map that a checkpoint's pair head implies, without labels, for an aligned family with known contacts.

    Args:
        checkpoint: a folder step_... of a run.
        alignment: the family's alignment: A3M, aligned FASTA or Stockholm, plain or gzip.
        contacts: its contacts, tab-separated: columns i and j from 1, distance in angstrom.
        out: folder for the picture; ``validation/step_...`` in the run's where missing.
        sequences: sequences of the family that the map is averaged over.
        seed: of their choice.
    """
    model, family = load_model(checkpoint), read_alignment(alignment)
    known = read_contacts(contacts, family.width)
    name = alignment.name.split(".")[0]
    run = checkpoint.absolute().parent
    findings = validate_alignment(model, family, known, name, out or run / "validation" / checkpoint.name, sequences, seed)
    _conclude(run, model.step, findings, f"contacts_{name}")


def _learned(experiment: AnyExperiment) -> object:
    return experiment.task if isinstance(experiment, FineTuning) else experiment.objective


def list_command() -> None:
    """List the runs in raypro's home."""
    table = Table("run", "learns", "checkpoints", "last step")
    for path in sorted((home() / "runs").glob("*/run.json")):
        steps = sorted(path.parent.glob("step_*"))
        experiment, _ = saved_experiment(path.parent.name)
        last = str(int(steps[-1].name.removeprefix("step_"))) if steps else "-"
        table.add_row(path.parent.name, type(_learned(experiment)).__name__, str(len(steps)), last)
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


def _conclude(run: Path, step: int, findings: Findings, folder: str) -> None:
    """Print what was found and, where the checkpoint lies in a run's folder, add it to the run in MLflow."""
    table = Table("metric", "value")
    for name, value in findings.metrics.items():
        if not math.isnan(value):  # a range of separations without a pair
            table.add_row(name, f"{value:.4f}")
    console = Console()
    console.print(table)
    for picture in findings.pictures:
        console.print(str(picture), soft_wrap=True, highlight=False)
    if (run / RUN_FILE).is_file():
        log_findings(run, step, findings, folder)
        try:
            send_pending(run)
        except InputError as error:
            console.print(f"not in MLflow yet: {error}; raypro runs sync {run.name} sends it", soft_wrap=True, highlight=False)


COMMANDS: dict[str, Callable[..., Any]] = {
    "corpus build": build_command,
    "corpus show": show_command,
    "corpus check": check_command,
    "corpus overlap": overlap_command,
    "corpus synthetic": synthetic_command,
    "task download": download_command,
    "task import": import_command,
    "task show": show_task_command,
    "task check": check_task_command,
    "tune": tune_command,
    "predict": predict_command,
    "embed": embed_command,
    "evaluate": evaluate_command,
    "encoder import": import_encoder_command,
    "encoder export": export_encoder_command,
    "validate": validate_command,
    "contacts": contacts_command,
    "dca": dca_command,
    "runs list": list_command,
    "runs audit": audit_command,
    "runs sync": sync_command,
    "report": report_command,
    "doctor": doctor,
    "ui": ui,
}
