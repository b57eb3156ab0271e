"""What pre-training runs logged of held-out sequences, and direct coupling analyses beside them, as scores of the report."""

import re
from collections.abc import Iterator
from dataclasses import replace

from raypro.evaluate.report_scores import Score, Trained
from raypro.mlflow_store import RunRecord
from raypro.report_fields import floor_of, minutes_of, parameters_of
from raypro.report_runs import Runs


def pretrained_scores(runs: Runs) -> Iterator[Score]:
    """Yield the scores of all pre-training runs, and of all alignments."""
    for record in runs.pretrained:
        yield from _of_pretraining(runs, record)
    for record in runs.aligned:
        yield from _of_alignment(runs, record)


def _of_pretraining(runs: Runs, record: RunRecord) -> Iterator[Score]:
    judged = next((name for name in record.metrics if name.startswith("valid_") and "noiser" not in name), None)
    model = runs.trained(record, _last_step(runs, record, judged))
    for name, value in record.metrics.items():
        group, _, metric = name.partition("/")
        family = re.fullmatch(r"contacts_(.+)", group)  # of `raypro contacts`, which has two prefixes
        if group.startswith("valid_"):
            baselines = floor_of(group.removeprefix("valid_"), metric, record.metrics)
            yield Score(model, "pre-training", group.removeprefix("valid_"), "valid", metric, value, baselines=baselines)
        elif family and metric.startswith("contacts_"):
            floor = record.metrics.get(f"{group}/contacts_random_precision_{metric.split('_', 4)[-1]}")
            about = replace(runs.trained(record, _last_step(runs, record, name)), about=f"{record.name}, on {family[1]}")
            baselines = () if floor is None else (("random ranking", floor),)
            yield Score(about, "pre-training", "contacts", "valid", metric.removeprefix("contacts_"), value, baselines=baselines)


def _last_step(runs: Runs, record: RunRecord, metric: str | None) -> int | None:
    """Return the step of the checkpoint that a metric was measured of last."""
    points = runs.curve(record, metric) if metric else []
    return points[-1][0] if points else None


def _of_alignment(runs: Runs, record: RunRecord) -> Iterator[Score]:
    """Yield the contact precisions of an alignment, the other way to contacts without labels."""
    about, place = record.params.get("family", record.name), runs.link(record)
    model = Trained("Direct coupling analysis", about, (record.run_id,), place, parameters_of(record), None, minutes_of(record))
    for name, value in record.metrics.items():
        metric = name.removeprefix("contacts/")
        if metric.startswith("P_at_"):
            floor = record.metrics.get(f"contacts/random_precision_{metric.split('_', 3)[-1]}")
            baselines = () if floor is None else (("random ranking", floor),)
            yield Score(model, "pre-training", "contacts", "valid", metric, value, baselines=baselines)
