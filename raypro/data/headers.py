"""FASTA headers of Pfam-A and UniRef, anything else, and the table of Pfam's clans.

* Pfam-A: ``A0A0V1MAN1_9BILA/990-1042 A0A0V1MAN1.1 PF00014.1;Kunitz_BPTI;`` gives the id and the family PF00014 (without its version).
* UniRef: ``UniRef50_A0A5A9P0L4 peptide chain n=1 Tax=Triplophysa tibetana TaxID=1572043 RepID=...`` gives the id and the taxon 1572043.
* Anything else gives the id: all up to the first white space.
"""

import csv
import io
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.data.file_kinds import open_bytes
from raypro.data.records import binary_buffers, spans, to_text

_FAMILY_WIDTH = 7  # PF and five digits


def parse_headers(headers: pa.BinaryArray) -> tuple[pa.StringArray, pa.StringArray, pa.StringArray]:
    """Return id, family and taxon (null where there is none) of each header, given without its ``>``."""
    offsets, text = binary_buffers(headers)
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    blanks = np.flatnonzero((text == ord(" ")) | (text == ord("\t")))
    id_ends = _next(blanks, starts, ends)
    ids = to_text(spans(text, starts, id_ends))
    return ids, _families(text, starts, ends, blanks), _taxa(text, starts, ends, blanks)


def read_clans(path: Path) -> pa.Table:
    """Read ``Pfam-A.clans.tsv``, plain or gzip: family, clan, ... in tab-separated columns; a family without a clan has it empty.

    Returns:
        Columns family and clan, one row for each family that is in a clan.

    Raises:
        InputError: no such file, or a file of another form.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; --clans takes Pfam-A.clans.tsv or Pfam-A.clans.tsv.gz")
    clans: dict[str, str] = {}
    try:
        with io.TextIOWrapper(open_bytes(path), "utf-8", "replace", newline="") as file:
            for line, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                if len(row) < 2 or not row[0].startswith("PF"):
                    raise InputError(f"{path}: line {line}: expected a family PFxxxxx, a tab and its clan; is this Pfam-A.clans.tsv?")
                if row[1] not in ("", "\\N"):
                    clans[row[0].split(".")[0]] = row[1].split(".")[0]
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); get it again from Pfam's FTP site") from None
    if not clans:
        raise InputError(f"{path}: no family with a clan in it; is this Pfam-A.clans.tsv?")
    return pa.table({"family": pa.array(list(clans), pa.string()), "clan": pa.array(list(clans.values()), pa.string())})


def with_clans(records: pa.Table, clans: pa.Table) -> pa.Table:
    """Return ``records`` with the clan of each family of the table ``clans``; a clan that a record has already stays."""
    known = clans["clan"].combine_chunks().take(pc.index_in(records["family"].combine_chunks(), clans["family"].combine_chunks()))
    return records.set_column(records.schema.get_field_index("clan"), "clan", pc.coalesce(records["clan"].combine_chunks(), known))


def _next(marks: NDArray[np.intp], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each span the first of the sorted ``marks`` in it, its end where there is none."""
    following = np.append(marks, np.iinfo(np.int64).max)[np.searchsorted(marks, starts)]
    return np.minimum(following, ends)


def _families(text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], blanks: NDArray[np.intp]) -> pa.StringArray:
    """Pfam's accession after the last blank of a header that ends with a semicolon."""
    rows = np.flatnonzero((ends - starts > _FAMILY_WIDTH + 2) & (text[ends - 1] == ord(";"))) if len(text) else np.empty(0, np.int64)
    if not len(rows):
        return pa.nulls(len(starts), pa.string())
    before = np.searchsorted(blanks, ends[rows]) - 1
    rows, before = rows[before >= 0], before[before >= 0]
    at = blanks[before] + 1
    fits = (at > starts[rows]) & (at + _FAMILY_WIDTH < ends[rows])
    rows, at = rows[fits], at[fits]
    letters = text[at[:, None] + np.arange(_FAMILY_WIDTH + 1)]
    digits = (letters[:, 2:_FAMILY_WIDTH] - ord("0") < 10).all(1)
    after = (letters[:, _FAMILY_WIDTH] == ord(".")) | (letters[:, _FAMILY_WIDTH] == ord(";"))
    pfam = (letters[:, 0] == ord("P")) & (letters[:, 1] == ord("F")) & digits & after
    return _at_rows(len(starts), rows[pfam], spans(text, at[pfam], at[pfam] + _FAMILY_WIDTH))


def _taxa(text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], blanks: NDArray[np.intp]) -> pa.StringArray:
    """The TaxID of headers that begin with UniRef."""
    name, key = np.frombuffer(b"UniRef", np.uint8), b" TaxID="
    rows = np.flatnonzero(ends - starts > len(name) + len(key))
    rows = rows[text[starts[rows]] == name[0]]  # most files have no UniRef header: one letter tells
    rows = rows[(text[starts[rows, None] + np.arange(len(name))] == name).all(1)]
    if not len(rows):
        return pa.nulls(len(starts), pa.string())
    found = pc.find_substring(spans(text, starts[rows], ends[rows]), key).to_numpy()
    rows, at = rows[found >= 0], starts[rows[found >= 0]] + found[found >= 0] + len(key)
    return _at_rows(len(starts), rows, spans(text, at, _next(blanks, at, ends[rows])))


def _at_rows(n: int, rows: NDArray[np.intp], values: pa.BinaryArray) -> pa.StringArray:
    """Return ``values`` at ``rows`` of an array of length ``n``, null elsewhere."""
    index = np.full(n, -1, np.int64)
    index[rows] = np.arange(len(rows))
    return to_text(values).take(pa.array(index, mask=index < 0))
