"""First pass of a build: read a piece of an input, clean its records and scatter them over buckets by a seeded hash of the sequence.

Identical sequences meet in one bucket, and the order of the hashes is a seeded random order; so the second pass
(:mod:`raypro.data.gather`) drops duplicates and shuffles globally with one bucket at a time in memory.
"""

import string
from collections import Counter
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from raypro.data.headers import with_clans
from raypro.data.leakage import Targets
from raypro.data.memory import system_memory
from raypro.data.readers import Piece, read_piece
from raypro.data.records import DUPLICATE, RECORDS, REJECTS, Limits, binary_buffers, clean

Blocks = list[tuple[pa.RecordBatch, NDArray[np.int64]]]
"""Records ordered by bucket (``SCATTERED``), block by block, and where each bucket begins in a block [buckets + 1]."""

SCATTERED = RECORDS.append(pa.field("hash", pa.uint64()))
PART_BYTES = 64 << 20
"""Sequences gathered from a piece before they are written out, in bytes."""

_SAMPLE_BYTES = 1 << 18
_LETTER, _NUCLEOTIDE = (np.isin(np.arange(256), list(which)) for which in (string.ascii_letters.encode(), b"ACGTUNacgtun"))


@dataclass(frozen=True)
class ScatterJob:
    """What holds for every piece of a build: where the parts go, how many buckets there are, and how records are cleaned."""

    folder: Path
    memory: int
    """Sequences of one piece that stay in memory, in bytes; what is beyond goes to files."""
    buckets: int
    seed: int
    sequence_column: str
    limits: Limits
    clans: pa.Table | None
    excluded: Targets | None = None
    """Evaluation sequences: what repeats one of them is rejected."""
    keep_duplicates: bool = False


@dataclass
class Scattered:
    """What became of a piece."""

    number: int
    parts: list[Path | Blocks] = field(default_factory=list)
    """Arrow files with one record batch a bucket, or what would be in them."""
    rejects: list[Path] = field(default_factory=list)
    """Arrow streams of the rejected records (``REJECTS``)."""
    in_memory: int = 0
    """Sequences of the parts that are no files, in bytes."""
    lines: int = 0
    records: int = 0
    """Accepted records."""
    with_family: int = 0
    with_clan: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    letters: int = 0
    """Letters sampled of all records, and how many of them (``nucleotides``) are A, C, G, T, U or N."""
    nucleotides: int = 0


@system_memory()
def scatter(job: ScatterJob, numbered: tuple[int, Piece]) -> Scattered:
    """Read the piece ``numbered[1]``, which is number ``numbered[0]`` of the build, and write its records as parts.

    Raises:
        InputError: the file turns out to be damaged.
    """
    number, piece = numbered
    result = Scattered(number)
    gathered: Blocks = []
    size = 0
    for records, strays, lines in read_piece(piece, job.sequence_column):
        _sample(result, records)
        accepted, rejects = clean(records, job.limits)
        if job.excluded is not None:
            accepted, leaks = without_leaks(accepted, job.excluded)
            rejects = pa.concat_tables([rejects, leaks])
        if job.clans is not None:
            accepted = with_clans(accepted, job.clans)
        accepted, hashes, repeats = _distinct(job, accepted)
        _count(result, accepted, lines)
        _write_rejects(job.folder, result, pa.concat_tables([strays, rejects, repeats]))
        if not accepted.num_rows:
            continue
        gathered.append(_by_bucket(job, accepted, hashes))
        size += accepted["sequence"].nbytes
        if size >= PART_BYTES:
            _add_part(job, result, gathered, size)
            gathered, size = [], 0
    _add_part(job, result, gathered, size)
    return result


def without_leaks(records: pa.Table, excluded: Targets) -> tuple[pa.Table, pa.Table]:
    """Return the clean ``records`` that repeat no evaluation sequence, and the others (``REJECTS``)."""
    if not records.num_rows:
        return records, REJECTS.empty_table()
    causes = excluded.causes(records["sequence"].chunk(0))
    leaks = records.append_column("cause", causes).filter(causes.is_valid())
    return records.filter(causes.is_null()).combine_chunks(), leaks.select(REJECTS.names)


def hash_sequences(sequences: pa.BinaryArray, seed: int) -> NDArray[np.uint64]:
    """Return XXH3 (64 bits) of each sequence."""
    digests = map(xxh3_64_intdigest, sequences.to_pylist(), repeat(seed))  # no Python step per sequence
    return np.fromiter(digests, np.uint64, len(sequences))


def bucket_of(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.uint64]:
    """Return the bucket of each hash: the buckets cut the range of the hashes into equal parts, in order."""
    return (hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)


def _count(result: Scattered, accepted: pa.Table, lines: int) -> None:
    result.lines += lines
    result.records += accepted.num_rows
    result.with_family += accepted.num_rows - accepted["family"].null_count
    result.with_clan += accepted.num_rows - accepted["clan"].null_count


def _sample(result: Scattered, records: pa.Table) -> None:
    """Look at letters as they stand: a file of DNA is suspected even where few of its records are accepted."""
    if result.letters < _SAMPLE_BYTES and records.num_rows:
        sample = binary_buffers(records["sequence"].chunk(0))[1][:_SAMPLE_BYTES]
        result.letters += int(_LETTER[sample].sum())
        result.nucleotides += int(_NUCLEOTIDE[sample].sum())


def _distinct(job: ScatterJob, records: pa.Table) -> tuple[pa.Table, NDArray[np.uint64], pa.Table]:
    """Return the records that differ in sequence, family or clan from all before them, their hashes, and the others (``REJECTS``).

    A sequence that is there a million times would else come to one bucket a million times. What is dropped here would be dropped
    there too: with family and clan alike, it is held out if the first one is.
    """
    if not records.num_rows:
        return records, np.empty(0, np.uint64), REJECTS.empty_table()
    hashes = hash_sequences(records["sequence"].chunk(0), job.seed)
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if job.keep_duplicates or not len(again):
        return records, hashes, REJECTS.empty_table()
    rows = np.flatnonzero(np.isin(hashes, again))
    keys = ["sequence", "family", "clan"]
    alike = records.select(keys).take(pa.array(rows)).append_column("row", pa.array(rows))
    kept = np.ones(len(hashes), bool)
    kept[rows] = False
    kept[alike.group_by(keys, use_threads=False).aggregate([("row", "min")])["row_min"].to_numpy()] = True
    repeats = records.filter(pa.array(~kept))
    causes = pa.array([DUPLICATE], pa.string()).take(pa.array(np.zeros(repeats.num_rows, np.int32)))
    listed = pa.table([repeats["line"], repeats["id"], causes], schema=REJECTS)
    return records.filter(pa.array(kept)).combine_chunks(), hashes[kept], listed


def _by_bucket(job: ScatterJob, accepted: pa.Table, hashes: NDArray[np.uint64]) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    """Return the records ordered by bucket, with their hashes, and where each bucket begins in them [buckets + 1].

    Within a bucket they keep their order, so that the first of equal sequences stays the first.
    """
    table = accepted.append_column("hash", pa.array(hashes)).cast(SCATTERED)
    if job.buckets == 1:
        return table.to_batches()[0], np.array([0, len(hashes)])
    buckets = bucket_of(hashes, job.buckets)
    if job.buckets <= 1 << 16:
        buckets = buckets.astype(np.uint16)  # numpy sorts 16 bits by radix
    order = np.argsort(buckets, kind="stable")
    batch = table.to_batches()[0].take(pa.array(order))
    return batch, np.concatenate(([0], np.cumsum(np.bincount(buckets, minlength=job.buckets))))


def bucket_slices(blocks: Blocks, bucket: int) -> list[pa.RecordBatch]:
    """Return the records of one bucket, as views."""
    return [batch.slice(at[bucket], at[bucket + 1] - at[bucket]) for batch, at in blocks]


def _add_part(job: ScatterJob, result: Scattered, gathered: Blocks, size: int) -> None:
    if not gathered:
        return
    if result.in_memory + size <= job.memory:
        result.in_memory += size
        result.parts.append(gathered)
        return
    path = job.folder / f"{result.number:06d}-{len(result.parts):05d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCATTERED) as writer:
        for bucket in range(job.buckets):
            slices = bucket_slices(gathered, bucket)
            writer.write_batch(slices[0] if len(slices) == 1 else pa.concat_batches(slices))
    result.parts.append(path)


def _write_rejects(folder: Path, result: Scattered, rejects: pa.Table) -> None:
    """Write the rejects of one table as the next file of the piece's; they may be as many as the records."""
    if not rejects.num_rows:
        return
    counts = rejects["cause"].combine_chunks().value_counts()
    result.rejected.update({c["values"].as_py(): c["counts"].as_py() for c in counts})
    path = folder / f"{result.number:06d}-{len(result.rejects):05d}.rejects"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, REJECTS) as writer:
        writer.write_table(rejects)
    result.rejects.append(path)
