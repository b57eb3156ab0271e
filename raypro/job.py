"""The mains of the jobs: an experiment from a preset and the command line, and its run."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from raypro.arguments import one_line_errors, parse, parse_call
from raypro.cluster.train import finetune, pretrain, saved_experiment
from raypro.config import InputError, nearest
from raypro.data.labelled import LabelledData
from raypro.data.synthetic import build_synthetic
from raypro.experiment import Experiment, FineTuning
from raypro.presets import SCRATCH, demo_corpus
from raypro.tasks.tape import TASKS, require_task


def command_main(command: Callable[..., Any], args: Sequence[str] | None = None) -> None:
    """Run one command as a job of its own."""
    with one_line_errors():
        parse_call(command, sys.argv[1:] if args is None else args, Path(sys.argv[0]).name)()


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
            if Path(chosen.data).is_dir():
                require_task(chosen.task, LabelledData.open(chosen.data), "--task")
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
