"""Probes of a run's checkpoints while it goes on: what is probed, and the run's own record of it, which MLflow gets like all others.

The encoder alone is probed, on validation data: test splits are not looked at. What was recorded is never probed again, and a probe
that fails is a warning in the run's tags: nothing here ends a run.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypro.config import InputError
from raypro.contrastive import ALL, evaluate_contrastive, held_out, objective_of
from raypro.data.labelled import LabelledData
from raypro.encoder import LoadedEncoder, load_encoder
from raypro.evaluate.families import draw_families, read_families
from raypro.experiment import CPCProtShape, Experiment
from raypro.outbox import FOLDER, Outbox, read_records
from raypro.own_process import in_own_process
from raypro.probe_tasks import (
    CONTRASTIVE,
    FAMILIES,
    Evaluation,
    Metrics,
    evaluate_families,
    evaluate_labelled,
    require_labels,
    require_probe,
)
from raypro.settings import Probing

WRITER = "probe"
"""Name of the outbox of probes."""
FAILED = "probe failed"
"""Tag of a run: the step at which a probe failed last, and why."""
MOST_SECONDS = 3600.0
"""A probe that takes longer is given up: the end of its run waits for it."""
MOST_FAMILIES, MOST_MEMBERS = 50, 120
"""Families that are drawn, and most sequences of each: the paper's."""


def require_probing(experiment: Experiment) -> Experiment:
    """Check that checkpoints can be probed; return the experiment with the data's absolute place.

    Raises:
        InputError: no such probe, or data that it cannot use.
    """
    probing = experiment.probe
    if probing.task is None or probing.data is None:
        return experiment
    data = Path(probing.data).expanduser().absolute()
    try:
        require_probe(probing.task)
        if probing.task == FAMILIES:
            draw_families(read_families(data), MOST_FAMILIES, _members(probing))
        elif probing.task == CONTRASTIVE:
            if not isinstance(experiment.encoder, CPCProtShape):
                raise InputError("contrastive asks which patch comes next; this encoder has none: take a CPCProt, or another task")
            for _, sequences in held_out(data, 1, ("valid",), 0):
                next(sequences, None)
        else:
            require_labels(probing.task, LabelledData.open(data))
    except InputError as error:
        raise InputError(f"probe: {str(error).removeprefix('--probe ')}") from None
    return replace(experiment, probe=replace(probing, data=str(data)))


def probe_checkpoint(path: str | Path, probing: Probing) -> Metrics:
    """Return what the probes find in a checkpoint's encoder, on the CPU: ``probe/<task>/<metric>``.

    The metric alone is that of the probe which is best on validation (the mean over distances of a contrast); each probe's own
    metrics have its name before theirs. A family task has no validation data: nothing is chosen there.
    """
    found = evaluate_quickly(load_encoder(path), probing, path)
    split = "valid" if "valid" in found.splits else "test"
    judged = [finding for finding in found.own if finding.probe == ALL] or found.own
    metrics = {found.primary: max(finding.scores[split][found.primary] for finding in judged)}
    for finding in found.own:
        metrics |= {f"{finding.probe}_{name}".replace(" ", "_"): value for name, value in finding.scores[split].items()}
    return {f"probe/{probing.task}/{name}": value for name, value in metrics.items()}


def evaluate_quickly(encoder: LoadedEncoder, probing: Probing, path: str | Path) -> Evaluation:
    """Return an encoder's probes on at most ``probing.examples`` examples, without baselines; ``path`` is where it came from."""
    assert probing.task and probing.data
    if probing.task == FAMILIES:
        return evaluate_families(encoder, probing.data, baselines=False, families=MOST_FAMILIES, members=_members(probing))
    if probing.task == CONTRASTIVE:
        objective = objective_of(path, encoder.shape)
        return evaluate_contrastive(encoder, objective, probing.data, baselines=False, most=probing.examples, names=("valid",))
    most, data = probing.examples, LabelledData.open(probing.data)
    return evaluate_labelled(encoder, probing.task, data, baselines=False, fitted=most, predicted=most, tests=False)


def probe_and_record(path: Path, probing: Probing, probe: Callable[[str | Path, Probing], Metrics] = probe_checkpoint) -> Metrics:
    """Probe a checkpoint of a run in a process of its own and record what it found; return the metrics, none where it failed.

    Whatever the probe does, be it killed for the memory that it takes, is an answer here.
    """
    run, step = path.parent, int(path.name.removeprefix("step_"))
    before = recorded(run).get(step, {})
    if probing.metric in before:  # the run was killed when this was recorded, and Ray had not heard of it
        return before
    outbox = Outbox(run, WRITER)
    try:
        metrics = in_own_process(probe, str(path), probing, seconds=MOST_SECONDS)
        outbox.metrics(step, metrics)
        return metrics
    except Exception as error:
        outbox.tags({FAILED: f"step {step}: {' '.join(str(error).split()) or type(error).__name__}"})
        return {}
    finally:
        outbox.close()


def recorded(run: Path) -> dict[int, Metrics]:
    """Return step -> metrics of the checkpoints of a run that were probed, in the order of their steps."""
    found: dict[int, Metrics] = {}
    for record in _records(run):
        if record["kind"] == "metrics":
            found.setdefault(record["step"], {}).update(record["values"])
    return dict(sorted(found.items()))


def last_failure(run: Path) -> str | None:
    """Return at which step a probe failed last, and why; None where none did."""
    said = [record["values"][FAILED] for record in _records(run) if record["kind"] == "tags" and FAILED in record["values"]]
    return said[-1] if said else None


def _members(probing: Probing) -> int:
    return min(MOST_MEMBERS, max(2, probing.examples // MOST_FAMILIES))


def _records(run: Path) -> list[dict[str, Any]]:
    path = run / FOLDER / f"outbox-{WRITER}.jsonl"
    return [record for record, _ in read_records(path, 0) if record] if path.is_file() else []
