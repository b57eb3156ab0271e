"""The driver of a run: it checks what was asked, has Ray Train start the workers, and keeps the run's books."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raypro.checkpoint_probe import require_probing
from raypro.cluster.group import Outcome, fit_on_workers
from raypro.cluster.progress import RunProgress
from raypro.cluster.resources import alive_nodes, this_machine, worker_cpus
from raypro.cluster.session import ray_session
from raypro.config import InputError, RunFailed
from raypro.core.distributed import best_device
from raypro.core.objectives.objective import Demanding
from raypro.data.corpus import Corpus
from raypro.data.labelled import LabelledData
from raypro.experiment import AnyExperiment, Experiment, FineTuning, experiment_of
from raypro.finetuning import FineTuned, initial_model, resolved
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import Outbox
from raypro.pretraining import data_plan, decays_with_budget, require_contrasts, said_of_validation
from raypro.provenance import versions
from raypro.scoring import score_and_report, tags_of_start
from raypro.summary import conclude, encoder_size
from raypro.tracking import Sender

WORKERS_START = 15.0
"""Seconds that the workers take to start, in which the driver leaves them the processor."""
CHECKED_BYTES = 1 << 30
"""Largest corpus whose checksums every run verifies; of a larger one only what each file's end says. None is counted anew."""
CONSTANT = (
    "note: minutes are no number of steps, so the learning rate stays constant after its warm-up; "
    "for a decay give --optimizer.decay-steps or --budget.steps"
)
CHANGEABLE = ("budget", "validation", "workers", "tracking", "probe")
"""What may differ when a run is resumed; anything else would make it another run."""


def pretrain(experiment: Experiment, resume: bool = False) -> Outcome:
    """Run a pre-training experiment to its end; see :func:`drive`."""
    corpus, experiment = require_corpus(experiment), require_probing(experiment)
    if decays_with_budget(experiment) and not (experiment.budget.steps or experiment.budget.epochs or experiment.budget.residues):
        print(CONSTANT, flush=True)
    if experiment.validation.batch:
        print(f"validation: {said_of_validation(experiment)}", flush=True)
    return drive(
        experiment,
        corpus.manifest.checksum,
        resume,
        describe=lambda outbox: describe_corpus(outbox, experiment, corpus),
        conclude=lambda outcome, outbox: conclude(experiment, outcome.run, outcome.best, outbox),
    )


def finetune(experiment: FineTuning, resume: bool = False) -> Outcome:
    """Run a fine-tuning experiment to its end, and score its best checkpoint on the test splits; see :func:`drive`."""
    data = require_labelled(experiment)
    experiment = resolved(experiment, data)
    return drive(
        experiment,
        data.manifest.checksum,
        resume,
        describe=lambda outbox: describe_labelled(outbox, experiment, data),
        conclude=lambda outcome, outbox: score_and_report(FineTuned.load(outcome.best, best_device()), data, outcome.run, outbox),
    )


def drive(
    experiment: AnyExperiment,
    checksum: str,
    resume: bool,
    describe: Callable[[Outbox], None],
    conclude: Callable[[Outcome, Outbox], None],
) -> Outcome:
    """Run an experiment to its end.

    Args:
        experiment: what to do.
        checksum: of its data.
        resume: go on with the run of this name from its last checkpoint.
        describe: logs what the run reads, at the start.
        conclude: measures what it learned, at the end.

    Raises:
        InputError: the experiment cannot be run here; nothing was started or changed.
        RunFailed: training failed more often than it may be restarted.
    """
    run = claim_folder(experiment, checksum, resume)
    probing = experiment.probe.reserved if isinstance(experiment, Experiment) else 0.0
    with ray_session(before_start=lambda: worker_cpus(experiment.workers, [this_machine()], probing)):
        cpus = worker_cpus(experiment.workers, alive_nodes(), probing)
        tracking = experiment.tracking
        with Sender(run, tracking.experiment or experiment.stage, run.name, tracking.uri, first_look=WORKERS_START) as sender:
            # only now: the run may be another driver's, which still lives
            _write_json(run / RUN_FILE, {"experiment": experiment.to_plain(), "data_checksum": checksum})
            print(f"run {run.name}: {run}", flush=True)
            describe_experiment(sender.outbox, experiment)
            describe(sender.outbox)
            try:
                with RunProgress(run, experiment.budget):
                    outcome = fit_on_workers(experiment, run, cpus)
            except RunFailed as error:
                raise RunFailed(f"run {run.name}: {error}; what it has is kept: go on with --resume {run.name}") from error
            conclude(outcome, sender.outbox)
    return outcome


def require_corpus(experiment: Experiment) -> Corpus:
    """Open the corpus and check that the experiment can be run on it.

    Raises:
        InputError: it cannot; says why.
    """
    corpus = Corpus.open(experiment.corpus)
    with torch.device("meta"):  # nothing is computed nor kept: whether encoder and objective fit is all that is asked
        experiment.objective.build(experiment.encoder.build())
    if sum(path.stat().st_size for path in corpus.path.glob("*.parquet")) <= CHECKED_BYTES:
        corpus.check_sums()
    corpus.check_files()
    for split in ("train", "valid"):
        if not corpus.rows(split):
            raise InputError(f"{corpus.path}: no sequence in its {split} split; build the corpus with one")
        data_plan(experiment, split)  # refuses a token budget that holds no sequence
        if isinstance(experiment.objective, Demanding):
            shortest, longest = (min(length, experiment.batches.max_length) for length in corpus.length_range(split))  # as they are cropped
            experiment.objective.require_lengths(shortest, longest)
    require_contrasts(experiment)
    return corpus


def require_labelled(experiment: FineTuning) -> LabelledData:
    """Open the labelled data, verify their checksums, and check that the experiment can be run on them.

    Raises:
        InputError: it cannot; says why.
    """
    data = LabelledData.open(experiment.data)
    data.check()
    initial_model(resolved(experiment, data))  # refuses a checkpoint that does not fit
    return data


def claim_folder(experiment: AnyExperiment, checksum: str, resume: bool) -> Path:
    """Return the run's folder: a new one, or that of the run to be resumed.

    Raises:
        InputError: a new run's name is taken, or the run to be resumed is not there or is another experiment.
    """
    run = run_folder(experiment.name)
    if not resume:
        if run.exists():
            raise InputError(f"name: run {run.name} exists ({run}); go on with it by --resume {run.name}, or choose another --name")
        return run
    saved, begun_with = saved_experiment(run.name)
    if type(saved) is not type(experiment):
        raise InputError(f"--resume {run.name}: that is a {type(saved).__name__} run; resume it with the job that began it")
    if checksum != begun_with:
        place = "corpus" if isinstance(experiment, Experiment) else "data"
        raise InputError(
            f"{getattr(experiment, place)}: not the {place} that run {run.name} began with: its checksum differs; give that, or start anew"
        )
    for name, value in vars(experiment).items():
        if name not in (*CHANGEABLE, "corpus", "data") and value != getattr(saved, name):
            raise InputError(f"{name}: differs from run {run.name}'s; a resumed run may change only {', '.join(CHANGEABLE)}")
    return run


def saved_experiment(name: str) -> tuple[AnyExperiment, str]:
    """Return the experiment of a run and its data's checksum.

    Raises:
        InputError: there is no such run.
    """
    path = run_folder(name) / RUN_FILE
    if not path.is_file():
        raise InputError(f"{name}: no such run in {path.parent.parent}; 'raypro runs list' names those that there are")
    saved = json.loads(path.read_text())
    return experiment_of(saved["experiment"]), saved["data_checksum"]


def describe_experiment(outbox: Outbox, experiment: AnyExperiment) -> None:
    """Log what a run is asked to do, and by which versions."""
    plain = experiment.to_plain()
    outbox.text("experiment.json", json.dumps(plain, indent=1))
    size = {"parameters": encoder_size(experiment.encoder)}
    outbox.params(dict(flat(plain)) | size | {f"version.{name}": version for name, version in versions().items()})


def describe_corpus(outbox: Outbox, experiment: Experiment, corpus: Corpus) -> None:
    """Log what a pre-training run reads."""
    objective = type(experiment.objective).__name__
    tags = {"objective": objective, "corpus": corpus.path.name, "corpus_checksum": corpus.manifest.checksum[:12]}
    outbox.tags(tags | ({"validation": said_of_validation(experiment)} if experiment.validation.batch else {}))
    for split in ("train", "valid"):
        profile = {"sequences": corpus.rows(split), "residues": corpus.residues(split)}
        outbox.dataset(corpus.path.name, corpus.manifest.checksum[:32], str(corpus.path), profile, split)
    outbox.artifact(corpus.path / "manifest.json", "corpus")


def describe_labelled(outbox: Outbox, experiment: FineTuning, data: LabelledData) -> None:
    """Log what a fine-tuning run reads."""
    start = experiment.start or f"random {type(experiment.encoder).__name__.removesuffix('Shape')}"
    tags = {"task": type(experiment.task).__name__, "start": start, "data": data.path.name, "data_task": data.task}
    outbox.tags(tags | tags_of_start(experiment.start) | {"data_checksum": data.manifest.checksum[:12]})
    for file in data.manifest.files:
        profile = {"sequences": file.rows, "residues": file.residues}
        outbox.dataset(data.path.name, data.manifest.checksum[:32], str(data.path), profile, file.split)
    outbox.artifact(data.path / "manifest.json", "data")


def flat(plain: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested plain values as (dotted name, value)."""
    pairs: list[tuple[str, Any]] = []
    for name, value in plain.items():
        pairs += flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return pairs


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)
