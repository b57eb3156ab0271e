"""``raypro report``: one page that sets what the runs in MLflow reached beside what the papers print, with its figures as CSV."""

import csv
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from raypro.address import tracking_address
from raypro.config import InputError
from raypro.evaluate.report_filling import data_of, fill
from raypro.evaluate.report_page import Report, page, rows_of_csv
from raypro.evaluate.report_scores import Score
from raypro.evaluate.report_tables import OWN, OWN_KINDS, TABLES, own_tables
from raypro.mlflow_store import RunRecord, Store
from raypro.report_pictures import contact_maps, over_parameters, over_residues
from raypro.report_pretrained import pretrained_scores
from raypro.report_probed import probed_scores
from raypro.report_runs import Runs
from raypro.report_tuned import repeated_runs, tuned_scores
from raypro.tasks.tape import TASKS

PAGE, FIGURES = "report.html", "report.csv"


def report_command(
    out: Path, experiment: tuple[str, ...] = (), address: str | None = None, ui: str | None = None, overwrite: bool = False
) -> None:
    """Make one page (report.html, and report.csv) of the runs in MLflow: the papers' tables, published figures beside ours.

    A cell that was not run stays empty; a result that is not better than its baseline is marked so. The page needs no network.

    Args:
        out: the folder to make.
        experiment: the MLflow experiments whose runs are shown; all where none is named. Encoders may have been pre-trained in others.
        address: tracking address of the store; $MLFLOW_TRACKING_URI, else the store in raypro's home, where missing.
        ui: where MLflow's pages answer, which figures link to, as http://127.0.0.1:5000 (raypro ui); without it runs are named.
        overwrite: replace a report that is there already.
    """
    place = tracking_address(address)
    pages = (ui or (place if place.startswith(("http://", "https://")) else "")).rstrip("/")
    if pages and not pages.startswith(("http://", "https://")):
        raise InputError(f"--ui {ui}: not an address of MLflow's pages; it is as http://127.0.0.1:5000")
    require_place(out, overwrite)
    with Store(place) as store:
        shown = store.runs(experiment)
        runs = Runs(store, shown, pages, store.runs() if experiment else shown)
        report = gather(runs, place)
    write(report, out)
    console = Console()
    cells = rows_of_csv(report)
    ours = sum(cell["ours"] is not None for cell in cells)
    console.print(f"{len(runs.records):,} runs, {ours:,} figures of ours, {sum(c['published'] is not None for c in cells):,} published")
    for word, name in (("page", PAGE), ("figures", FIGURES)):
        console.print(f"{word:12} {out / name}", soft_wrap=True, highlight=False)


def gather(runs: Runs, address: str) -> Report:
    """Return the report of the runs of a store."""
    scores = unique([*pretrained_scores(runs), *tuned_scores(runs), *probed_scores(runs)])
    own = own_tables(scores, {kind: TASKS[kind]().primary for kind in OWN_KINDS})
    first = next(place for place, table in enumerate(TABLES) if table.paper != OWN)  # what is a person's own stands before the papers'
    tables = tuple((table, tuple(fill(table, scores))) for table in (*TABLES[:first], *own, *TABLES[first:]))
    known = {id_ for score in scores for id_ in score.model.run_ids}
    left_out = [r for r in runs.records if r.run_id not in known and not r.parent]
    counts = (
        ("pre-training runs", len(runs.pretrained)),
        ("fine-tuning runs and sweeps", len(runs.fine_tuned)),
        ("probes", len({(s.model.run_ids, s.task, *data_of(s)) for s in scores if s.stage == "probe" and not s.model.baseline})),
        ("other runs, not shown", len(left_out)),
    )
    figures = (
        ("Performance over parameters", tuple(over_parameters(tables))),
        ("Metrics over residues seen", tuple(over_residues(runs))),
        ("Contact maps", tuple(contact_maps(runs))),
    )
    again = repeated_runs(runs)
    why = tuple(f"{r.name or r.run_id} ({_why(r, again)})" for r in left_out)
    return Report(address, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", counts, tables, figures, bool(runs.ui), why)


def _why(record: RunRecord, again: set[str]) -> str:
    """Return why no table shows a run."""
    if record.run_id in again:
        return "run again later with the same seed"
    return "no figure of these tables" if record.status == "FINISHED" else record.status.lower()


def unique(scores: Iterable[Score]) -> list[Score]:
    """Return scores without those that are there already: baselines that several runs were set beside."""
    found: dict[tuple[object, ...], Score] = {}
    for score in scores:
        where = (score.stage, score.task, score.split, score.metric, score.probe, *data_of(score))
        key = (*where, score.model.method, score.model.about) if score.model.baseline else (*where, score.model.run_ids)
        found.setdefault(key, score)
    return list(found.values())


def require_place(out: Path, overwrite: bool) -> None:
    """Raise InputError if ``out`` is anything but nothing, an empty folder, or a report that may be overwritten."""
    if not out.exists():
        return
    there = {path.name for path in out.iterdir()} if out.is_dir() else None
    if there is None or there - {PAGE, FIGURES}:
        raise InputError(f"{out}: there already, and no report; give another folder")
    if there and not overwrite:
        raise InputError(f"{out}: there is a report already; give another folder, or --overwrite")


def write(report: Report, out: Path) -> None:
    """Write the page and its figures: under a temporary name first, so that no half of one is ever there.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); give another folder") from None
    try:
        (folder / PAGE).write_text(page(report), encoding="utf-8")
        _write_csv(folder / FIGURES, rows_of_csv(report))
        out.mkdir(exist_ok=True)
        for name in (FIGURES, PAGE):
            os.replace(folder / name, out / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    columns = list(rows[0]) if rows else ["paper", "table", "row", "column", "published", "ours"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
