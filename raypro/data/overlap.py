"""What a corpus and evaluation sets have in common: one pass over the corpus, counts for its manifest, and a list of the pairs.

Counts are of rows of the evaluation set: a row counts once, however many sequences of the corpus repeat it.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypro.config import InputError
from raypro.data.build import Map, here
from raypro.data.corpus import SPLITS, Corpus, Overlap, RowGroup, write_manifest
from raypro.data.evaluation_sets import EvaluationSet
from raypro.data.leakage import Targets

CHUNK_ROWS = 1 << 15
"""Rows of the corpus that one process takes at a time, rounded down to whole row groups (one at least)."""
COLUMNS = ("evaluation_split", "row", "id", "corpus_split", "corpus_id", "kind", "similarity")

_STAGE = "looking through the corpus"


@dataclass(frozen=True)
class Chunk:
    """A part of a corpus that is looked through at once."""

    split: str
    groups: tuple[RowGroup, ...]


@dataclass(frozen=True)
class Found:
    """Pairs of one chunk: a sequence of the corpus and an evaluation sequence."""

    split: str
    """The corpus' split."""
    ids: list[str]
    """Of the corpus' sequences."""
    targets: np.ndarray
    """[H] int64, which evaluation sequence."""
    identical: np.ndarray
    """[H] bool."""
    similarity: np.ndarray
    """[H] float64; 1 for identical ones."""


def chunks_of(corpus: Corpus) -> list[Chunk]:
    """Return all rows of a corpus in chunks, in order."""
    step = max(CHUNK_ROWS // corpus.manifest.row_group_rows, 1)
    groups = {split: corpus.row_groups(split) for split in SPLITS}
    return [Chunk(split, tuple(its[at : at + step])) for split, its in groups.items() for at in range(0, len(its), step)]


def binary_sequences(column: pa.ChunkedArray) -> pa.BinaryArray:
    """Return a corpus' column of sequences as one array of bytes, without copying the letters where it is one already."""
    return column.combine_chunks().cast(pa.binary()) if column.num_chunks != 1 else column.chunk(0).view(pa.binary())


def scan(job: tuple[Corpus, Targets], chunk: Chunk) -> Found:
    """Look for evaluation sequences in a chunk of a corpus."""
    corpus, targets = job
    table = corpus.read(chunk.groups, ["id", "sequence"])
    hits = targets.hits(binary_sequences(table["sequence"]))
    ids = table["id"].take(pa.array(hits.rows)).to_pylist()
    return Found(chunk.split, ids, hits.targets, hits.identical, hits.similarity)


def scan_all(corpus: Corpus, targets: Targets, run: Map = here) -> Iterable[Found]:
    """Look through a whole corpus once; memory is that of a chunk for each process."""
    return run(partial(scan, (corpus, targets)), chunks_of(corpus), _STAGE)


def record(corpus: Corpus, sets: Sequence[EvaluationSet], found: Iterable[Found], measure: str) -> list[Overlap]:
    """Count and list what was found: ``overlap-TASK.tsv`` beside the manifest, and the counts in the manifest.

    Counts replace those of an earlier measurement of the same data, known by their checksum, whatever their folder is called; all others
    stay. A list is that of the last measurement of a task of its name. The corpus' checksum stays the same.

    Args:
        corpus: the corpus.
        sets: the evaluation sets; all of a task that were measured.
        found: what is in the corpus of their sequences.
        measure: how near duplicates were found, for the manifest.

    Raises:
        InputError: the corpus cannot be read, or its folder not be written; all is as it was then.
    """
    rows_of = _rows_of(sets)
    identical, near = (np.zeros((len(SPLITS), len(rows_of)), np.bool_) for _ in range(2))
    tasks = list(dict.fromkeys(its.task for its in sets))
    files = {task: corpus.path / f"overlap-{task}.tsv" for task in tasks}
    temporary = {task: path.with_name(f".{path.name}.{os.getpid()}") for task, path in files.items()}
    try:
        with ExitStack() as stack:
            lists = {task: _list(stack, path) for task, path in temporary.items()}
            for some in found:
                split = SPLITS.index(some.split)
                identical[split, some.targets[some.identical]] = True
                near[split, some.targets[~some.identical]] = True
                _write_pairs(lists, sets, rows_of, some)
        overlaps = [_counted(its, identical, near, measure) for its in sets]
        for task, path in files.items():
            os.replace(temporary[task], path)
        manifest = Corpus.open(corpus.path).manifest
        measured = {its.sha256 for its in sets}
        kept = [overlap for overlap in manifest.overlaps if overlap.sha256 not in measured]
        write_manifest(corpus.path, dataclasses.replace(manifest, overlaps=(*kept, *overlaps)))
    except OSError as error:
        raise InputError(f"{corpus.path}: the overlap cannot be measured or written ({error}); check the corpus and its folder") from None
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return overlaps


def _rows_of(sets: Sequence[EvaluationSet]) -> list[list[tuple[int, int]]]:
    """Return for each distinct sequence the (number of its set, row) that have it."""
    rows: list[list[tuple[int, int]]] = [[] for _ in range(max((int(its.sequences.max()) + 1 for its in sets if len(its.ids)), default=0))]
    for number, its in enumerate(sets):
        for row, sequence in enumerate(its.sequences.tolist()):
            rows[sequence].append((number, row))
    return rows


def _list(stack: ExitStack, path: Path) -> Any:
    writer = csv.writer(stack.enter_context(path.open("w", newline="", encoding="utf-8")), delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    return writer


def _write_pairs(lists: dict[str, Any], sets: Sequence[EvaluationSet], rows_of: list[list[tuple[int, int]]], found: Found) -> None:
    pairs = zip(found.ids, found.targets.tolist(), found.identical.tolist(), found.similarity.tolist(), strict=True)
    for name, target, same, similarity in pairs:
        kind = "identical" if same else "near"
        for number, row in rows_of[target]:
            its = sets[number]
            lists[its.task].writerow((its.split, row + 1, its.ids[row], found.split, name, kind, f"{similarity:.3f}"))


def _counted(its: EvaluationSet, identical: np.ndarray, near: np.ndarray, measure: str) -> Overlap:
    same, alike = identical[:, its.sequences], near[:, its.sequences]  # [corpus splits, rows]
    by_split = {split: {"identical": int(same[n].sum()), "near": int((alike[n] & ~same[n]).sum())} for n, split in enumerate(SPLITS)}
    return Overlap(
        task=its.task,
        split=its.split,
        sha256=its.sha256,
        rows=len(its.ids),
        identical=int(same.any(axis=0).sum()),
        near=int((alike.any(axis=0) & ~same.any(axis=0)).sum()),
        by_corpus_split=json.dumps(by_split),
        measure=measure,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )
