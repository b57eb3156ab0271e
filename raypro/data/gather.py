"""Second pass of a build: take one bucket at a time, drop duplicates, choose splits, and write the splits of one shard.

A shard is a range of buckets and becomes at most one file a split, so shards are written in parallel and the
corpus is the same whatever the number of processes. The rows come in the order of their sequence's seeded hash: a
global shuffle.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from raypro.data.corpus import SCHEMA, SPLITS, CorpusFile
from raypro.data.memory import system_memory
from raypro.data.scatter import SCATTERED, Blocks, bucket_slices
from raypro.data.statistics import Statistics
from raypro.data.writer import SplitWriter

DUPLICATES = pa.schema([pa.field("piece", pa.int32()), pa.field("line", pa.int64()), pa.field("id", pa.string())])


@dataclass(frozen=True)
class SplitRule:
    """Which sequences are test, valid and train.

    A sequence is test where one of its records is in a held-out clan or family, so that identical sequences never
    part; else valid for ``valid`` of the range of its hash; else train.
    """

    by: str | None
    """``clan`` or ``family``, by which whole groups are held out; None: nothing is."""
    held_out: tuple[str, ...]
    """Clans or families that are held out by name."""
    share: float
    """Share of the families that a seeded hash of their name holds out, where none is named."""
    valid: float
    """Share of the sequences of the rest that become validation."""
    seed: int


@dataclass(frozen=True)
class GatherJob:
    """What holds for every shard of a build."""

    parts: tuple[tuple[int, Path | Blocks], ...]
    """Every part of the first pass with the number of its piece, in order."""
    scratch: Path
    """Where the lists of dropped duplicates go."""
    out: Path
    row_group_rows: int
    rule: SplitRule
    keep_duplicates: bool


@dataclass(frozen=True)
class Gathered:
    """What became of a shard."""

    files: list[CorpusFile]
    statistics: Statistics
    duplicates: int
    duplicates_file: Path
    """Arrow stream (``DUPLICATES``) of the records dropped as duplicates."""
    held_out: frozenset[str]
    """Held-out groups that occur."""


@system_memory()
def gather(job: GatherJob, shard: tuple[int, range]) -> Gathered:
    """Write the splits of shard number ``shard[0]``, which has the buckets ``shard[1]``."""
    number, buckets = shard
    statistics, duplicates, held_out = Statistics(), 0, set[str]()
    path = job.scratch / f"duplicates-{number:05d}.arrow"
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(SplitWriter(job.out, split, job.row_group_rows, 1 << 62, statistics, first_number=number))
            for split in SPLITS
        }
        listed = stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), DUPLICATES))
        for bucket in buckets:
            table = read_bucket(job.parts, bucket)
            if not table.num_rows:
                continue
            chosen, dropped, groups = choose(table, job.rule, job.keep_duplicates)
            for split, rows in chosen.items():
                writers[split].write(_corpus_rows(table, rows))
            if len(dropped):
                listed.write_table(table.select(DUPLICATES.names).take(pa.array(np.sort(dropped))).cast(DUPLICATES))
            duplicates += len(dropped)
            held_out |= groups
    files = [file for split in SPLITS for file in writers[split].files]
    return Gathered(files, statistics, duplicates, path, frozenset(held_out))


def read_bucket(parts: Sequence[tuple[int, Path | Blocks]], bucket: int) -> pa.Table:
    """Return the records of a bucket in the order of the inputs: columns of ``SCATTERED``, and ``piece``."""
    batches, pieces = [], []
    for piece, part in parts:
        if isinstance(part, list):
            found = bucket_slices(part, bucket)
        else:
            with pa.OSFile(str(part)) as source:
                found = [pa.ipc.open_file(source).get_batch(bucket)]
        batches += found
        pieces.append(np.full(sum(batch.num_rows for batch in found), piece, np.int32))
    table = pa.Table.from_batches(batches, SCATTERED)
    return table.append_column("piece", pa.array(np.concatenate(pieces)) if pieces else pa.array([], pa.int32())).combine_chunks()


def choose(
    table: pa.Table, rule: SplitRule, keep_duplicates: bool
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64], frozenset[str]]:
    """Choose the splits of a bucket's records.

    Of identical sequences the first record stays, the first one of a held-out group where there is one.

    Returns:
        The rows of each split in their final order, the rows dropped as duplicates, and the held-out groups that occur.
    """
    hashes = table["hash"].to_numpy()
    held, groups = _held_out(table, rule)
    order = np.lexsort((~held, hashes)) if groups else _stable_order(hashes)
    first = _first_of_equals(table["sequence"].chunk(0), hashes, order)
    starts = np.flatnonzero(first)
    in_test = np.repeat(held[order[starts]], np.diff(np.append(starts, len(order)))) if groups else np.zeros(len(order), bool)
    in_valid = ~in_test & ((hashes[order] & np.uint64(0xFFFFFFFF)) < np.uint64(round(rule.valid * 2**32)))
    kept = np.ones(len(order), bool) if keep_duplicates else first
    if keep_duplicates:  # else identical sequences would stand side by side
        shuffled = np.random.default_rng((rule.seed, int(hashes[order[0]]))).permutation(len(order))
        order, in_test, in_valid = order[shuffled], in_test[shuffled], in_valid[shuffled]
    masks = {"train": ~in_test & ~in_valid, "valid": in_valid, "test": in_test}
    return {split: order[mask & kept] for split, mask in masks.items()}, order[~kept], groups


def _held_out(table: pa.Table, rule: SplitRule) -> tuple[NDArray[np.bool_], frozenset[str]]:
    """Return which records are in a held-out group, and the held-out groups among them."""
    nothing = np.zeros(table.num_rows, bool)
    if rule.by is None:
        return nothing, frozenset()
    names = pc.drop_null(pc.unique(table[rule.by])).to_pylist()
    if rule.held_out:
        held = [name for name in names if name in rule.held_out]
    else:
        held = [name for name in names if xxh3_64_intdigest(name.encode(), rule.seed) < rule.share * 2**64]
    if not held:
        return nothing, frozenset()
    return pc.is_in(table[rule.by], pa.array(held, pa.string())).to_numpy(), frozenset(held)


def _stable_order(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the order that sorts ``hashes``, equal ones as they come: the quicker sort, which does not keep that, where none are equal."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    return np.argsort(hashes, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def _first_of_equals(sequences: pa.BinaryArray, hashes: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each place of ``order`` (sorted by hash) whether its sequence differs from that of the place before."""
    first = np.ones(len(order), bool)
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    if len(same):  # letters decide, not the hash: two sequences may share one
        equal = pc.equal(sequences.take(pa.array(order[same])), sequences.take(pa.array(order[same - 1])))
        first[same] = ~equal.to_numpy(zero_copy_only=False)
    return first


def _corpus_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    taken = table.select(["id", "sequence", "family", "clan", "taxon"]).take(pa.array(rows)).combine_chunks()
    length = pc.binary_length(taken["sequence"]).cast(pa.int32())
    columns = {**{name: taken[name] for name in taken.column_names}, "length": length}
    columns["sequence"] = pa.chunked_array([chunk.view(pa.string()) for chunk in taken["sequence"].chunks], pa.string())
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)
