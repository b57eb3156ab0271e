"""The list of what a build left out, beside the corpus: each record with its source, where it stands there, and the cause."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from raypro.config import InputError, first_line
from raypro.data.corpus import Corpus
from raypro.data.gather import Gathered
from raypro.data.readers import Piece
from raypro.data.records import DUPLICATE
from raypro.data.scatter import Scattered

REJECTS_FILE = "rejects.tsv"
COLUMNS = pa.schema([("source", pa.string()), ("line", pa.int64()), ("row", pa.int64()), ("id", pa.string()), ("cause", pa.string())])
"""``line`` counts from 1 in FASTA, CSV and TSV; ``row`` counts the rows of Parquet and the records of TAPE's files, which have no lines."""


def write_rejects(
    path: Path, given: dict[Path, str], pieces: Sequence[Piece], scattered: Sequence[Scattered], gathered: Sequence[Gathered]
) -> None:
    """Write the list, tables one at a time.

    Args:
        path: the file to make.
        given: each input, and how a person named it.
        pieces: all pieces of the inputs, in order.
        scattered: what became of each of them.
        gathered: what became of the shards.
    """
    before: list[int] = []  # lines of the same file before each piece
    for number, piece in enumerate(pieces):
        continued = number > 0 and pieces[number - 1].path == piece.path
        before.append(before[-1] + scattered[number - 1].lines if continued else 0)
    names, has_lines = pa.array([given[piece.path] for piece in pieces]), pa.array([piece.has_lines for piece in pieces])

    def listed(batch: pa.RecordBatch, numbers: pa.Array, causes: pa.Array) -> pa.RecordBatch:
        place = pc.add(batch["line"], pa.array(before, pa.int64()).take(numbers))
        nothing, is_line = pa.scalar(None, pa.int64()), has_lines.take(numbers)
        line, row = pc.if_else(is_line, place, nothing), pc.if_else(is_line, nothing, place)
        return pa.record_batch([names.take(numbers), line, row, batch["id"], causes], schema=COLUMNS)

    options = pa.csv.WriteOptions(delimiter="\t", quoting_style="needed")
    with pa.csv.CSVWriter(str(path), COLUMNS, write_options=options) as writer:
        for number, result in enumerate(scattered):
            for batch in _batches(result.rejects):
                writer.write_batch(listed(batch, pa.array(np.full(batch.num_rows, number)), batch["cause"]))
        for batch in _batches([shard.duplicates_file for shard in gathered]):
            writer.write_batch(listed(batch, batch["piece"], pa.array([DUPLICATE] * batch.num_rows, pa.string())))


def check_rejects(corpus: Corpus) -> None:
    """Verify that as many records are listed, by cause, as the corpus' manifest says.

    Raises:
        InputError: they are not, or the list is missing.
    """
    path, counted = corpus.path / REJECTS_FILE, Counter[str]()
    if path.exists():
        parse = pa.csv.ParseOptions(delimiter="\t", newlines_in_values=True)
        convert = pa.csv.ConvertOptions(include_columns=["cause"], column_types={"cause": pa.string()})
        try:
            for batch in pa.csv.open_csv(path, parse_options=parse, convert_options=convert):
                causes = batch["cause"].value_counts()
                counted.update(dict(zip(causes.field("values").to_pylist(), causes.field("counts").to_pylist(), strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: cannot be read ({first_line(error)}); build the corpus again") from None
    elif corpus.manifest.rejected != "{}":
        raise InputError(f"{path}: missing; build the corpus again")
    corpus.require_said("rejected", dict(counted))


def _batches(streams: list[Path]) -> Iterator[pa.RecordBatch]:
    for file in streams:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as batches:
            yield from batches
