"""``raypro evaluate``: an encoder's probes beside baselines, as a table, JSON, predictions and pictures, and in its run in MLflow."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from raypro.config import InputError
from raypro.contrastive import evaluate_contrastive, objective_of
from raypro.core import checkpoint
from raypro.core.distributed import best_device
from raypro.data.labelled import KINDS, LabelledData
from raypro.encoder import load_encoder
from raypro.evaluate import probe_plots
from raypro.evaluate.plots import save
from raypro.home import RUN_FILE
from raypro.outbox import Outbox
from raypro.prediction import find_checkpoint
from raypro.probe_tasks import CONTRASTIVE, FAMILIES, Evaluation, Finding, evaluate_families, evaluate_labelled, require_probe
from raypro.scoring import known_overlaps, plain_overlaps, said_overlaps
from raypro.tasks.tape import TASKS
from raypro.tracking import send_pending

FIGURES, PICTURES, PREDICTIONS = "probes.json", "pictures", "predictions.parquet"
"""What is in an evaluation's folder."""


def evaluate_command(
    encoder: str,
    probe: str,
    data: Path,
    pooling: str | None = None,
    out: Path | None = None,
    families: int | None = None,
    members: int | None = None,
    family_column: str | None = None,
    seed: int = 0,
) -> None:
    """Judge an encoder's vectors, as they are, by simple models on a task, beside random weights, one-hot residues, composition and k-mers.

    Classes: logistic regression and k nearest neighbours; numbers: linear regression and k nearest neighbours; residues: logistic
    regression; families: the family of the nearest neighbour. Settings are chosen on validation. Contrastive, of CPCProt alone: are
    the patches ahead told apart from those of the other sequences of a batch of 512?

    Args:
        encoder: a checkpoint (a folder step_... of a run, or an imported encoder); a run by its name or folder, of which the best is
            taken; models:/NAME/VERSION of MLflow; or hf:FOLDER_OR_NAME of Hugging Face.
        probe: a task (stability, fluorescence, remote_homology, secondary_structure, secondary_structure_8), a kind of
            labels of your own (regression, classification, residue_classification), families, or contrastive.
        data: a folder that raypro task import made; for families a corpus, or a table with a column of families; for contrastive a
            corpus, of which valid and test are taken, or a file of sequences that were not trained on.
        pooling: of probes of whole sequences: how the encoder makes one vector of each; its default where missing.
        out: folder for figures, predictions and pictures; probes/step_.../PROBE beside the checkpoint where missing,
            PROBE-NAME of labels of your own, with the name of their folder.
        families: of --probe families: how many to take, the largest; 50 where missing.
        members: of --probe families: distinct sequences of each; smaller families are not taken; 120 where missing.
        family_column: of --probe families: what proteins are grouped by: family (where missing), clan (superfamily) or taxon.
        seed: of what is drawn: families, residues, random weights.
    """
    require_probe(probe)
    drawing = {"families": families, "members": members, "column": family_column}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    require_used(probe, pooling, drawing)
    path = find_checkpoint(str(encoder)).absolute()
    loaded = load_encoder(path, best_device())
    about: dict[str, Any] = {"encoder": str(path), "data": str(data.absolute()), "seed": seed}
    place = probe
    if probe == CONTRASTIVE:
        found = evaluate_contrastive(loaded, objective_of(path, loaded.shape), data, True, seed)
    elif probe == FAMILIES:
        found = evaluate_families(loaded, data, pooling, True, seed, **drawing)
    else:
        labelled = LabelledData.open(data)
        place = place_of(probe, labelled)
        about["data_checksum"] = labelled.manifest.checksum
        found = with_overlaps(evaluate_labelled(loaded, probe, labelled, pooling, True, seed), path, labelled)
    folder = out.expanduser() if out else path.parent / "probes" / path.name / place
    drawn = keep(found, folder, about, seed)
    console = Console()
    print_table(found, f"{path.parent.name}/{path.name}", console)
    for word, name in (("figures", FIGURES), ("pictures", PICTURES), ("predictions", PREDICTIONS)):
        if name != PREDICTIONS or probe != CONTRASTIVE:
            console.print(f"{word:12} {folder / name}", soft_wrap=True, highlight=False)
    log(found, path, place, folder, drawn, console)


def require_used(probe: str, pooling: str | None, drawing: Mapping[str, Any]) -> None:
    """Raise InputError for options that were given and that this probe would ignore; ``drawing``: those of families."""
    if drawing and probe != FAMILIES:
        raise InputError(f"--families, --members and --family-column: --probe {probe} draws no families; leave them out")
    of_sequences = probe == FAMILIES or (probe in TASKS and TASKS[probe]().labels != "residue_classification")
    if pooling is not None and not of_sequences:
        raise InputError(f"--pooling: --probe {probe} has no vector of a whole sequence; leave it out")


def place_of(probe: str, data: LabelledData) -> str:
    """Return what an evaluation on labelled data is kept as: by its probe, and of a kind of labels, which many data have, by their name."""
    name = re.sub(r"[^\w.-]", "_", data.path.name)  # as MLflow takes it
    return f"{probe}-{name}" if probe in KINDS else probe


def with_overlaps(found: Evaluation, encoder: str | Path, data: LabelledData) -> Evaluation:
    """Return an evaluation on labelled data with what the corpus of the encoder's checkpoint is known to share with them."""
    overlaps = known_overlaps(encoder, data)
    return replace(found, overlaps={split: overlap for split, overlap in overlaps.items() if split in found.splits})


def keep(found: Evaluation, folder: Path, about: Mapping[str, Any], seed: int, maps: bool = True) -> list[Path]:
    """Write an evaluation's predictions and figures, then its pictures, whose failure takes nothing away; return the pictures.

    Args:
        found: what was found.
        folder: where to; made if it is not there.
        about: what the figures begin with: of which encoder they are, on which data.
        seed: of the maps.
        maps: draw proteins by t-SNE too, which takes longer than all else.

    Raises:
        InputError: the folder cannot be made.
    """
    pictures = folder / PICTURES
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder by --out") from None
    if found.probe != CONTRASTIVE:
        write_predictions(found, folder / PREDICTIONS)
    (folder / FIGURES).write_text(json.dumps({**about, **plain(found)}, indent=1) + "\n")
    return draw(found, pictures, seed, maps)


def plain(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation's figures as plain values."""
    return {
        "probe": found.probe,
        "primary": found.primary,
        "fitted_to": found.train_size,
        "predicted": {name: len(split.ids) for name, split in found.splits.items()},
        "notes": found.notes,
        "corpus_overlap": plain_overlaps(found.overlaps),
        "representations": found.about,
        "probes": [{name: value for name, value in vars(finding).items() if name != "predictions"} for finding in found.findings],
    }


def write_predictions(found: Evaluation, path: Path) -> Path:
    """Write every prediction of every probe: columns representation, probe, split, id, what is predicted and what is true.

    Returns the path.
    """
    tables = []
    for finding in found.findings:
        for name, predictions in finding.predictions.items():
            split = found.splits[name]
            if found.task is None:
                columns = {"predicted": [found.families[p] for p in predictions], "family": [found.families[p] for p in split.labels]}
            else:
                columns = found.task.columns(predictions, split)
            ids = {"representation": finding.representation, "probe": finding.probe, "split": name}
            tables.append(pa.table({**{key: [value] * len(split.ids) for key, value in ids.items()}, "id": split.ids, **columns}))
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")
    return path


def draw(found: Evaluation, folder: Path, seed: int, maps: bool = True) -> list[Path]:
    """Draw all probes beside one another, the encoder's best (on validation) on each test split, and proteins of the first one by t-SNE.

    Of fewer than :data:`raypro.evaluate.probe_plots.LEAST_POINTS` proteins there is no map.
    """
    tests = _tests(found)
    panels = [(split, [_row(finding, split, found.primary) for finding in found.findings]) for split in tests]
    paths = [save(probe_plots.beside_baselines(panels, found.primary, f"Probes: {found.probe}"), folder / "beside_baselines.png")]
    if found.task is not None:
        best = max(found.own, key=lambda finding: finding.tried[finding.setting])
        for split in tests:
            paths += found.task.pictures(best.predictions[split], found.splits[split], folder, split)
    coloured = found.families or (found.task is not None and found.task.labels == "regression")
    if maps and coloured and len(found.splits[tests[0]].ids) >= probe_plots.LEAST_POINTS:
        paths.append(draw_map(found, tests[0], folder / f"tsne_{tests[0]}.png", seed))
    return paths


def draw_map(found: Evaluation, split: str, path: Path, seed: int) -> Path:
    """Draw t-SNE of a split's proteins, one-hot against the encoder, coloured by what is to be told (Figures 3 and 4 of the paper)."""
    shown = found.splits[split].some(probe_plots.MOST_POINTS, seed)
    named = {representation.name: representation for representation in found.representations}
    maps = [(r.name, probe_plots.lay_out(r.of_sequences(shown.sequences), seed)) for r in (named["one-hot"], found.representations[0])]
    title = f"t-SNE of {len(shown.ids):,} proteins of {split}, {found.probe}"
    if found.task is None:
        return save(probe_plots.family_maps(maps, np.array(shown.labels), found.families, title), path)
    return save(probe_plots.value_maps(maps, np.array(shown.labels), found.probe, title), path)


def _tests(found: Evaluation) -> list[str]:
    """Return the splits that a person looks at; not ``valid`` where something was chosen by it."""
    return [name for name in found.splits if name != "valid" or found.probe == CONTRASTIVE]


def _row(finding: Finding, split: str, metric: str) -> probe_plots.Row:
    return (finding.representation, finding.probe, finding.scores[split][metric], *finding.intervals[split][metric])


def table_of(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns and the rows of the table that a person looks at."""
    tests = _tests(found)
    columns = [(split, metric) for split in tests for metric in found.findings[0].intervals[split]]
    if "valid" in found.splits and "valid" not in tests:
        columns.insert(0, ("valid", found.primary))
    rows = []
    for finding in found.findings:
        cells = [_cell(finding.scores[split][metric], *finding.intervals[split][metric]) for split, metric in columns]
        rows.append([finding.representation, finding.probe, finding.setting or "-", *cells])
    return ["vectors", "probe", "chosen", *(f"{split}: {metric.replace('_', ' ')}" for split, metric in columns)], rows


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def print_table(found: Evaluation, encoder: str, console: Console) -> None:
    """Print the table, how each representation is made, and what a person should know."""
    names, rows = table_of(found)
    table = Table(*names, title=f"{found.probe}: probes of {encoder}; 95 % intervals", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in said(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def said(found: Evaluation) -> list[str]:
    """Return what stands under the table, a line each."""
    stopped = [f"{f.representation}, {f.probe} ({f.setting}): {f.note}" for f in found.findings if f.note]
    return [*(f"{name}: {about}" for name, about in found.about.items()), *found.notes, *said_overlaps(found.overlaps), *stopped]


def log(found: Evaluation, path: Path, place: str, folder: Path, pictures: list[Path], console: Console) -> None:
    """Add the figures to the run that the checkpoint lies in, if it lies in one: metrics, the table, JSON and pictures.

    Args:
        found: what was found.
        path: the checkpoint.
        place: what it is kept as in the run (:func:`place_of`).
        folder: where :func:`keep` has written it.
        pictures: those that it drew.
        console: where it is said that MLflow does not answer.
    """
    run = path.parent
    if not (run / RUN_FILE).is_file():
        return
    outbox, kept = Outbox(run, "probes"), f"probes/{path.name}/{place}"
    outbox.metrics(checkpoint.load(path).step, {f"probe_{place}/{name}": value for name, value in found.metrics.items()})
    names, rows = table_of(found)
    lines = [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)]
    outbox.text(f"{kept}/table.md", "\n".join([*lines, "", *(f"- {line}" for line in said(found))]) + "\n")
    for artifact in (folder / FIGURES, *pictures):
        outbox.artifact(artifact, kept)
    outbox.close()
    try:
        send_pending(run)
    except InputError as error:
        console.print(f"not in MLflow yet: {error}; raypro runs sync {run.name} sends it", soft_wrap=True, highlight=False)
