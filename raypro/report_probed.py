"""What probes found in the vectors of pre-trained encoders (``probes.json``), as scores of the report."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from raypro.evaluate.report_scores import Score, Trained
from raypro.mlflow_store import RunRecord
from raypro.report_fields import encoder_of, mapping, number, numbers, overlap_of, pair
from raypro.report_runs import Runs


def probed_scores(runs: Runs) -> Iterator[Score]:
    """Yield the scores of the probes of all pre-training runs, and of the baselines that were probed with them."""
    for record in runs.pretrained:
        yield from _of_probes(runs, record)


def _of_probes(runs: Runs, record: RunRecord) -> Iterator[Score]:
    """Yield what the latest probes of a run's checkpoints found, of the baselines too."""
    latest: dict[str, str] = {}
    for step in sorted(runs.store.files(record.run_id, "probes")):
        latest |= {PurePath(path).name: path for path in runs.store.files(record.run_id, step)}
    for path in latest.values():
        yield from _of_probe(runs, record, runs.store.json(record.run_id, f"{path}/probes.json"))


def _of_probe(runs: Runs, record: RunRecord, written: Mapping[str, Any]) -> Iterator[Score]:
    model, task = runs.trained(record), str(written.get("probe", ""))
    name_of_data, fitted = PurePath(str(written.get("data", ""))).name, int(number(written.get("fitted_to")) or 0)
    on = f"{name_of_data}, fitted to {fitted:,}" if fitted else name_of_data
    data = {"data": name_of_data, "data_checksum": str(written.get("data_checksum", ""))[:12]}
    findings = [finding for finding in written.get("probes") or () if isinstance(finding, dict)]
    own = findings[0].get("representation") if findings else None
    overlaps = mapping(written.get("corpus_overlap"))
    for finding in findings:
        name, probe = str(finding.get("representation")), str(finding.get("probe"))
        for split, metrics in mapping(finding.get("scores")).items():
            for metric, value in numbers(metrics).items():
                low, high = pair(mapping(mapping(finding.get("intervals")).get(split)).get(metric))
                score = Score(model, "probe", task, split, metric, value, low, high, probe=probe, fitted=fitted, **data)
                if name != own:
                    yield replace(score, model=_rival(name, record, on, runs.link(record)))
                    continue
                rivals = [(f, numbers(mapping(mapping(f.get("scores")).get(split))).get(metric)) for f in findings if f is not finding]
                known = [(str(f["representation"]), v) for f, v in rivals if v is not None and f.get("probe") == probe]
                chance = numbers(metrics).get("chance")
                score = replace(score, overlap=overlap_of(overlaps.get(split)))
                yield replace(score, baselines=(*known, *([("chance", chance)] if chance is not None and metric == "accuracy" else [])))


def _rival(name: str, record: RunRecord, on: str, link: str) -> Trained:
    method = f"Random weights, {encoder_of(record)}" if name == "random weights" else name[:1].upper() + name[1:]
    return Trained(method, on, (record.run_id,), link, baseline=True)
