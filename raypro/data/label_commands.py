"""The commands of ``raypro task`` that make, show and check labelled data."""

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raypro.data.label_import import REJECTS_FILE, SHARED_FILE, ImportReport, import_labelled
from raypro.data.label_options import ImportOptions
from raypro.data.label_show import show
from raypro.data.labelled import LabelledData


def import_command(
    sources: tyro.conf.Positional[tuple[str, ...]],
    /,
    out: Path,
    overwrite: bool = False,
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = ImportOptions(),  # noqa: B008 - frozen
) -> None:
    """Import labelled data: TAPE's files, or measurements of your own.

    Args:
        sources: files, SPLIT=FILE, TAPE's LMDB folders, or a folder of such files whose names end with their splits; TAPE's JSON and
            LMDB, CSV and TSV (plain or gzip), Parquet.
        out: the folder to make.
        overwrite: replace labelled data that are there already, once the new ones are whole.
        options: what the fields of the sources are.
    """
    console = Console()
    begin = time.perf_counter()
    with console.status("reading") as status:
        report = import_labelled(sources, out, options, overwrite, lambda path: status.update(f"reading {escape(path.name)}"))
    print_summary(console, report, time.perf_counter() - begin)


def show_command(data: tyro.conf.Positional[Path], /) -> None:
    """Print what labelled data hold: splits, lengths, the distribution of the labels, and where they came from.

    Args:
        data: the folder of the labelled data.
    """
    show(LabelledData.open(data))


def check_command(data: tyro.conf.Positional[Path], /) -> None:
    """Verify every checksum and count of labelled data, and that every label fits its sequence.

    Args:
        data: the folder of the labelled data.
    """
    opened = LabelledData.open(data)
    opened.check()
    rows = sum(file.rows for file in opened.manifest.files)
    splits = ", ".join(opened.splits)
    Console().print(f"{data}: whole: {rows:,} labelled sequences in {splits}; every checksum, count and label is right", soft_wrap=True)


def print_summary(console: Console, report: ImportReport, seconds: float) -> None:
    """Print what an import did: the splits, what was left out and why, and what a person should look at."""
    data = report.data
    table = Table("split", "read", "left out", "kept", "residues", title=f"Labelled data {escape(str(data.path))}", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    kept = {file.split: file for file in data.manifest.files}
    for split in [*kept, *(split for split in report.read if split not in kept)]:
        left_out = sum(report.rejected.get(split, {}).values())
        rows, residues = (kept[split].rows, kept[split].residues) if split in kept else (0, 0)
        table.add_row(split, f"{report.read[split]:,}", f"{left_out:,}", f"{rows:,}", f"{residues:,}")
    console.print(table)
    classes = f", {len(data.manifest.classes):,} classes" if data.manifest.classes else ""
    console.print(f"{sum(report.read.values()):,} records read in {seconds:.1f} s; labels: {data.kind}{classes}")
    for split, causes in report.rejected.items():
        for cause, count in causes.most_common():
            console.print(f"  {split}: {count:,}  {cause}", highlight=False)
    if report.rejected:
        console.print(f"Each of them is listed in {data.path / REJECTS_FILE}", soft_wrap=True, highlight=False)
    if (data.path / SHARED_FILE).is_file():
        console.print(f"Sequences that are kept in several splits are listed in {data.path / SHARED_FILE}", soft_wrap=True, highlight=False)
    console.print(f"Splits: {data.manifest.split_rule}", soft_wrap=True, highlight=False)
    for note in data.manifest.notes:
        console.print(f"[bold yellow]Look:[/] {escape(note)}", soft_wrap=True, highlight=False)
    console.print(f"See it with: raypro task show {data.path}", soft_wrap=True, highlight=False)
