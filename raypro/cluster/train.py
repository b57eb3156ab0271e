"""The driver of a run: it checks what was asked, has Ray Train start the workers, and keeps the run's books."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from raypro.cluster.ingest import READ_CPUS
from raypro.cluster.progress import RunProgress
from raypro.cluster.resources import Node, alive_nodes, shortage, this_machine
from raypro.cluster.session import ray_session
from raypro.cluster.worker import run_worker
from raypro.config import InputError, RunFailed
from raypro.data.corpus import Corpus
from raypro.experiment import Experiment, Workers
from raypro.home import run_folder
from raypro.outbox import Outbox
from raypro.provenance import versions
from raypro.summary import conclude
from raypro.tracking import Sender
from raypro.training import data_plan

RUN_FILE = "run.json"
WORKERS_START = 15.0
"""Seconds that the workers take to start, in which the driver leaves them the processor."""
CHECKED_BYTES = 1 << 30
"""Largest corpus whose checksums every run verifies, which takes a second; a larger one is for ``raypro corpus check``."""
CHANGEABLE = ("budget", "validation", "workers", "tracking")
"""What may differ when a run is resumed; anything else would make it another run."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    best: Path
    """The checkpoint of the lowest validation loss."""
    metrics: dict[str, Any]
    """Its validation metrics."""


def pretrain(experiment: Experiment, resume: bool = False) -> Outcome:
    """Run an experiment to its end.

    Args:
        experiment: what to do.
        resume: go on with the run of this name from its last checkpoint.

    Raises:
        InputError: the experiment cannot be run here; nothing was started or changed.
        RunFailed: training failed more often than it may be restarted.
    """
    corpus = require_corpus(experiment)
    run = claim_folder(experiment, corpus, resume)
    with ray_session(before_start=lambda: worker_cpus(experiment.workers, [this_machine()])):
        cpus = worker_cpus(experiment.workers, alive_nodes())
        run.mkdir(parents=True, exist_ok=True)
        _write_json(run / RUN_FILE, {"experiment": experiment.to_plain(), "corpus_checksum": corpus.manifest.checksum})
        print(f"run {run.name}: {run}", flush=True)
        tracking = experiment.tracking
        with Sender(run, tracking.experiment, run.name, tracking.uri, first_look=WORKERS_START) as sender:
            describe(sender.outbox, experiment, corpus)
            with RunProgress(run, experiment.budget):
                outcome = _fit(experiment, run, cpus)
            conclude(experiment, run, outcome.best, sender.outbox)
    return outcome


def _fit(experiment: Experiment, run: Path, cpus: float) -> Outcome:
    workers = experiment.workers
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"experiment": experiment.to_plain(), "run": str(run)},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=workers.restarts, controller_failure_limit=workers.restarts),
            checkpoint_config=CheckpointConfig(experiment.validation.keep, "valid/loss", "min"),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise RunFailed(f"run {run.name}: {_cause(error)}; what it has is kept: go on with --resume {run.name}") from error
    checkpoint, metrics = min(result.best_checkpoints, key=lambda pair: pair[1]["valid/loss"])
    return Outcome(run, Path(checkpoint.path), metrics)


def _cause(error: TrainingFailedError) -> str:
    """Return what went wrong on the first worker that failed, in one line."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = failures[min(failures)]
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__


def worker_cpus(workers: Workers, nodes: list[Node]) -> float:
    """Return the CPUs of each worker: those asked for, or an equal share of what the nodes have, less one CPU for reading.

    Raises:
        InputError: the nodes cannot hold the workers, or have nothing left for reading.
    """
    total = sum(node.cpus for node in nodes)
    cpus = workers.cpus or max(0.1, math.floor(10 * (total - 1) / workers.count) / 10)
    while workers.cpus is None and cpus > 0.1 and shortage(nodes, workers.count, cpus, workers.gpus):
        cpus = max(0.1, round(cpus - 0.1, 1))  # a worker lies within one node: an even share of all may fit on none
    lack = shortage(nodes, workers.count, cpus, workers.gpus)
    if not lack and total - workers.count * cpus < READ_CPUS:
        lack = f"{workers.count} workers of {cpus:g} CPUs leave none of the {total:g} CPUs to read the corpus; lower --workers.cpus"
    if lack:
        raise InputError(f"workers: {lack}")
    return cpus


def require_corpus(experiment: Experiment) -> Corpus:
    """Open the corpus and check that the experiment can be run on it.

    Raises:
        InputError: it cannot; says why.
    """
    corpus = Corpus.open(experiment.corpus)
    if sum(path.stat().st_size for path in corpus.path.glob("*.parquet")) <= CHECKED_BYTES:
        corpus.check()
    for split in ("train", "valid"):
        if not corpus.rows(split):
            raise InputError(f"{corpus.path}: no sequence in its {split} split; build the corpus with one")
        data_plan(experiment, split)  # refuses a token budget that holds no sequence
    return corpus


def claim_folder(experiment: Experiment, corpus: Corpus, resume: bool) -> Path:
    """Return the run's folder: a new one, or that of the run to be resumed.

    Raises:
        InputError: a new run's name is taken, or the run to be resumed is not there or is another experiment.
    """
    run = run_folder(experiment.name)
    if not resume:
        if run.exists():
            raise InputError(f"name: run {run.name} exists ({run}); go on with it by --resume {run.name}, or choose another --name")
        return run
    saved, checksum = saved_experiment(run.name)
    if checksum != corpus.manifest.checksum:
        raise InputError(
            f"{corpus.path}: not the corpus that run {run.name} began with: its checksum differs; give the same corpus, or start anew"
        )
    for name, value in vars(experiment).items():
        if name not in (*CHANGEABLE, "corpus") and value != getattr(saved, name):
            raise InputError(f"{name}: differs from run {run.name}'s; a resumed run may change only {', '.join(CHANGEABLE)}")
    return run


def saved_experiment(name: str) -> tuple[Experiment, str]:
    """Return the experiment of a run and its corpus' checksum.

    Raises:
        InputError: there is no such run.
    """
    path = run_folder(name) / RUN_FILE
    if not path.is_file():
        raise InputError(f"--resume {name}: no such run in {path.parent.parent}; 'raypro runs list' names those that there are")
    saved = json.loads(path.read_text())
    return Experiment.from_plain(saved["experiment"]), saved["corpus_checksum"]


def describe(outbox: Outbox, experiment: Experiment, corpus: Corpus) -> None:
    """Log what a run is."""
    plain = experiment.to_plain()
    outbox.text("experiment.json", json.dumps(plain, indent=1))
    outbox.params(dict(flat(plain)) | {f"version.{name}": version for name, version in versions().items()})
    outbox.tags({"objective": plain["objective"]["kind"], "corpus": corpus.path.name, "corpus_checksum": corpus.manifest.checksum[:12]})
    for split in ("train", "valid"):
        profile = {"sequences": corpus.rows(split), "residues": corpus.residues(split)}
        outbox.dataset(corpus.path.name, corpus.manifest.checksum[:32], str(corpus.path), profile, split)
    outbox.artifact(corpus.path / "manifest.json", "corpus")


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
