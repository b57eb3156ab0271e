"""FASTA, plain or gzip: whole blocks of lines at a time, a plain file at byte ranges so that it can be read in parallel.

Lines that begin with ``;``, ``#`` or ``!`` are comments wherever they stand. Line ends may be LF or CRLF.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from raypro.config import InputError
from raypro.data.file_kinds import is_gzip, open_bytes
from raypro.data.headers import parse_headers
from raypro.data.records import RECORDS, binary_buffers, spans

BLOCK_BYTES = 4 << 20
"""How much of a file is parsed at once; a record longer than that makes its block longer."""

RECORD_BYTES = 1 << 29
"""No record is longer: Arrow's strings are counted in 32 bits."""


def require_fasta(path: Path) -> None:
    """Look at the beginning of a file.

    Raises:
        InputError: it is empty, has no record, or begins with something else than FASTA.
    """
    line, text = 0, b""
    try:
        with open_bytes(path) as file:
            for line, text in enumerate(file, start=1):  # noqa: B007 - the last line is named below
                if text.strip() and text[:1] not in b";#!":
                    break
            else:
                raise InputError(f"{path}: {'no FASTA record in it' if line else 'empty'}; give a FASTA file of proteins")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None
    if not text.startswith(b">"):
        shown = text[:40].decode("ascii", "replace").rstrip()
        raise InputError(f"{path}: line {line}: expected a FASTA header that begins with '>', found {shown!r}")


def record_start(path: Path, at: int) -> int:
    """Return the position of the first header (a ``>`` at the start of a line) at or after byte ``at``, the file's size if none."""
    with path.open("rb") as file:
        position = max(at - 1, 0)
        file.seek(position)
        window = file.read(1 << 16)
        if at == 0 and window.startswith(b">"):
            return 0
        while window:
            found = window.find(b"\n>")
            if found >= 0:
                return position + found + 1
            more = file.read(1 << 16)
            if not more:
                break
            position += len(window) - 1  # the last byte may be the line end before a header
            window = window[-1:] + more
        return path.stat().st_size


def read_fasta(path: Path, start: int = 0, end: int | None = None, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[pa.Table, int]]:
    """Read the records whose headers lie in the bytes [start, end) of a file; all of it, and of a gzip, by default.

    Yields:
        Tables of records (``RECORDS``), and the number of lines in each one's block.

    Raises:
        InputError: a broken gzip.
    """
    first = 0 if start == 0 else record_start(path, start)  # what stands before the first header belongs to the first range
    last = record_start(path, end) if end is not None else None if is_gzip(path) else path.stat().st_size
    line = 0
    try:
        with open_bytes(path) as file:
            file.seek(first)
            for block in _blocks(file, None if last is None else last - first, block_bytes):
                table, lines = parse_block(block, line)
                line += lines
                yield table, lines
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the download complete?") from None


def parse_block(block: bytes | memoryview, lines_before: int = 0) -> tuple[pa.Table, int]:
    """Parse whole records.

    Args:
        block: text that begins with a header, or with lines before a file's first header, which are no records.
        lines_before: number of lines before the block.

    Returns:
        The records (``RECORDS``, sequences as they stand, lines joined) and the number of lines.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if len(text) and text[-1] != ord("\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    first = text[starts]  # of an empty line: its line end
    returns = text[ends - 1] == ord("\r")
    if returns.any():
        ends = ends - ((ends > starts) & returns)
    header = first == ord(">")
    headers = np.flatnonzero(header)
    if not len(headers):
        return RECORDS.empty_table(), len(ends)
    body = ~header & (first != ord(";")) & (first != ord("#")) & (first != ord("!"))
    body[: headers[0]] = False
    rows = np.flatnonzero(body)
    joined = spans(text, starts[rows], ends[rows])
    offsets, residues = binary_buffers(joined)
    sequence_starts = offsets[np.append(np.cumsum(body)[headers], len(rows))]
    sequences = pa.BinaryArray.from_buffers(pa.binary(), len(headers), [None, pa.py_buffer(sequence_starts), pa.py_buffer(residues)])
    ids, families, taxa = parse_headers(spans(text, starts[headers] + 1, ends[headers]))
    clans, lines = pa.nulls(len(headers), pa.string()), pa.array(headers + (lines_before + 1), pa.int64())
    return pa.table([ids, sequences, families, clans, taxa, lines], schema=RECORDS), len(ends)


def _blocks(file: BinaryIO, size: int | None, block_bytes: int) -> Iterator[memoryview]:
    """Cut ``size`` bytes (None: all) of ``file`` into blocks of whole records; each is gone when the next one is asked for.

    One buffer serves all of them: fresh memory for every block takes as long as parsing it.
    """
    buffer, filled, left = bytearray(block_bytes), 0, size
    while True:
        if filled == len(buffer):
            if filled > RECORD_BYTES:
                raise InputError(f"{file.name}: a record longer than {RECORD_BYTES >> 20} MiB; is this a FASTA file of proteins?")
            buffer = buffer + bytearray(filled)
        room = len(buffer) - filled if left is None else min(len(buffer) - filled, left)
        read = file.readinto(memoryview(buffer)[filled : filled + room])
        filled += read
        left = None if left is None else left - read
        if not read or left == 0:
            break
        cut = buffer.rfind(b"\n>", 0, filled) + 1
        if cut:
            yield memoryview(buffer)[:cut]
            buffer[: filled - cut] = buffer[cut:filled]
            filled -= cut
    if filled:
        yield memoryview(buffer)[:filled]
