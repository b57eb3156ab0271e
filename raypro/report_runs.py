"""From runs in MLflow to the scores of the report: what pre-training, fine-tuning, sweeps and probes of :mod:`raypro` leave in a store.

A run of another program, an older one of ours that lacks something, a file that is damaged: what is not there is left out, and the
cell stays empty.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from raypro.evaluate.report_scores import Score, Trained
from raypro.evaluate.report_tables import method_name
from raypro.mlflow_store import RunRecord, Store
from raypro.report_fields import (
    by_split_of,
    configuration,
    data_of,
    encoder_of,
    equal_time_of,
    floor_of,
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
    sum_of,
    task_of,
)
from raypro.tasks.tape import TASKS

AVERAGED = "their average"
"""A column of a sweep's test table that is no baseline."""


@dataclass(frozen=True)
class Runs:
    """The runs of a store, and what they say."""

    store: Store
    """Where they are."""
    records: Sequence[RunRecord]
    """The runs, the oldest first."""
    ui: str = ""
    """Address of MLflow's pages; empty where it is not known."""

    @cached_property
    def pretrained(self) -> list[RunRecord]:
        """Pre-training runs that ended well."""
        return [r for r in self.records if r.params.get("kind") == "Experiment" and r.status == "FINISHED" and "objective.kind" in r.params]

    @cached_property
    def fine_tuned(self) -> list[RunRecord]:
        """Fine-tuning runs, and sweeps of them, that ended well; not the runs within a sweep."""
        kind = [r for r in self.records if r.params.get("kind") == "FineTuning" and r.status == "FINISHED" and not r.parent]
        return [r for r in kind if task_of(r)]

    @cached_property
    def aligned(self) -> list[RunRecord]:
        """Direct coupling analyses of alignments (``raypro dca``) that ended well."""
        return [r for r in self.records if r.params.get("kind") == "Alignment" and r.status == "FINISHED"]

    def scores(self) -> list[Score]:
        """Return all scores: of pre-training, of fine-tuning and of probes, baselines too."""
        found = [score for record in self.pretrained for score in self._of_pretraining(record)]
        found += [score for record in self.aligned for score in self._of_alignment(record)]
        found += list(self._of_fine_tuning())
        found += [score for record in self.pretrained for score in self._of_probes(record)]
        unique: dict[tuple[object, ...], Score] = {}
        for score in found:
            where = (score.stage, score.task, score.split, score.metric, score.probe)
            key = (*where, score.model.method, score.model.about) if score.model.baseline else (*where, score.model.run_ids)
            unique.setdefault(key, score)
        return list(unique.values())

    def link(self, record: RunRecord) -> str:
        """Return the address of a run's page, or its path within MLflow's pages."""
        place = f"experiments/{quote(record.experiment_id, safe='')}/runs/{quote(record.run_id, safe='')}"
        return f"{self.ui}/#/{place}" if self.ui else place

    def trained(self, record: RunRecord) -> Trained:
        """Return the model of a pre-training run."""
        method = method_name(objective_of(record), encoder_of(record), equal_time=equal_time_of(record))
        return Trained(
            method,
            record.name,
            (record.run_id,),
            self.link(record),
            parameters_of(record),
            record.metrics.get("train/tokens"),
            minutes_of(record),
            record.tags.get("corpus", ""),
            record.tags.get("corpus_checksum", ""),
        )

    def _of_pretraining(self, record: RunRecord) -> Iterator[Score]:
        model = self.trained(record)
        for name, value in record.metrics.items():
            group, _, metric = name.partition("/")
            family = re.fullmatch(r"contacts_(.+)", group)  # of `raypro contacts`, which has two prefixes
            if group.startswith("valid_"):
                baselines = floor_of(group.removeprefix("valid_"), metric, record.metrics)
                yield Score(model, "pre-training", group.removeprefix("valid_"), "valid", metric, value, baselines=baselines)
            elif family and metric.startswith("contacts_"):
                floor = record.metrics.get(f"{group}/contacts_random_precision_{metric.split('_', 4)[-1]}")
                about = replace(model, about=f"{record.name}, on {family[1]}")
                baselines = () if floor is None else (("random ranking", floor),)
                yield Score(about, "pre-training", "contacts", "valid", metric.removeprefix("contacts_"), value, baselines=baselines)

    def _of_alignment(self, record: RunRecord) -> Iterator[Score]:
        """Yield the contact precisions of an alignment, the other way to contacts without labels."""
        about, place = record.params.get("family", record.name), self.link(record)
        model = Trained("Direct coupling analysis", about, (record.run_id,), place, parameters_of(record), None, minutes_of(record))
        for name, value in record.metrics.items():
            metric = name.removeprefix("contacts/")
            if metric.startswith("P_at_"):
                floor = record.metrics.get(f"contacts/random_precision_{metric.split('_', 3)[-1]}")
                baselines = () if floor is None else (("random ranking", floor),)
                yield Score(model, "pre-training", "contacts", "valid", metric, value, baselines=baselines)

    def _of_fine_tuning(self) -> Iterator[Score]:
        ordered = sorted(self.fine_tuned, key=configuration)
        for _, alike in groupby(ordered, key=configuration):
            runs = list(alike)
            if "axes" in runs[0].tags:
                for sweep in runs:
                    yield from self._of_sweep(sweep)
            else:
                yield from over_seeds([list(self._of_run(run)) for run in runs])

    def _variant(self, record: RunRecord) -> str:
        """Return which data a fine-tuning run read, where the runs of its task read different ones."""
        sums = {r.tags["data_checksum"] for r in self.fine_tuned if task_of(r) == task_of(record) and "data_checksum" in r.tags}
        return f"{record.tags.get('data', '')} {record.tags.get('data_checksum', '')[:8]}".strip() if len(sums) > 1 else ""

    def _model(self, record: RunRecord, seeds: Sequence[RunRecord]) -> Trained:
        """Return the model of a fine-tuning run or sweep, whose weights were trained by ``seeds``."""
        start, frozen = record.params.get("start", "None"), record.params.get("frozen") == "True"
        place = PurePath(start)  # a run's checkpoint is a folder step_... in the run's, an imported encoder a folder of its own
        source = place.parent.name if place.name.startswith("step_") else place.name
        before = next((r for r in reversed(self.pretrained) if r.name == source), None) if start != "None" else None
        objective = None if start == "None" else objective_of(before) if before else "pre-trained"
        equal_time = before is not None and equal_time_of(before)
        about = [f"from {source}"] if start != "None" else []
        tokens = mean_of([run.metrics.get("train/tokens") for run in seeds])
        minutes = mean_of([minutes_of(run) for run in seeds])
        if start != "None":
            tokens = sum_of(tokens, before.metrics.get("train/tokens") if before else None)
            minutes = sum_of(minutes, minutes_of(before) if before else None)
        return Trained(
            method_name(objective, encoder_of(record), frozen, equal_time),
            ", ".join(filter(None, [*about, self._variant(record)])),
            (record.run_id, *(run.run_id for run in seeds if run is not record)),
            self.link(record),
            parameters_of(record),
            tokens,
            minutes,
            before.tags.get("corpus", "") if before else "",
            before.tags.get("corpus_checksum", "") if before else "",
        )

    def _of_run(self, record: RunRecord) -> Iterator[Score]:
        """Yield the scores of one fine-tuning run, and of its baselines."""
        written = self.store.json(record.run_id, "scores.json")
        task, model = task_of(record), self._model(record, [record])
        checked = mapping(written.get("scores")) or by_split_of(record.metrics)
        baselines, intervals, overlaps = (mapping(written.get(name)) for name in ("baselines", "intervals", "corpus_overlap"))
        chosen_by = number(mapping(checked.get("valid")).get(TASKS[task]().primary))
        for split, metrics in checked.items():
            overlap = overlap_of(overlaps.get(split))
            for metric, value in numbers(metrics).items():
                low, high = pair(mapping(intervals.get(split)).get(metric))
                others = {name: numbers(mapping(by_split).get(split)).get(metric) for name, by_split in baselines.items()}
                rivals = tuple((name, known) for name, known in others.items() if known is not None)
                score = Score(model, "fine-tuning", task, split, metric, value, low, high, baselines=rivals)
                yield replace(score, chosen_by=chosen_by, overlap=overlap, **data_of(record))
                yield from _baseline_rows(score, record, self._variant(record))

    def _of_sweep(self, record: RunRecord) -> Iterator[Score]:
        """Yield what the best combination of a sweep reaches on test, over seeds, and its baselines."""
        seeds = [r for r in self.records if r.parent == record.run_id and ".seed_" in r.name and r.status == "FINISHED"]
        task, model = task_of(record), self._model(record, seeds)
        chosen_by = record.metrics.get(f"best_valid/{TASKS[task]().primary}")
        rows = csv.DictReader(io.StringIO((self.store.bytes(record.run_id, "test.csv") or b"").decode(errors="replace")))
        for row in rows:
            value, deviation = number(row.get("mean")), number(row.get("deviation"))
            if value is None:
                continue
            known = {name: number(cell) for name, cell in list(row.items())[5:] if name and name != AVERAGED}
            rivals = tuple((name, figure) for name, figure in known.items() if figure is not None)
            runs = int(number(row.get("runs")) or 1)
            score = Score(model, "fine-tuning", task, row.get("split") or "", row.get("metric") or "", value, None, None, deviation, runs)
            score = replace(score, baselines=rivals, chosen_by=chosen_by, **data_of(record))
            yield score
            yield from _baseline_rows(score, record, self._variant(record))

    def _of_probes(self, record: RunRecord) -> Iterator[Score]:
        """Yield what the latest probes of a run's checkpoints found, of the baselines too."""
        latest: dict[str, str] = {}
        for step in sorted(self.store.files(record.run_id, "probes")):
            latest |= {PurePath(path).name: path for path in self.store.files(record.run_id, step)}
        for path in latest.values():
            yield from self._of_probe(record, self.store.json(record.run_id, f"{path}/probes.json"))

    def _of_probe(self, record: RunRecord, written: Mapping[str, Any]) -> Iterator[Score]:
        model, task = self.trained(record), str(written.get("probe", ""))
        data = {"data": PurePath(str(written.get("data", ""))).name, "data_checksum": str(written.get("data_checksum", ""))[:12]}
        findings = [finding for finding in written.get("probes") or () if isinstance(finding, dict)]
        own = findings[0].get("representation") if findings else None
        overlaps = mapping(written.get("corpus_overlap"))
        for finding in findings:
            name, probe = str(finding.get("representation")), str(finding.get("probe"))
            for split, metrics in mapping(finding.get("scores")).items():
                for metric, value in numbers(metrics).items():
                    low, high = pair(mapping(mapping(finding.get("intervals")).get(split)).get(metric))
                    score = Score(model, "probe", task, split, metric, value, low, high, probe=probe, **data)
                    if name != own:
                        yield replace(score, model=_rival(name, record, data["data"], self.link(record)))
                        continue
                    rivals = [(f, numbers(mapping(mapping(f.get("scores")).get(split))).get(metric)) for f in findings if f is not finding]
                    known = [(str(f["representation"]), v) for f, v in rivals if v is not None and f.get("probe") == probe]
                    chance = numbers(metrics).get("chance")
                    score = replace(score, overlap=overlap_of(overlaps.get(split)))
                    yield replace(score, baselines=(*known, *([("chance", chance)] if chance is not None and metric == "accuracy" else [])))


def _rival(name: str, record: RunRecord, data: str, link: str) -> Trained:
    method = f"Random weights, {encoder_of(record)}" if name == "random weights" else name[:1].upper() + name[1:]
    return Trained(method, data, (record.run_id,), link, baseline=True)


def _baseline_rows(score: Score, record: RunRecord, variant: str) -> Iterator[Score]:
    """Yield a score's baselines as scores of their own."""
    for name, value in score.baselines:
        model = Trained(name[:1].upper() + name[1:], variant, (record.run_id,), score.model.link, baseline=True)
        yield replace(score, model=model, value=value, low=None, high=None, deviation=None, seeds=1, baselines=(), overlap=None)
