"""``raypro corpus overlap``: what a corpus and evaluation sets have in common, in parallel by Ray where that is worth it."""

import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Literal

import ray
import tyro
from rich.console import Console
from rich.progress import Progress

from raypro.cluster.corpus import COLUMNS, RAY_FROM_BYTES, on_ray, shown
from raypro.cluster.session import ray_session
from raypro.data.build import Map, here
from raypro.data.corpus import SPLITS, Corpus
from raypro.data.evaluation_sets import read_evaluation_sets
from raypro.data.leakage import Targets
from raypro.data.minhash import Near
from raypro.data.mmseqs import MMseqs, near_by_mmseqs, require_mmseqs
from raypro.data.overlap import Found, record, scan_all
from raypro.data.show import overlap_table


def overlap_command(
    corpus: tyro.conf.Positional[Path],
    tasks: tyro.conf.Positional[tuple[Path, ...]],
    /,
    splits: tuple[str, ...] = (),
    tool: Literal["minhash", "mmseqs"] = "minhash",
    near: Near = Near(),  # noqa: B008 - frozen
    mmseqs: MMseqs = MMseqs(),  # noqa: B008 - frozen
) -> None:
    """Count what of evaluation sets is in a corpus: identical sequences and near duplicates.

    The counts go into the corpus' manifest (its checksum stays the same), the pairs into overlap-TASK.tsv beside it. Ray reads in
    parallel where it runs already (RAY_ADDRESS, a submitted job) or where the corpus holds a gigabyte of residues or more.

    Args:
        corpus: the corpus folder.
        tasks: folders of labelled data (raypro task import); any number of them.
        splits: their splits that are evaluation sets; all but train where none is named.
        tool: how near duplicates are found: shared k-mers, or alignments by MMseqs2 where that is installed.
        near: what a near duplicate is to minhash.
        mmseqs: what a near duplicate is to mmseqs.
    """
    console, begin = Console(), time.perf_counter()
    opened = Corpus.open(corpus)
    sets, sequences = read_evaluation_sets(tasks, splits)
    if tool == "mmseqs":
        require_mmseqs()
    targets = Targets.of(sequences, near if tool == "minhash" else None)
    residues = sum(opened.residues(split) for split in SPLITS)
    with_ray = ray.is_initialized() or "RAY_ADDRESS" in os.environ or residues >= RAY_FROM_BYTES
    with ray_session() if with_ray else nullcontext(), Progress(*COLUMNS, console=console) as progress:
        found = _found(opened, targets, mmseqs if tool == "mmseqs" else None, with_ray, progress)
        overlaps = record(opened, sets, found, str(near if tool == "minhash" else mmseqs))
    console.print(overlap_table(overlaps))
    console.print(f"{sum(opened.rows(split) for split in SPLITS):,} sequences looked through in {time.perf_counter() - begin:.1f} s")
    for task in dict.fromkeys(overlap.task for overlap in overlaps):
        console.print(f"Each pair is listed in {opened.path / f'overlap-{task}.tsv'}", soft_wrap=True, highlight=False)
    if any(overlap.identical or overlap.near for overlap in overlaps):
        names = " ".join(str(task) for task in tasks)
        console.print(f"To leave them out: raypro corpus build ... --exclude {names}", soft_wrap=True, highlight=False)


def _found(corpus: Corpus, targets: Targets, mmseqs: MMseqs | None, with_ray: bool, progress: Progress) -> Iterable[Found]:
    run: Map = shown(on_ray if with_ray else here, progress)
    found = scan_all(corpus, targets, run)
    return found if mmseqs is None else chain(found, near_by_mmseqs(corpus, targets, mmseqs, shown(here, progress)))
