"""What fine-tuning runs (``scores.json``) and sweeps of them (``test.csv``) reached on the tasks, as scores of the report."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from raypro.evaluate.report_filling import chosen
from raypro.evaluate.report_scores import Score, Trained
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
    named_objective,
    number,
    numbers,
    objective_of,
    one_a_seed,
    over_seeds,
    overlap_of,
    pair,
    parameters_of,
    shape_of,
    step_of,
    sum_of,
)
from raypro.report_runs import Runs, source_of
from raypro.scoring import START
from raypro.sweep_report import FIGURES
from raypro.tasks.tape import TASKS


def tuned_scores(runs: Runs) -> Iterator[Score]:
    """Yield the scores of all fine-tuning runs and sweeps, and their baselines.

    What was pre-trained has the same encoder without pre-training among its baselines, where it was fine-tuned on the same data.
    """
    found = list(_of_configurations(runs))
    untrained: dict[tuple[object, ...], list[Score]] = {}
    for record, score in found:
        if source_of(record) is None and not score.model.baseline:
            untrained.setdefault((shape_of(record), score.task, score.split, score.metric), []).append(score)
    for record, score in found:
        rivals = untrained.get((shape_of(record), score.task, score.split, score.metric))
        if rivals and source_of(record) is not None and not score.model.baseline:
            rival = chosen(rivals)
            baselines = (*score.baselines, (NOT_PRETRAINED, rival.value))
            score = replace(score, baselines=baselines, reaches={NOT_PRETRAINED: rival.reach})
        yield score


def repeated_runs(runs: Runs) -> set[str]:
    """Return the ids of fine-tuning runs that a newer one of the same configuration and seed stands for."""
    found: set[str] = set()
    for same in _configurations(runs):
        found |= {run.run_id for run in same} - {run.run_id for run in one_a_seed(same)}
    return found


def _configurations(runs: Runs) -> list[list[RunRecord]]:
    """Return the runs of each configuration, the oldest first, that with the newest run last."""
    alike = [list(same) for _, same in groupby(sorted(runs.fine_tuned, key=configuration), key=configuration)]
    return sorted(alike, key=lambda same: same[-1].started_ms)


def _of_configurations(runs: Runs) -> Iterator[tuple[RunRecord, Score]]:
    """Yield the scores of each configuration with one of its runs: of a sweep as they are, of several seeds their means."""
    for same in map(one_a_seed, _configurations(runs)):
        if "axes" in same[0].tags:
            yield from ((same[0], score) for score in _of_sweep(runs, same[0]))
        else:
            yield from ((same[0], score) for score in over_seeds([list(_of_run(runs, run)) for run in same]))


def _model(runs: Runs, record: RunRecord, seeds: Sequence[RunRecord]) -> Trained:
    """Return the model of a fine-tuning run or sweep, whose weights were trained by ``seeds``."""
    source, before = source_of(record), runs.origin(record)
    start = runs.trained(before, step_of(record.params["start"])) if before else None
    objective = None
    if source is not None:
        objective = objective_of(before) if before else named_objective(record.tags.get(f"{START}objective", "pre-trained"))
    residues, minutes = mean_of([run.metrics.get("train/residues") for run in seeds]), mean_of([minutes_of(run) for run in seeds])
    if source is not None:
        residues, minutes = (sum_of(residues, start.residues), sum_of(minutes, start.minutes)) if start else (None, None)
    frozen = record.params.get("frozen") == "True"
    return Trained(
        method_name(objective, encoder_of(record), frozen, before is not None and equal_time_of(before)),
        ", ".join(filter(None, [f"from {start.about if start else source}" if source is not None else "", _label(runs, record)])),
        (record.run_id, *(run.run_id for run in seeds if run is not record)),
        runs.link(record),
        parameters_of(record),
        residues,
        minutes,
        start.corpus if start else "",
        start.checksum if start else record.tags.get(f"{START}corpus_checksum", ""),
        pretrained=source is not None,
        trials=int(number(record.tags.get("trials")) or 1),
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
            score = Score(model, "fine-tuning", data.measured, split, metric, value, low, high, baselines=rivals, chosen_by=chosen_by)
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
        known = {name: number(cell) for name, cell in row.items() if name and name not in FIGURES}
        rivals = tuple((name, figure) for name, figure in known.items() if figure is not None)
        many = int(number(row.get("runs")) or 1)
        score = Score(model, "fine-tuning", data.measured, split, row.get("metric") or "", value, None, None, deviation, many)
        score = replace(score, baselines=rivals, chosen_by=chosen_by, overlap=overlap_of(overlaps.get(split)))
        score = replace(score, in_train=data.in_train.get(split, 0), data=data.name, data_checksum=data.checksum)
        yield score
        yield from _baseline_rows(score, record, _label(runs, record))


def _baseline_rows(score: Score, record: RunRecord, label: str) -> Iterator[Score]:
    """Yield a score's baselines as scores of their own; validation chose none of them."""
    for name, value in score.baselines:
        model = Trained(name[:1].upper() + name[1:], label, (record.run_id,), score.model.link, baseline=True)
        yield replace(
            score, model=model, value=value, low=None, high=None, deviation=None, seeds=1, baselines=(), overlap=None, chosen_by=None
        )
