"""``raypro dca``: contacts from an alignment alone, the baseline that a label-free map of a language model has to beat.

The alignment baseline of He et al. 2021, Table 3. How contacts are scored: :mod:`raypro.core.potts`, then the average product correction.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from raypro.config import InputError
from raypro.core.potts import IDENTITY, PENALTY, Potts, Sequences, coupling_norms, fit_potts, memory_of, sequence_weights, sequences_of
from raypro.data.table_writer import TableWriter, require_place
from raypro.evaluate import plots
from raypro.evaluate.alignment import LEAST_SEPARATION, Alignment, ColumnContacts, read_alignment, read_contacts
from raypro.evaluate.contacts import DEPTHS, RANGES, apc, contact_precision
from raypro.home import run_folder
from raypro.presets import fresh_name
from raypro.tracking import Sender
from raypro.validation import alignment_map, load_model

SEPARATIONS = {"over_4": (LEAST_SEPARATION, np.inf), **RANGES}
ENOUGH = 5
"""Effective sequences a column from which couplings are worth much (Kamisetty et al. 2013 ask for five sequences a residue)."""
KIND = "Alignment"
"""The parameter ``kind`` of its runs in MLflow."""
FIGURES = "metrics.json"
FITTED, IMPLIED = "direct coupling analysis", "pair head, label-free"
BESIDE = "pair_head"
"""Group of the metrics in MLflow that are of the model's map; those of direct coupling analysis are ``contacts``."""
SCALES = {FITTED: "norm of couplings, APC-corrected", IMPLIED: "mutual information, nats, APC-corrected"}

Map = NDArray[np.float64]


def dca_command(
    alignment: tyro.conf.Positional[Path],
    /,
    out: Path,
    contacts: Path | None = None,
    beside: Path | None = None,
    sequences: int = 32,
    seed: int = 0,
    separation: int = LEAST_SEPARATION,
    identity: float = IDENTITY,
    penalty: float = PENALTY,
    steps: int = 200,
    overwrite: bool = False,
) -> None:
    """Predict contacts from an alignment by direct coupling analysis (a Potts model, pseudo-likelihood), without any language model.

    Writes contacts.tsv (pairs of columns, best first), map.png and metrics.json; its run in MLflow holds them too.

    Args:
        alignment: the family: A3M, aligned FASTA or Stockholm, plain or gzip.
        out: the folder to write to.
        contacts: its known contacts, tab-separated: columns i and j from 1, distance in angstrom; precision is then given.
        beside: a pair-masked model's checkpoint (a folder step_...), whose label-free map is drawn and scored beside this one.
        sequences: sequences that the model's map is averaged over.
        seed: of their choice; direct coupling analysis itself is not random.
        separation: least separation of the pairs that are listed.
        identity: sequences that agree in at least this share of columns share their weight.
        penalty: of the squares of fields and couplings, as in plmDCA.
        steps: most steps of the fit.
        overwrite: replace what is in OUT already.
    """
    _check(sequences, separation, identity, penalty, steps)
    family = read_alignment(alignment)
    known = read_contacts(contacts, family.width) if contacts else None
    distinct = _distinct(alignment, family, separation)
    model = load_model(beside) if beside else None
    if model and not model.module.has_pair_head:
        raise InputError(f"{beside}: the model has no pair head, so it implies no contact map; train one with jobs/pretrain_pmlm.py")
    table = _place(out, overwrite)
    console, name = Console(), alignment.name.split(".")[0]
    run = run_folder(fresh_name(f"dca-{name}"))
    with Sender(run, "alignments", run.name) as sender:
        began = time.monotonic()
        fitted, effective = _fit(distinct, identity, penalty, steps, Console(stderr=True))
        console.print(_said(family, distinct, effective, fitted), soft_wrap=True, highlight=False)
        minutes = (time.monotonic() - began) / 60
        maps = {FITTED: apc(coupling_norms(fitted.couplings).numpy())}
        if model:
            maps[IMPLIED] = alignment_map(model, family, sequences, seed)
        precisions = {title: _precision(scores, known) for title, scores in maps.items()} if known else {}
        _write_pairs(table, maps[FITTED], family, known, separation)
        panels = [(title, SCALES[title], scores) for title, scores in maps.items()]
        picture = plots.save(plots.column_maps(panels, known.contacts if known else None, name, LEAST_SEPARATION), out / "map.png")
        about = {"sequences": len(family.rows), "distinct": len(distinct.states), "effective": effective, "columns": family.width}
        fit = {"steps": len(fitted.losses) - 1, "converged": fitted.converged, "loss": fitted.losses[-1]}
        _write_figures(out / FIGURES, {**about, **fit}, precisions)
        size = fitted.fields.numel() + fitted.couplings.numel()
        settings = {"kind": KIND, "family": name, "identity": identity, "penalty": penalty, "parameters": size}
        sender.outbox.params({**settings, **about, **fit})
        beside_it = {name.replace("contacts/", f"{BESIDE}/"): value for name, value in precisions.get(IMPLIED, {}).items()}
        sender.outbox.metrics(0, {"train/minutes": minutes, **precisions.get(FITTED, {}), **beside_it})
        for path, folder in ((picture, "pictures"), (table, ""), (out / FIGURES, "")):
            sender.outbox.artifact(path, folder)
    for scored, metrics in precisions.items():
        console.print(_table(scored, metrics))
    for path in (table, picture):
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)


def _check(sequences: int, separation: int, identity: float, penalty: float, steps: int) -> None:
    for name, value in (("sequences", sequences), ("separation", separation), ("steps", steps)):
        if value < 1:
            raise InputError(f"--{name} {value}: must be 1 or more")
    if not 0 < identity <= 1:
        raise InputError(f"--identity {identity}: a share of the columns, above 0 and at most 1; usual is {IDENTITY}")
    if not 0 < penalty < np.inf:
        raise InputError(f"--penalty {penalty}: must be above 0; usual is {PENALTY}")


def _distinct(path: Path, family: Alignment, separation: int) -> Sequences:
    """Return the family's distinct sequences.

    Raises:
        InputError: too few sequences or columns, or more columns than fit into memory.
    """
    if family.width <= max(separation, LEAST_SEPARATION):
        raise InputError(f"{path}: {family.width} columns, none of them {separation} apart; give a wider alignment")
    distinct = sequences_of(family.rows)
    if len(distinct.states) < 2:
        raise InputError(f"{path}: all sequences are the same, so nothing varies together; give an alignment of a family")
    needed, free = memory_of(family.width), psutil.virtual_memory().available
    if needed > free:
        advice = "leave out columns that are mostly gaps, or use a machine with more"
        raise InputError(f"{path}: {family.width} columns need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free; {advice}")
    return distinct


def _place(out: Path, overwrite: bool) -> Path:
    """Make the folder; return the path of the table in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); give another folder") from None
    table = out / "contacts.tsv"
    require_place(table, overwrite)
    return table


def _fit(distinct: Sequences, identity: float, penalty: float, steps: int, console: Console) -> tuple[Potts, float]:
    """Return the model and the effective number of sequences; shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        weighting = bar.add_task("comparing sequences", total=1.0)
        weights = sequence_weights(distinct, identity, progress=lambda share: bar.update(weighting, completed=share))
        fitting = bar.add_task("fitting couplings", total=None)

        def show(step: int, loss: float) -> None:
            bar.update(fitting, description=f"fitting couplings: step {step}, {loss:.3f} nats a sequence")

        fitted = fit_potts(distinct, weights, field_penalty=penalty, coupling_penalty=penalty, steps=steps, progress=show)
    return fitted, float(weights.sum())


def _said(family: Alignment, distinct: Sequences, effective: float, fitted: Potts) -> str:
    a_column = effective / family.width
    text = f"{len(family.rows):,} sequences, {len(distinct.states):,} of them distinct, {family.width} columns; "
    text += f"effective number {effective:,.0f}, {a_column:.1f} a column"
    if a_column < ENOUGH:
        text += f"\nfewer than {ENOUGH} effective sequences a column: expect little of this prediction"
    if not fitted.converged:
        text += f"\nnot converged after {len(fitted.losses) - 1} steps; give more --steps"
    return text


def _precision(scores: Map, known: ColumnContacts) -> dict[str, float]:
    return contact_precision(scores, known.contacts, scored=known.scored, ranges=SEPARATIONS)


def _write_pairs(path: Path, scores: Map, family: Alignment, known: ColumnContacts | None, separation: int) -> None:
    """Write the pairs of columns, best first; residues are the first sequence's, in A3M those of the query."""
    i, j = np.triu_indices(len(scores), k=separation)
    best = np.argsort(-scores[i, j], kind="stable")
    i, j = i[best], j[best]
    first = np.array(list(family.rows[0]))
    columns = {"i": i + 1, "j": j + 1, "residue_i": first[i], "residue_j": first[j], "score": scores[i, j]}
    if known:
        # What a contacts file does not tell of is left empty: pairs nearer along the chain than it lists.
        columns["contact"] = np.where(known.scored[i, j], np.where(known.contacts[i, j], "1", "0"), "")
    kinds = {"i": pa.int32(), "j": pa.int32(), "score": pa.float64()}
    with TableWriter(path, pa.schema([(name, kinds.get(name, pa.string())) for name in columns])) as writer:
        writer.write({name: values.tolist() for name, values in columns.items()})


def _write_figures(path: Path, about: Mapping[str, object], precisions: Mapping[str, Mapping[str, float]]) -> None:
    known = {title: {key: value for key, value in found.items() if not np.isnan(value)} for title, found in precisions.items()}
    path.write_text(json.dumps({**about, "precision": known}, indent=1) + "\n")


def _table(title: str, metrics: Mapping[str, float]) -> Table:
    table = Table("separation", *(f"precision at {depth.replace('L', 'L/') if depth != 'L' else depth}" for depth in DEPTHS), "random")
    table.title = title
    for name, (least, greatest) in SEPARATIONS.items():
        span = f"{least} and more" if np.isinf(greatest) else f"{least} to {greatest:.0f}"
        values = [metrics[f"contacts/{what}_{name}"] for what in (*(f"P_at_{depth}" for depth in DEPTHS), "random_precision")]
        if not np.isnan(values).any():  # an alignment so narrow has no such pairs
            table.add_row(span, *(f"{value:.2f}" for value in values))
    return table
