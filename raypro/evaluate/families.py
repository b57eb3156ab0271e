"""The family task of Lu et al. 2020, section 4.1: is a protein's nearest neighbour, by its vector, of its own family?

Of each of the 50 largest families 120 sequences are drawn, 70 % of them are known and 30 % are asked for. Nothing is trained, so
the accuracy is the vectors' own; by chance it is one over the number of families. A sequence is drawn once, whatever it is called
and however often it is there: a copy among the known ones would answer for the other.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypro.config import InputError, nearest
from raypro.data.corpus import MANIFEST, SCHEMA, Corpus
from raypro.data.readers import pieces_of, read_piece
from raypro.data.records import ANY_LENGTH, Limits, clean

COLUMNS = ("family", "clan", "taxon")
"""What proteins may be grouped by."""


@dataclass(frozen=True)
class Grouped:
    """Proteins with their families, one entry a protein; those without a family are left out."""

    ids: list[str]
    sequences: list[str]
    families: list[str]


@dataclass(frozen=True)
class FamilyDraw:
    """Which proteins the task uses."""

    families: tuple[str, ...]
    """Their names, the largest first."""
    train: NDArray[np.int64]
    """Rows of the known proteins, family by family."""
    test: NDArray[np.int64]
    """Rows of the proteins that are asked for."""
    labels: NDArray[np.int64]
    """[n] number of each protein's family; -1 of one that was not drawn."""
    said: str
    """What was drawn, as a sentence."""


def read_families(path: str | Path, column: str = "family", limits: Limits = ANY_LENGTH) -> Grouped:
    """Read proteins with their families from a corpus (all its splits), or from any file of sequences that names families.

    Args:
        path: a corpus's folder; a CSV, TSV or Parquet file with the columns ``sequence`` and ``family`` (or ``clan``, for which
            SCOP's ``superfamily`` is taken, or ``taxon``); a FASTA file with Pfam's headers.
        column: what proteins are grouped by, one of :data:`COLUMNS`.
        limits: of the proteins that are taken.

    Raises:
        InputError: no such column or file, or no protein has a family.
    """
    if column not in COLUMNS:
        raise InputError(f"--family-column {column}: proteins are grouped by {', '.join(COLUMNS)}{nearest(column, list(COLUMNS))}")
    place = Path(path).expanduser()
    table = _of_corpus(place, column) if (place / MANIFEST).is_file() else _of_file(place, column)
    rows = zip(*(table[name].to_pylist() for name in ("id", "sequence", column)), strict=True)
    named = [row for row in rows if row[2] is not None and limits.allow(len(row[1]))]
    if not named:
        raise InputError(f"{path}: no protein in it has a {column}; give a table with a column {column!r}, or a corpus made of one")
    return Grouped(*(list(values) for values in zip(*named, strict=True)))


def draw_families(proteins: Grouped, most: int = 50, members: int = 120, share: float = 0.7, seed: int = 0) -> FamilyDraw:
    """Draw the proteins of the task: ``members`` of each of the largest families, split within each family.

    Families with fewer members are not taken; where that leaves fewer than ``most`` families, it is said.

    Args:
        proteins: those to draw from.
        most: families to take.
        members: distinct sequences of each.
        share: of them that are known; the rest is asked for. At least one is on either side.
        seed: of the drawing.

    Raises:
        InputError: numbers that make no sense, or not two families that large.
    """
    if most < 2 or members < 2 or not 0 < share < 1:
        raise InputError("--families and --members: must be 2 or more; and the share of known proteins lies between 0 and 1")
    first = {sequence: row for row, sequence in reversed(list(enumerate(proteins.sequences)))}
    rows: dict[str, list[int]] = {}
    for row in sorted(first.values()):
        rows.setdefault(proteins.families[row], []).append(row)
    by_size = sorted(rows, key=lambda family: (-len(rows[family]), family))
    taken = [family for family in by_size if len(rows[family]) >= members][:most]
    if len(taken) < 2:
        second = len(rows[by_size[1]]) if len(by_size) > 1 else 0
        advice = f"give --members {second} or fewer" if second > 1 else "give data of more families"
        raise InputError(f"--members {members}: {len(taken)} of {len(by_size)} families have so many distinct sequences; {advice}")
    rng, known = np.random.default_rng(seed), min(max(1, round(share * members)), members - 1)
    drawn = [rng.permutation(rows[family])[:members] for family in taken]
    labels = np.full(len(proteins.sequences), -1, np.int64)
    for number, of_family in enumerate(drawn):
        labels[of_family] = number
    few = f" (no more have {members} distinct sequences)" if len(taken) < most else ""
    said = f"the {len(taken)} largest families{few}, {members} sequences each: {known} known, {members - known} asked for"
    train, test = (np.concatenate([of_family[part] for of_family in drawn]) for part in (slice(known), slice(known, None)))
    return FamilyDraw(tuple(taken), train, test, labels, said)


def _of_corpus(folder: Path, column: str) -> pa.Table:
    corpus = Corpus.open(folder)
    splits = dict.fromkeys(file.split for file in corpus.manifest.files)
    names = ["id", "sequence", column]
    empty = pa.schema([SCHEMA.field(name) for name in names]).empty_table()
    return pa.concat_tables([empty, *(corpus.read(groups, names) for split in splits if (groups := corpus.row_groups(split)))])


def _of_file(path: Path, column: str) -> pa.Table:
    """Read a file; records that are no proteins are left out."""
    tables = []
    for piece in pieces_of(path, "sequence", piece_bytes=1 << 62):  # one piece, however large
        tables += [clean(records, ANY_LENGTH)[0] for records, _, _ in read_piece(piece, "sequence")]
    if not tables:
        raise InputError(f"{path}: no sequence in it; give a table with the columns sequence and {column}")
    table = pa.concat_tables(tables).select(["id", "sequence", column])
    return table.set_column(1, "sequence", table["sequence"].cast(pa.string()))
