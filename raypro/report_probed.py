"""What probes found in the vectors of pre-trained encoders (``probes.json``), as scores of the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from raypro.evaluate.report_scores import Reach, Score, Trained, reach
from raypro.evaluate.report_tables import OWN_KINDS, own_task
from raypro.mlflow_store import RunRecord
from raypro.report_fields import encoder_of, mapping, number, numbers, overlap_of, pair, step_of
from raypro.report_runs import Runs


def probed_scores(runs: Runs) -> Iterator[Score]:
    """Yield the scores of the probes of all pre-training runs, and of the baselines that were probed with them."""
    for record in runs.pretrained:
        yield from _of_probes(runs, record)


def _of_probes(runs: Runs, record: RunRecord) -> Iterator[Score]:
    """Yield what the latest probes of a run's checkpoints found, of the baselines too; of a person's own data on each of them."""
    latest: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    for step in sorted(runs.store.files(record.run_id, "probes")):
        for path in sorted(runs.store.files(record.run_id, step)):
            written = runs.store.json(record.run_id, f"{path}/probes.json")
            probe = str(written.get("probe", ""))
            latest[probe, _name_of_data(written) if probe in OWN_KINDS else ""] = (step, written)
    for step, written in latest.values():
        yield from _of_probe(runs.trained(record, step_of(step)), record, written)


def _of_probe(model: Trained, record: RunRecord, written: Mapping[str, Any]) -> Iterator[Score]:
    probed = str(written.get("probe", ""))
    task = own_task(probed) if probed in OWN_KINDS else probed
    name_of_data, fitted = _name_of_data(written), int(number(written.get("fitted_to")) or 0)
    on = f"{name_of_data}, fitted to {fitted:,}" if fitted else name_of_data
    data = {"data": name_of_data, "data_checksum": str(written.get("data_checksum", ""))[:12]}
    findings = [finding for finding in written.get("probes") or () if isinstance(finding, dict)]
    own = findings[0].get("representation") if findings else None
    overlaps = mapping(written.get("corpus_overlap"))
    for finding in findings:
        name, probe = str(finding.get("representation")), str(finding.get("probe"))
        for split, metrics in mapping(finding.get("scores")).items():
            for metric, value in numbers(metrics).items():
                low, high = _interval(finding, split, metric)
                score = Score(model, "probe", task, split, metric, value, low, high, probe=probe, fitted=fitted, **data)
                if name != own:
                    yield replace(score, model=_rival(name, record, model, on))
                    continue
                rivals = [f for f in findings if f is not finding and f.get("probe") == probe]
                known, reaches = _beaten(rivals, split, metric)
                chance = numbers(metrics).get("chance")
                score = replace(score, overlap=overlap_of(overlaps.get(split)), reaches=reaches)
                yield replace(score, baselines=(*known, *([("chance", chance)] if chance is not None and metric == "accuracy" else [])))


def _name_of_data(written: Mapping[str, Any]) -> str:
    return PurePath(str(written.get("data", ""))).name


def _beaten(rivals: Sequence[Mapping[str, Any]], split: str, metric: str) -> tuple[list[tuple[str, float]], dict[str, Reach]]:
    """Return what the baselines reach on a split, and how far the intervals go that are known."""
    known: list[tuple[str, float]] = []
    reaches: dict[str, Reach] = {}
    for finding in rivals:
        name, value = str(finding.get("representation")), numbers(mapping(finding.get("scores")).get(split)).get(metric)
        low, high = _interval(finding, split, metric)
        if value is not None:
            known.append((name, value))
            reaches[name] = reach(value, low, high)
    return known, reaches


def _interval(finding: Mapping[str, Any], split: str, metric: str) -> tuple[float | None, float | None]:
    return pair(mapping(mapping(finding.get("intervals")).get(split)).get(metric))


def _rival(name: str, record: RunRecord, model: Trained, on: str) -> Trained:
    """Return a baseline of a probe; random weights of one size are another baseline than those of another."""
    if name != "random weights":
        return Trained(name[:1].upper() + name[1:], on, (record.run_id,), model.link, baseline=True)
    shape = record.name if model.parameters is None else f"{model.parameters:,} parameters"
    return Trained(f"Random weights, {encoder_of(record)}", f"{on}, {shape}", (record.run_id,), model.link, model.parameters, baseline=True)
