"""What fine-tuning runs (``scores.json``) and sweeps of them (``test.csv``) reached on the tasks, as scores of the report."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePath

from raypro.evaluate.report_filling import chosen
from raypro.evaluate.report_scores import Score, Trained, interval
from raypro.evaluate.report_tables import NOT_PRETRAINED, method_name
from raypro.mlflow_store import RunRecord
from raypro.report_fields import (
    by_split_of,
    configuration,
    encoder_of,
    equal_time_of,
    mapping,
    mean_of,
    minutes_of,
    number,
    numbers,
    objective_of,
    over_seeds,
    overlap_of,
    pair,
    parameters_of,
    shape_of,
    sum_of,
)
from raypro.report_runs import Runs
from raypro.tasks.tape import TASKS

AVERAGED = "their average"
"""A column of a sweep's test table that is no baseline."""


def tuned_scores(runs: Runs) -> Iterator[Score]:
    """Yield the scores of all fine-tuning runs and sweeps, and their baselines.

    What was pre-trained has the same encoder without pre-training among its baselines, where it was fine-tuned on the same data.
    """
    found = list(_of_configurations(runs))
    untrained: dict[tuple[object, ...], list[Score]] = {}
    for record, score in found:
        if _start(record) is None and not score.model.baseline:
            untrained.setdefault((shape_of(record), score.task, score.split, score.metric), []).append(score)
    for record, score in found:
        rivals = untrained.get((shape_of(record), score.task, score.split, score.metric))
        if rivals and _start(record) is not None and not score.model.baseline:
            rival = chosen(rivals)
            low, high = interval(rival)
            reaches = {} if low is None or high is None else {NOT_PRETRAINED: (high - low) / 2}
            score = replace(score, baselines=(*score.baselines, (NOT_PRETRAINED, rival.value)), reaches=reaches)
        yield score


def _of_configurations(runs: Runs) -> Iterator[tuple[RunRecord, Score]]:
    """Yield the scores of each configuration with one of its runs: of a sweep as they are, of several seeds their means."""
    for _, alike in groupby(sorted(runs.fine_tuned, key=configuration), key=configuration):
        same = list(alike)
        if "axes" in same[0].tags:
            yield from ((same[0], score) for score in _of_sweep(runs, same[0]))
        else:
            yield from ((same[0], score) for score in over_seeds([list(_of_run(runs, run)) for run in same]))


def _start(record: RunRecord) -> str | None:
    start = record.params.get("start", "None")
    return None if start == "None" else start


def _model(runs: Runs, record: RunRecord, seeds: Sequence[RunRecord]) -> Trained:
    """Return the model of a fine-tuning run or sweep, whose weights were trained by ``seeds``."""
    start, frozen = _start(record), record.params.get("frozen") == "True"
    place = PurePath(start or "")  # a run's checkpoint is a folder step_... in the run's, an imported encoder a folder of its own
    source = place.parent.name if place.name.startswith("step_") else place.name
    before = next((r for r in reversed(runs.pretrained) if r.name == source), None) if start else None
    objective = None if start is None else objective_of(before) if before else "pre-trained"
    tokens = mean_of([run.metrics.get("train/tokens") for run in seeds])
    minutes = mean_of([minutes_of(run) for run in seeds])
    if start:
        tokens = sum_of(tokens, before.metrics.get("train/tokens") if before else None)
        minutes = sum_of(minutes, minutes_of(before) if before else None)
    return Trained(
        method_name(objective, encoder_of(record), frozen, before is not None and equal_time_of(before)),
        ", ".join(filter(None, [f"from {runs.trained(before).about if before else source}" if start else "", _label(runs, record)])),
        (record.run_id, *(run.run_id for run in seeds if run is not record)),
        runs.link(record),
        parameters_of(record),
        tokens,
        minutes,
        before.tags.get("corpus", "") if before else "",
        before.tags.get("corpus_checksum", "") if before else "",
    )


def _label(runs: Runs, record: RunRecord) -> str:
    return runs.data_labels.get(runs.data[record.run_id], "")


def _of_run(runs: Runs, record: RunRecord) -> Iterator[Score]:
    """Yield the scores of one fine-tuning run, and of its baselines."""
    written = runs.store.json(record.run_id, "scores.json")
    model, data = _model(runs, record, [record]), runs.data[record.run_id]
    checked = mapping(written.get("scores")) or by_split_of(record.metrics)
    baselines, intervals, overlaps = (mapping(written.get(name)) for name in ("baselines", "intervals", "corpus_overlap"))
    chosen_by = number(mapping(checked.get("valid")).get(TASKS[data.task]().primary))
    for split, metrics in checked.items():
        overlap, leaked = overlap_of(overlaps.get(split)), data.in_train.get(split, 0)
        for metric, value in numbers(metrics).items():
            low, high = pair(mapping(intervals.get(split)).get(metric))
            others = {name: numbers(mapping(by_split).get(split)).get(metric) for name, by_split in baselines.items()}
            rivals = tuple((name, known) for name, known in others.items() if known is not None)
            score = Score(model, "fine-tuning", data.task, split, metric, value, low, high, baselines=rivals, chosen_by=chosen_by)
            score = replace(score, overlap=overlap, in_train=leaked, data=data.name, data_checksum=data.checksum)
            yield score
            yield from _baseline_rows(score, record, _label(runs, record))


def _of_sweep(runs: Runs, record: RunRecord) -> Iterator[Score]:
    """Yield what the best combination of a sweep reaches on test, over seeds, and its baselines."""
    seeds = [r for r in runs.records if r.parent == record.run_id and ".seed_" in r.name and r.status == "FINISHED"]
    model, data = _model(runs, record, seeds), runs.data[record.run_id]
    chosen_by = record.metrics.get(f"best_valid/{TASKS[data.task]().primary}")
    overlaps = mapping(runs.store.json(record.run_id, "scores.json").get("corpus_overlap"))
    rows = csv.DictReader(io.StringIO((runs.store.bytes(record.run_id, "test.csv") or b"").decode(errors="replace")))
    for row in rows:
        value, deviation, split = number(row.get("mean")), number(row.get("deviation")), row.get("split") or ""
        if value is None:
            continue
        known = {name: number(cell) for name, cell in list(row.items())[5:] if name and name != AVERAGED}
        rivals = tuple((name, figure) for name, figure in known.items() if figure is not None)
        many = int(number(row.get("runs")) or 1)
        score = Score(model, "fine-tuning", data.task, split, row.get("metric") or "", value, None, None, deviation, many)
        score = replace(score, baselines=rivals, chosen_by=chosen_by, overlap=overlap_of(overlaps.get(split)))
        score = replace(score, in_train=data.in_train.get(split, 0), data=data.name, data_checksum=data.checksum)
        yield score
        yield from _baseline_rows(score, record, _label(runs, record))


def _baseline_rows(score: Score, record: RunRecord, label: str) -> Iterator[Score]:
    """Yield a score's baselines as scores of their own."""
    for name, value in score.baselines:
        model = Trained(name[:1].upper() + name[1:], label, (record.run_id,), score.model.link, baseline=True)
        yield replace(score, model=model, value=value, low=None, high=None, deviation=None, seeds=1, baselines=(), overlap=None)
