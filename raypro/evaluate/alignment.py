"""An aligned family and its true contacts: from the maps of single sequences to one map over the alignment's columns.

Legend: S sequences, C columns of the alignment, L residues of one sequence.
"""

import gzip
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core.alphabet import LETTERS
from raypro.data.file_kinds import unpacked_name

A3M_ANNOTATION = ("ss_pred", "ss_conf", "ss_dssp", "sa_dssp", "aa_dssp", "aa_pred")
"""Rows that HH-suite writes into A3M and that are no sequences: secondary structure, accessibility, confidence."""
_KNOWN = frozenset(LETTERS + LETTERS.lower() + "-.")
_NO_INSERTIONS = str.maketrans("", "", string.ascii_lowercase + ".")
CONTACT_DISTANCE = 8.0
"""Two residues are in contact below this distance, in angstrom."""
LEAST_SEPARATION = 5
"""Least separation |i - j| of the pairs that contacts files list."""


@dataclass(frozen=True)
class Alignment:
    """An aligned family: rows of equal width."""

    ids: tuple[str, ...]
    """[S] first word of each header."""
    rows: tuple[str, ...]
    """[S] strings [C] of upper-case residues and ``-``."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.rows[0])

    def sequence(self, row: int) -> str:
        """Return the residues [L] of a row, without its gaps."""
        return self.rows[row].replace("-", "")

    def columns(self, row: int) -> NDArray[np.int64]:
        """Return the column [L] of each residue of a row, 0-based."""
        return np.flatnonzero(np.frombuffer(self.rows[row].encode(), np.uint8) != ord("-"))


@dataclass(frozen=True)
class ColumnContacts:
    """True contacts over the columns of an alignment."""

    contacts: NDArray[np.bool_]
    """[C, C], symmetric."""
    scored: NDArray[np.bool_]
    """[C, C] pairs of which the file tells whether they are contacts: those at least LEAST_SEPARATION apart."""


def read_alignment(path: Path) -> Alignment:
    """Read an aligned family, plain or gzip: aligned FASTA, Stockholm, or A3M.

    In aligned FASTA and Stockholm lower case and ``.`` are read as upper case and ``-``. In A3M (and A2M) they are insertions, which are
    left out, so that the columns are the first sequence's residues. Stockholm is known by its first line, A3M by the file's name, or
    by rows that have one width without their insertions only.

    Raises:
        InputError: no such file, no sequences, a letter that is no residue, or rows of different widths; names the row.
    """
    lines = _lines(path)
    start = next(lines, None)
    if start is None:
        raise InputError(f"{path}: no sequences in it; give an alignment: FASTA, A3M or Stockholm")
    stockholm = start[1].startswith("# STOCKHOLM")
    found = _read_stockholm(path, lines) if stockholm else _read_fasta(path, chain([start], lines))
    if not stockholm and _is_a3m(path, found):
        found = [(name, row.translate(_NO_INSERTIONS)) for name, row in found if name not in A3M_ANNOTATION]
    if not found:
        raise InputError(f"{path}: no sequences in it; give an alignment: FASTA, A3M or Stockholm")
    for name, row in found:
        strange = set(row) - _KNOWN
        if strange:
            raise InputError(f"{path}, {name}: {min(strange)!r} is no residue; mend the row or leave it out")
        if len(row) != len(found[0][1]) or not row:
            raise InputError(f"{path}, {name}: {len(row)} columns where the first row has {len(found[0][1])}; give aligned sequences")
    return Alignment(tuple(name for name, _ in found), tuple(row.upper().replace(".", "-") for _, row in found))


def read_contacts(path: Path, width: int, distance: float = CONTACT_DISTANCE) -> ColumnContacts:
    """Read true contacts: tab-separated i, j (1-based columns) and their distance in angstrom, no header, plain or gzip.

    Args:
        path: the file.
        width: columns of the alignment.
        distance: pairs of the file at this distance or farther, in angstrom, are no contacts.

    Raises:
        InputError: no such file, a line that is not such a pair (names the line), or no contact that can be scored.
    """
    contacts, number = np.zeros((width, width), dtype=bool), 0
    for number, line in _lines(path):
        fields = line.split("\t")
        try:
            i, j, apart = int(fields[0]) - 1, int(fields[1]) - 1, float(fields[2])
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: {line!r} is not 'i, j, distance', tab-separated; mend the line") from None
        if not (0 <= i < width and 0 <= j < width):
            raise InputError(f"{path}, line {number}: columns {i + 1} and {j + 1} of an alignment with {width}; give its own contacts")
        contacts[i, j] = contacts[j, i] = apart < distance
    column = np.arange(width)
    scored = np.abs(column[:, None] - column) >= LEAST_SEPARATION
    if not (contacts & scored).any():
        what = (
            f"no contact below {distance:g} angstrom and {LEAST_SEPARATION} or more columns apart among its pairs"
            if number
            else "no pairs in it"
        )
        raise InputError(f"{path}: {what}, so no map can be scored; give the contacts of this alignment")
    return ColumnContacts(contacts & scored, scored)


def average_over_columns(maps: Iterable[NDArray[np.floating]], columns: Sequence[NDArray[np.int64]], width: int) -> NDArray[np.float64]:
    """Return the mean [C, C] over sequences of their maps [L, L], each entry at the columns of its residues.

    A pair of columns counts the sequences that have residues in both; where none has, the mean is NaN. NaN entries do not count.

    Args:
        maps: one map a sequence.
        columns: the columns [L] of each sequence's residues, 0-based and increasing; ``np.arange(L)`` where nothing is aligned.
        width: columns of the alignment.
    """
    total, count = np.zeros((width, width)), np.zeros((width, width), dtype=np.int64)
    for scores, places in zip(maps, columns, strict=True):
        known = np.isfinite(scores)
        where = np.ix_(places, places)
        total[where] += np.where(known, scores, 0.0)
        count[where] += known
    return np.divide(total, count, out=np.full((width, width), np.nan), where=count > 0)


def _read_fasta(path: Path, lines: Iterable[tuple[int, str]]) -> list[tuple[str, str]]:
    """Return ids and rows as they are; lines that begin with ``#`` before the first header, as A3M may have, are comments."""
    ids: list[str] = []
    parts: list[list[str]] = []
    for number, line in lines:
        if line.startswith(">"):
            ids.append(line[1:].split(maxsplit=1)[0] if line[1:].strip() else f"row {len(ids) + 1}")
            parts.append([])
        elif ids:
            parts[-1].append(line)
        elif not line.startswith("#"):
            raise InputError(f"{path}, line {number}: text before the first '>' header; give an alignment: FASTA, A3M or Stockholm")
    return [(name, "".join(row)) for name, row in zip(ids, parts, strict=True)]


def _read_stockholm(path: Path, lines: Iterator[tuple[int, str]]) -> list[tuple[str, str]]:
    """Return ids and rows as they are, those of a wrapped file put together; its annotation (``#=GF``, ``#=GC``, ...) is left out."""
    parts: dict[str, list[str]] = {}
    for number, line in lines:
        if line == "//":
            break
        if not line.startswith("#"):
            try:
                name, row = line.split()
            except ValueError:
                raise InputError(f"{path}, line {number}: {line[:40]!r} is not a name and its row; mend the line") from None
            parts.setdefault(name, []).append(row)
    else:
        raise InputError(f"{path}: no '//' at its end, so it is not whole; fetch it again")
    more = next(lines, None)
    if more:
        raise InputError(f"{path}, line {more[0]}: another alignment after '//'; give each family a file of its own")
    return [(name, "".join(row)) for name, row in parts.items()]


def _is_a3m(path: Path, rows: Sequence[tuple[str, str]]) -> bool:
    if unpacked_name(path).endswith((".a3m", ".a2m")):
        return True
    return len({len(row) for _, row in rows}) > 1 and len({len(row.translate(_NO_INSERTIONS)) for _, row in rows}) == 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, plain or gzip, that are not empty, with their numbers from 1; comments need not be ASCII."""
    utf8: dict[str, str] = {"encoding": "utf-8", "errors": "replace"}
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", **utf8) if compressed else path.open(**utf8) as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a file that can be read") from None
    except (EOFError, ZlibError):
        raise InputError(f"{path}: not plain text, or a damaged gzip file; fetch it again") from None
