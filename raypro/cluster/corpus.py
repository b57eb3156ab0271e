"""Building corpora in parallel by Ray, and the commands of ``raypro corpus``."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import ray
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from raypro.cluster.session import ray_session
from raypro.config import InputError
from raypro.data.build import BuildOptions, BuildReport, Map, build, here
from raypro.data.corpus import SPLITS, Corpus
from raypro.data.readers import text_bytes
from raypro.data.rejects import REJECTS_FILE, check_rejects
from raypro.data.show import show
from raypro.data.synthetic import build_synthetic

RAY_FROM_BYTES = 1 << 30
"""Uncompressed text from which a Ray of one's own is worth the seconds that it takes to start."""
COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
"""Of the bars of progress."""


def build_command(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    clans: Path | None = None,
    overwrite: bool = False,
    options: Annotated[BuildOptions, tyro.conf.arg(name="")] = BuildOptions(),  # noqa: B008 - frozen
) -> None:
    """Build a corpus out of sequence files.

    Small inputs are read in this process. Ray reads and writes in parallel where it runs already (RAY_ADDRESS, a submitted job) or
    where the inputs hold a gigabyte of text or more; on several nodes, inputs and corpus lie on storage that all of them see.
    Plain FASTA and Parquet are read by many processes at once; each gzip, CSV, TSV, JSON and LMDB file by one.

    Args:
        inputs: FASTA, CSV or TSV (plain or gzip), Parquet, TAPE's JSON or LMDB; any number of them.
        out: the corpus folder to make.
        clans: Pfam-A.clans.tsv or Pfam-A.clans.tsv.gz, which gives Pfam families their clans.
        overwrite: replace a corpus that is there already, once the new one is whole.
        options: how the corpus is made.
    """
    if not inputs:
        raise InputError("inputs: none given; name at least one file of sequences")
    console = Console()
    begin = time.perf_counter()
    size = sum(text_bytes(path.expanduser()) for path in inputs)
    with_ray = ray.is_initialized() or "RAY_ADDRESS" in os.environ or size >= RAY_FROM_BYTES
    console.print(f"Building {out} from {_count(len(inputs), 'file')}{', in parallel by Ray' if with_ray else ''}")
    with ray_session() if with_ray else nullcontext(), Progress(*COLUMNS, console=console) as progress:
        report = build(list(inputs), out, options, clans, overwrite, shown(on_ray if with_ray else here, progress))
    _print_summary(console, report, time.perf_counter() - begin)


def show_command(corpus: tyro.conf.Positional[Path], /) -> None:
    """Print what a corpus holds: splits, lengths, residues, families, and where it came from.

    Args:
        corpus: the corpus folder.
    """
    show(Corpus.open(corpus))


def check_command(corpus: tyro.conf.Positional[Path], /) -> None:
    """Verify every checksum and count of a corpus.

    Args:
        corpus: the corpus folder.
    """
    opened = Corpus.open(corpus)
    opened.check()
    check_rejects(opened)
    rows = sum(opened.rows(split) for split in SPLITS)
    files = _count(len(opened.manifest.files), "file")
    Console().print(f"{corpus}: whole: {files}, {_count(rows, 'sequence')}, every checksum and count is right", soft_wrap=True)


def synthetic_command(
    out: Path, families: int = 4, length: int = 32, sequences: int = 4000, held_out: int = 1, seed: int = 0, overwrite: bool = False
) -> None:
    """Make a corpus of synthetic families with planted, known contacts.

    Args:
        out: the corpus folder to make.
        families: families to train on.
        length: residues of every sequence.
        sequences: sequences of each family.
        held_out: further families, which are the test split.
        seed: of everything random.
        overwrite: replace a corpus that is there already.
    """
    corpus = build_synthetic(out, families=families, length=length, sequences=sequences, held_out=held_out, seed=seed, overwrite=overwrite)
    show_command(corpus.path)


def on_ray(function: Callable[[Any], Any], items: list[Any], stage: str) -> Iterator[Any]:
    """Apply ``function`` to every item by Ray tasks of one CPU each; yield the results in order (see :data:`raypro.data.build.Map`).

    Ray is connected already (:func:`raypro.cluster.session.ray_session`). As many tasks are in flight as there are CPUs, and some more
    that wait, so the items may be any number. What the function carries with it (a table, sketches) goes to each node once. An InputError
    in a task is raised as it is.
    """
    carried = ray.put(function)
    task = ray.remote(num_cpus=1)(lambda function, item: function(item))
    ahead = int(ray.cluster_resources().get("CPU", 1)) + 2
    waiting: deque[ray.ObjectRef] = deque()
    left = iter(items)
    try:
        while True:
            waiting.extend(task.remote(carried, item) for item in islice(left, ahead - len(waiting)))
            if not waiting:
                return
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference)


def shown(run: Map, progress: Progress) -> Map:
    """Return ``run`` with a bar for each of its stages in ``progress``."""

    def with_bar(function: Callable[[Any], Any], items: list[Any], stage: str) -> Iterator[Any]:
        return progress.track(run(function, items, stage), total=len(items), description=stage)

    return with_bar


def _print_summary(console: Console, report: BuildReport, seconds: float) -> None:
    corpus = report.corpus
    table = Table("split", "sequences", "residues", title=f"Corpus {corpus.path}", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for split in SPLITS:
        table.add_row(split, f"{corpus.rows(split):,}", f"{corpus.residues(split):,}")
    console.print(table)
    kept = sum(corpus.rows(split) for split in SPLITS)
    console.print(f"{_count(report.read, 'record')} read, {kept:,} kept, {sum(report.rejected.values()):,} left out, in {seconds:.1f} s")
    for cause, count in report.rejected.most_common():
        console.print(f"  {count:,}  {cause}")
    if report.rejected:
        console.print(f"Each of them is listed in {corpus.path / REJECTS_FILE}", soft_wrap=True)
    console.print(f"Splits: {corpus.manifest.split_rule}", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"[bold yellow]Look:[/] {warning}", soft_wrap=True)
    console.print(f"See it with: raypro corpus show {corpus.path}", soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
