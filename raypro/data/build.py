"""Building a corpus out of files: two passes over bounded memory, then the manifest.

Pass 1 (:mod:`raypro.data.scatter`) reads pieces of the inputs and scatters clean records over buckets; pass 2
(:mod:`raypro.data.gather`) turns ranges of buckets into the Parquet files of the splits. Both are maps over independent items,
so the caller chooses how they run: the built-in ``map``, or Ray's (:mod:`raypro.cluster.corpus`).

All is written to a folder beside the corpus (``.NAME.building``), which takes the corpus' name when it is whole.
"""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypro.config import InputError
from raypro.data.corpus import FORMAT_VERSION, SPLITS, Corpus, Manifest, write_manifest
from raypro.data.evaluation_sets import read_evaluation_sets
from raypro.data.gather import Gathered, GatherJob, SplitRule, gather
from raypro.data.headers import read_clans
from raypro.data.leakage import Targets
from raypro.data.minhash import Near
from raypro.data.place import building_folder, require_free, take_place
from raypro.data.readers import Piece, bytes_of, pieces_of, text_bytes
from raypro.data.records import DUPLICATE, Limits
from raypro.data.rejects import REJECTS_FILE, write_rejects
from raypro.data.scatter import Scattered, ScatterJob, scatter
from raypro.data.statistics import Statistics

TAPE_HELD_OUT_CLANS = ("CL0635", "CL0624", "CL0355", "CL0100", "CL0417", "CL0630")
"""The clans that TAPE (Rao et al. 2019) holds out of Pfam."""

MEMORY_BYTES = 512 << 20
"""Up to this much text the first pass leaves its parts in memory (never more): writing and reading them takes a tenth of a build."""
PIECE_BYTES = 64 << 20
BUCKET_BYTES = 16 << 20
SHARD_BUCKETS = 32
"""One shard, so one file a split, for about half a gigabyte of text."""

_PLURAL = {"clan": "clans", "family": "families"}

Map = Callable[[Callable[[Any], Any], list[Any], str], Iterable[Any]]
"""Applies a function to every item, in any processes, and gives the results in the items' order; the text names the stage."""


@dataclass(frozen=True)
class BuildOptions:
    """How a corpus is made out of its inputs."""

    sequence_column: str = "sequence"
    """Column of the sequences in tables."""
    min_length: int = 1
    """Residues; shorter sequences are rejected."""
    max_length: int | None = None
    """Residues; longer sequences are rejected. Training crops, so there is no need to set it."""
    keep_duplicates: bool = False
    """Keep every one of identical sequences (all in one split)."""
    hold_out: tuple[str, ...] = ()
    """Clans, where clans are known, else families, that become test; without a name TAPE's six clans, else ``hold_out_share``."""
    hold_out_share: float = 0.05
    """Share of the families held out by a seeded hash of their names, where families are known, clans are not, and none is named."""
    valid_share: float = 0.05
    """Share of the sequences that are not test which become validation."""
    seed: int = 0
    """Seed of the hash that splits and shuffles."""
    row_group_rows: int = 1024
    """Rows of a row group."""
    exclude: tuple[str, ...] = ()
    """Folders of labelled data: sequences that are one of any of their splits but train, or a near duplicate of one, are rejected."""
    exclude_identical_only: bool = False
    """Keep the near duplicates of those: a build is then faster, and a model can be judged by what it has nearly seen."""
    near: Near = Near()
    """What a near duplicate is."""

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be."""
        for name in ("hold_out_share", "valid_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)} is no share; give a number from 0 to below 1")
        if self.row_group_rows < 1:
            raise InputError(f"row_group_rows: {self.row_group_rows}; give 1 or more")
        if self.max_length is not None and self.max_length < max(self.min_length, 1):
            raise InputError(f"max_length: {self.max_length} is below the minimum of {max(self.min_length, 1)}; give a larger one")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed: {self.seed}; give a number from 0 to 2^64 - 1")
        if self.exclude_identical_only and not self.exclude:
            raise InputError("exclude_identical_only: identical to what? name folders of labelled data by --exclude")


@dataclass(frozen=True)
class BuildReport:
    """What a build did, for the summary."""

    corpus: Corpus
    read: int
    """Records read."""
    rejected: Counter[str]
    """Records left out, by cause; duplicates too."""
    warnings: tuple[str, ...]
    """What a person should look at, one sentence each."""


def here(function: Callable[[Any], Any], items: list[Any], stage: str) -> Iterator[Any]:
    """Run a stage of a build in this process."""
    return map(function, items)


def build(
    inputs: list[Path],
    out: Path,
    options: BuildOptions | None = None,
    clans: Path | None = None,
    overwrite: bool = False,
    run: Map = here,
) -> BuildReport:
    """Build a corpus.

    Args:
        inputs: FASTA, Parquet, CSV, TSV, TAPE's JSON or LMDB; FASTA and tables plain or gzip.
        out: the corpus folder to make.
        options: how.
        clans: ``Pfam-A.clans.tsv``, which gives families their clans.
        overwrite: replace a corpus that is at ``out``; it stays until the new one is whole.
        run: runs a stage of the build; see :data:`Map`.

    Raises:
        InputError: an input is missing, empty or damaged, a corpus is at ``out`` already, or no sequence is left.
    """
    options = options or BuildOptions()
    out = out.expanduser().absolute()
    require_free(out, overwrite)
    pieces = [piece for path in _distinct(inputs) for piece in pieces_of(path, options.sequence_column, PIECE_BYTES)]
    clan_table = None if clans is None else read_clans(clans)
    excluded = _excluded(options)
    text = sum(text_bytes(path) for path in _distinct(inputs))
    with building_folder(out) as folder:
        require_free(out, overwrite)  # again: another build may have ended meanwhile
        scratch, new = folder / "parts", folder / "corpus"
        scratch.mkdir()
        new.mkdir()
        scattered, gathered, rule = _two_passes(pieces, text, scratch, new, options, clan_table, excluded, run)
        rejected = sum((s.rejected for s in scattered), Counter())
        rejected[DUPLICATE] += sum(g.duplicates for g in gathered)
        rejected += Counter()  # drops zero counts
        files = [file for split in SPLITS for g in gathered for file in g.files if file.split == split]
        if not files:
            raise InputError(_nothing_left(inputs, rejected, pieces, scattered))
        write_rejects(new / REJECTS_FILE, _distinct(inputs), pieces, scattered, gathered)
        write_manifest(new, _manifest(files, gathered, rule, options, inputs, clans, rejected))
        shutil.rmtree(scratch)
        take_place(new, out)
    read = sum(s.records + sum(s.rejected.values()) for s in scattered)
    return BuildReport(Corpus.open(out), read, rejected, tuple(_warnings(pieces, scattered, gathered, rule)))


def _two_passes(
    pieces: list[Piece],
    text: int,
    scratch: Path,
    new: Path,
    options: BuildOptions,
    clans: pa.Table | None,
    excluded: Targets | None,
    run: Map,
) -> tuple[list[Scattered], list[Gathered], SplitRule]:
    """Scatter the pieces, which hold about ``text`` bytes, into the folder ``scratch``; gather the files of the splits in ``new``."""
    buckets = max(-(-text // BUCKET_BYTES), 1)
    memory = MEMORY_BYTES // len(pieces) if text <= MEMORY_BYTES else 0
    limits = Limits(options.min_length, options.max_length)
    job = ScatterJob(scratch, memory, buckets, options.seed, options.sequence_column, limits, clans, excluded, options.keep_duplicates)
    scattered: list[Scattered] = list(run(partial(scatter, job), list(enumerate(pieces)), "reading"))
    rule = _split_rule(scattered, options)
    parts = tuple((s.number, part) for s in scattered for part in s.parts)
    second = GatherJob(parts, scratch, new, options.row_group_rows, rule, options.keep_duplicates)
    shards = [(n, range(at, min(at + SHARD_BUCKETS, buckets))) for n, at in enumerate(range(0, buckets, SHARD_BUCKETS))]
    gathered: list[Gathered] = list(run(partial(gather, second), shards, "shuffling and writing"))
    return scattered, gathered, rule


def _excluded(options: BuildOptions) -> Targets | None:
    if not options.exclude:
        return None
    _, sequences = read_evaluation_sets(options.exclude)
    return Targets.of(sequences, None if options.exclude_identical_only else options.near)


def _distinct(inputs: list[Path]) -> dict[Path, str]:
    """The inputs, each once, however often it is named, and how it was named."""
    once = {path.expanduser().resolve(): path for path in inputs}
    return {path.expanduser().absolute(): os.fsencode(path).decode("utf-8", "replace") for path in once.values()}


def _split_rule(scattered: list[Scattered], options: BuildOptions) -> SplitRule:
    if any(s.with_clan for s in scattered):
        return SplitRule("clan", options.hold_out or TAPE_HELD_OUT_CLANS, 0.0, options.valid_share, options.seed)
    if any(s.with_family for s in scattered):
        return SplitRule("family", options.hold_out, options.hold_out_share, options.valid_share, options.seed)
    if options.hold_out:
        raise InputError(f"hold_out: {', '.join(options.hold_out)}: the inputs name neither families nor clans, so none can be held out")
    return SplitRule(None, (), 0.0, options.valid_share, options.seed)


def _describe(rule: SplitRule) -> str:
    which = "other sequences" if rule.by else "sequences"
    valid = f"valid: {100 * rule.valid:g} % of the {which} by a seeded hash of the sequence (XXH3, seed {rule.seed})"
    rest = "train: the rest; identical sequences are never in two splits"
    if rule.by is None:
        return f"no test split (no families known); {valid}; {rest}"
    which = f"the {_PLURAL[rule.by]} {', '.join(rule.held_out)}"
    if not rule.held_out:
        which = f"{100 * rule.share:g} % of the families, by a seeded hash of their names"
    return f"test: {which}, with every sequence that also occurs in one of them; {valid}; {rest}"


def _manifest(
    files: list[Any],
    gathered: list[Gathered],
    rule: SplitRule,
    options: BuildOptions,
    inputs: list[Path],
    clans: Path | None,
    rejected: Counter[str],
) -> Manifest:
    statistics = Statistics()
    for shard in gathered:
        statistics.update(shard.statistics)
    sources = [*_distinct(inputs), *([] if clans is None else [clans])]
    return Manifest(
        version=FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        row_group_rows=options.row_group_rows,
        files=tuple(files),
        split_rule=_describe(rule),
        sources=tuple(f"{path.name} ({bytes_of(path):,} bytes)" for path in sources),
        options=json.dumps(dataclasses.asdict(options)),
        rejected=json.dumps(dict(rejected.most_common())),
        residue_counts=statistics.residue_counts(),
        length_histogram=statistics.length_histogram(),
    )


def _suspected_dna(pieces: list[Piece], scattered: list[Scattered]) -> Iterator[str]:
    letters: dict[Path, list[int]] = {}
    for piece, s in zip(pieces, scattered, strict=True):
        seen = letters.setdefault(piece.path, [0, 0])
        seen[0] += s.letters
        seen[1] += s.nucleotides
    for path, (seen_letters, nucleotides) in letters.items():
        if seen_letters and nucleotides > 0.9 * seen_letters:
            share = 100 * nucleotides // seen_letters
            yield f"{path}: DNA or RNA? {share} % of its letters are A, C, G, T, U or N; proteins are expected, so look at the file"


def _warnings(pieces: list[Piece], scattered: list[Scattered], gathered: list[Gathered], rule: SplitRule) -> Iterator[str]:
    yield from _suspected_dna(pieces, scattered)
    occurring = frozenset[str]().union(*(g.held_out for g in gathered))
    missing = [name for name in rule.held_out if name not in occurring]
    if rule.by and not occurring:
        names = f": none of {', '.join(missing)} occurs" if missing else ": the hash chose none of the families"
        yield f"no test split{names}; hold_out names the {_PLURAL[rule.by]} to hold out"
    elif missing:
        yield f"held-out {_PLURAL[rule.by]} that do not occur: {', '.join(missing)}"


def _nothing_left(inputs: list[Path], rejected: Counter[str], pieces: list[Piece], scattered: list[Scattered]) -> str:
    causes = ", ".join(f"{count:,} {cause}" for cause, count in rejected.most_common())
    names = ", ".join(str(path) for path in inputs)
    suspected = "".join(f"; {text}" for text in _suspected_dna(pieces, scattered))
    return f"{names}: no sequence is left ({causes or 'no record in it'}); check the file and the length limits{suspected}"
