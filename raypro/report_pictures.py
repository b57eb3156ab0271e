"""The figures of the report: performance over parameters, metrics over residues, and the contact maps that runs have drawn."""

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import islice

from raypro.evaluate.published import parameters_of
from raypro.evaluate.report_figures import Series, lines, numbered_points
from raypro.evaluate.report_filling import Row
from raypro.evaluate.report_page import Figure
from raypro.evaluate.report_tables import Table
from raypro.mlflow_store import RunRecord
from raypro.report_fields import at_step
from raypro.report_runs import Runs

RANDOM_MASKING = "valid/loss_random"
"""Where a noiser masks too, the loss on what is masked at random: that of the others."""
MOST_LINES, MOST_MAPS = 8, 12
"""Runs that one chart shows, the newest, and contact maps on the page."""
PNG = b"\x89PNG\r\n\x1a\n"
CURVES: dict[str, tuple[str, Callable[[float], float]]] = {
    "valid/loss_mlm": ("perplexity of a masked residue", math.exp),
    "valid/loss_next": ("perplexity of the next residue", math.exp),
    "valid/accuracy_pmlm": ("accuracy of a pair of masked residues", float),
    "valid/accuracy_cpc": ("contrastive accuracy", float),
}
"""Validation metric -> what is drawn of it. Probes of checkpoints, ``probe/TASK/METRIC``, are drawn as they are."""
FLOORS = {
    "valid/loss_mlm": "valid_chance/perplexity",
    "valid/loss_next": "valid_chance/perplexity",
    "valid/accuracy_cpc": "valid/chance_cpc",
}
"""Metric -> where the run has logged what is reached without learning."""


def over_parameters(tables: Sequence[tuple[Table, Sequence[Row]]]) -> list[Figure]:
    """Draw, for each task of fine-tuning and each probe, what encoders reach over their number of parameters (CPCProt, Figure 1).

    Published figures are hollow, where the number of parameters was published too; without one of ours nothing is drawn.
    """
    drawn: dict[tuple[object, ...], Figure] = {}
    for table, rows in tables:
        for column in table.columns:
            measured = (table.stage, column.task, column.splits, column.metric, column.probe, column.data)
            if table.stage == "pre-training" or not column.higher or measured in drawn:
                continue
            ours = [(row, row.scores[column.name]) for row in rows if column.name in row.scores and not row.baseline]
            series = [
                Series(f"{row.method} {row.about}".strip(), ((float(score.model.parameters), score.value),))
                for row, score in ours
                if score.model.parameters
            ]
            if not series:
                continue
            published = {row.published[column.name] for row in rows if column.name in row.published}
            known = sorted((size, f.row, f.value) for f in published if (size := parameters_of(f.paper, f.row)) is not None)
            series += [Series(f"{row}, published", ((size, value),), hollow=True) for size, row, value in known]
            if len(series) > 1:
                title = column.name if table.stage == "fine-tuning" else f"{table.name}: {column.name}"
                drawn[measured] = Figure(title, "", numbered_points(series, "parameters of the encoder", column.name))
    return list(drawn.values())


def over_residues(runs: Runs) -> list[Figure]:
    """Draw how the validation metrics of the pre-training runs, and their probes, went over the residues that the encoder learned from."""
    newest = list(reversed(runs.pretrained))
    probes = sorted({name for record in newest for name in record.metrics if name.startswith("probe/") and name.count("/") == 2})
    named = {**CURVES, **{name: (f"probe while training: {' '.join(name.split('/')[1:]).replace('_', ' ')}", float) for name in probes}}
    figures = []
    for metric, (title, shown) in named.items():
        having = [record for record in newest if metric in record.metrics]
        series = [curve for curve in (_curve(runs, record, metric, shown) for record in having[:MOST_LINES]) if len(curve.points) > 1]
        if not series:
            continue
        floors = {record.metrics[FLOORS[metric]] for record in having if FLOORS.get(metric) in record.metrics}
        floor = ("by residue frequencies alone" if "perplexity" in title else "by chance", max(floors)) if floors else None
        left = len(having) - MOST_LINES
        figures.append(
            Figure(title, f"the newest {MOST_LINES}, {left} more in the store" if left > 0 else "", lines(series, "residues", title, floor))
        )
    return figures


def _curve(runs: Runs, record: RunRecord, metric: str, shown: Callable[[float], float]) -> Series:
    """Return a metric over the residues that the encoder was trained on by the step of each point."""
    if metric == "valid/loss_mlm" and RANDOM_MASKING in record.metrics:
        metric = RANDOM_MASKING
    seen = runs.curve(record, "train/residues")
    points = []
    for step, value in runs.curve(record, metric):
        residues = at_step(seen, step)
        if residues is not None and value < 100:  # what e to the power of it is still a number
            points.append((residues, shown(value)))
    return Series(f"{runs.trained(record, None).method} ({record.name})", tuple(points))


def contact_maps(runs: Runs) -> list[Figure]:
    """Return the contact maps that the newest runs have drawn."""
    return list(islice(_contact_maps(runs), MOST_MAPS))


def _contact_maps(runs: Runs) -> Iterator[Figure]:
    for record in sorted([*runs.pretrained, *runs.aligned, *runs.fine_tuned], key=lambda record: -record.started_ms):
        if record in runs.fine_tuned and record.params.get("task.kind") != "Contacts":
            continue
        for path in sorted(runs.store.files(record.run_id, "pictures")):
            name = path.rsplit("/", 1)[-1]
            if name == "map.png" or (name.startswith("contacts_") and name.endswith(".png") and name != "contacts_valid.png"):
                picture = runs.store.bytes(record.run_id, path)
                if picture and picture.startswith(PNG):
                    yield Figure(
                        record.name, name.removesuffix(".png").replace("_", " "), image(picture, f"contact maps of {record.name}"), True
                    )


def image(png: bytes, text: str) -> str:
    """Return a picture as HTML that holds it."""
    return f'<img alt="{escape(text)}" loading="lazy" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
