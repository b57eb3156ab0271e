"""A corpus as a person reads it: splits, lengths, residue composition, families, and where it came from."""

import json
from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raypro.core.alphabet import LETTERS, STANDARD
from raypro.data.corpus import SPLITS, Corpus, Overlap, open_parquet
from raypro.data.statistics import LENGTH_BIN

_BAR = 40
_MOST_BINS = 24
_LARGEST = 10


def show(corpus: Corpus, console: Console | None = None) -> None:
    """Print what the corpus holds; all but its families comes from the manifest.

    Args:
        corpus: the corpus.
        console: where to; the terminal by default.
    """
    console = console or Console()
    manifest = corpus.manifest
    console.print(f"[bold]{escape(str(corpus.path))}[/]", soft_wrap=True)
    console.print(_splits(corpus))
    console.print(_lengths(json.loads(manifest.length_histogram)))
    console.print(_residues(json.loads(manifest.residue_counts)))
    if families := largest_families(corpus):
        console.print(_families(corpus, families))
    if manifest.overlaps:
        console.print(overlap_table(manifest.overlaps))
    rejected = json.loads(manifest.rejected)
    for name, text in (
        ("source", "; ".join(manifest.sources)),
        ("splits", manifest.split_rule),
        ("left out", ", ".join(f"{count:,} {cause}" for cause, count in rejected.items()) or "nothing"),
        ("row groups", f"of {manifest.row_group_rows:,} sequences"),
        ("contacts", manifest.contacts or "none known"),
        ("created", manifest.created),
        ("checksum", manifest.checksum),
    ):
        console.print(f"[bold]{name}[/]: {escape(text)}", soft_wrap=True, highlight=False)


def overlap_table(overlaps: Sequence[Overlap]) -> Table:
    """Return what is known of overlaps with evaluation sets, in their rows; of each split of the corpus: identical + near.

    Sets of one name are told apart by the beginning of their checksums.
    """
    by_split = [json.loads(overlap.by_corpus_split) for overlap in overlaps]
    shown = [split for split in SPLITS if any(any(counts[split].values()) for counts in by_split)]
    table = _table("Evaluation sequences in the corpus", "evaluation set", "rows", "identical", "near", *(f"in {split}" for split in shown))
    names = [f"{overlap.task}/{overlap.split}" for overlap in overlaps]
    for overlap, name, counts in zip(overlaps, names, by_split, strict=True):
        each = (f"{counts[split]['identical']:,} + {counts[split]['near']:,}" for split in shown)
        shown_name = name if names.count(name) == 1 else f"{name} {overlap.sha256[:8]}"
        table.add_row(escape(shown_name), f"{overlap.rows:,}", f"{overlap.identical:,}", f"{overlap.near:,}", *each)
    return table


def largest_families(corpus: Corpus) -> Counter[str]:
    """Return the number of sequences of each family; empty where no families are known."""
    families: Counter[str] = Counter()
    for file in corpus.manifest.files:
        with open_parquet(corpus.path / file.name) as parquet:
            for batch in parquet.iter_batches(1 << 17, columns=["family"]):
                counted = pc.value_counts(pc.drop_null(batch.column(0)))
                families.update(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))
    return families


def _table(title: str, *columns: str) -> Table:
    """A table whose columns but the first are numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _splits(corpus: Corpus) -> Table:
    table = _table("Splits", "split", "sequences", "residues", "mean length", "files")
    for split in SPLITS:
        rows, residues = corpus.rows(split), corpus.residues(split)
        mean = f"{residues / rows:.1f}" if rows else "-"
        table.add_row(split, f"{rows:,}", f"{residues:,}", mean, str(len(corpus.files(split))))
    return table


def _lengths(histogram: dict[str, dict[str, int]]) -> Table:
    """All splits together; bins are joined until they fit the screen, the last one takes the rest."""
    counts: Counter[int] = Counter()
    for split in histogram.values():
        counts.update({int(start): count for start, count in split.items()})
    total = sum(counts.values())
    long = next(start for start in sorted(counts) if sum(n for s, n in counts.items() if s <= start) >= 0.99 * total)
    width = LENGTH_BIN * max(-(-(long + LENGTH_BIN) // (LENGTH_BIN * (_MOST_BINS - 1))), 1)
    end = (long // width + 1) * width
    joined: Counter[int] = Counter()
    for start, count in counts.items():
        joined[min(start // width * width, end)] += count
    table = _table("Lengths", "residues", "sequences")
    table.add_column("")
    most = max(joined.values())
    for start in range(min(joined), max(joined) + 1, width):
        name = f"{start} and longer" if start == end else f"{start}-{start + width - 1}"
        table.add_row(name, f"{joined[start]:,}", "█" * round(_BAR * joined[start] / most))
    return table


def _residues(counts: dict[str, dict[str, int]]) -> Table:
    total: Counter[str] = Counter()
    for split in counts.values():
        total.update(split)
    residues, most = sum(total.values()), max(total.values())
    table = _table("Residues", "letter", "%")
    table.add_column("")
    for letter, count in total.most_common():
        if letter in STANDARD:
            table.add_row(letter, f"{100 * count / residues:.2f}", "█" * round(_BAR * count / most))
    others = {letter: total[letter] for letter in LETTERS if letter not in STANDARD and total[letter]}
    if others:
        table.caption = "never masking targets: " + ", ".join(f"{letter} {count:,}" for letter, count in others.items())
    return table


def _families(corpus: Corpus, families: Counter[str]) -> Table:
    rows = sum(corpus.rows(split) for split in SPLITS)
    table = _table(f"Largest of {len(families):,} families", "family", "sequences", "%")
    for family, count in families.most_common(_LARGEST):
        table.add_row(escape(family), f"{count:,}", f"{100 * count / rows:.1f}")
    return table
