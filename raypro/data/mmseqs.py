"""Near duplicates by MMseqs2 (Steinegger and Söding 2017), where it is installed: alignments instead of shared k-mers."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypro.config import InputError
from raypro.data.build import Map, here
from raypro.data.corpus import SPLITS, Corpus
from raypro.data.leakage import Targets
from raypro.data.overlap import Chunk, Found, binary_sequences, chunks_of

_MOST = 1_000_000
"""Hits of one evaluation sequence that are not cut off (MMseqs2 stops at 300 by itself)."""


@dataclass(frozen=True)
class MMseqs:
    """What a near duplicate is to MMseqs2."""

    identity: float = 0.9
    """Smallest share of identical residues in the alignment."""
    coverage: float = 0.8
    """Smallest share of the evaluation sequence that is aligned."""

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be."""
        for name in ("identity", "coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"mmseqs.{name}: {getattr(self, name)}; give a share from 0 to 1")

    def __str__(self) -> str:
        return f"MMseqs2 alignments of {self.identity:g} identity or more over {self.coverage:g} of the evaluation sequence or more"


def require_mmseqs() -> str:
    """Return the path of the program.

    Raises:
        InputError: it is not there.
    """
    path = shutil.which("mmseqs")
    if path is None:
        raise InputError("tool: mmseqs is not on the PATH; install MMseqs2, or use --tool minhash")
    return path


def near_by_mmseqs(corpus: Corpus, targets: Targets, options: MMseqs, run: Map = here) -> Iterator[Found]:
    """Yield the near duplicates of ``targets`` in a corpus, chunk by chunk; pairs of identical sequences are not among them.

    MMseqs2 wants both sides as files: the corpus is written as FASTA to a temporary folder (``$TMPDIR``).

    Raises:
        InputError: there is no mmseqs, or it fails.
    """
    program, chunks = require_mmseqs(), chunks_of(corpus)
    with tempfile.TemporaryDirectory(prefix="raypro-mmseqs-") as name:
        folder = Path(name)
        with (folder / "evaluation.fasta").open("wb") as file:
            file.writelines(b">%d\n%b\n" % (number, s) for number, s in enumerate(targets.sequences.to_pylist()))
        with (folder / "corpus.fasta").open("wb") as file:
            for text in run(lambda chunk: _fasta(corpus, chunk), chunks, "writing sequences for mmseqs"):
                file.write(text)
        _search(program, folder, options)
        hits = _read_hits(folder / "hits.tsv")
    for chunk in chunks:
        first, last = chunk.groups[0].first_row, chunk.groups[-1].first_row + chunk.groups[-1].rows
        mine = (hits["split"] == SPLITS.index(chunk.split)) & (hits["row"] >= first) & (hits["row"] < last)
        if mine.any():
            yield _found(corpus, targets, chunk, hits[mine])


def _fasta(corpus: Corpus, chunk: Chunk) -> bytes:
    """Return a chunk as FASTA; a sequence is called after its split and row, which no program takes for anything else."""
    split = SPLITS.index(chunk.split)
    sequences = corpus.read(chunk.groups, ["sequence"])["sequence"].to_pylist()
    return "".join(f">{split}_{row}\n{s}\n" for row, s in enumerate(sequences, chunk.groups[0].first_row)).encode()


def _search(program: str, folder: Path, options: MMseqs) -> None:
    command = [program, "easy-search", "evaluation.fasta", "corpus.fasta", "hits.tsv", "work"]
    command += ["--min-seq-id", f"{options.identity:g}", "-c", f"{options.coverage:g}", "--cov-mode", "2"]  # 2: of the evaluation sequence
    command += ["--max-seqs", str(_MOST), "--format-output", "query,target,fident", "-v", "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise InputError(f"{program}: ended with status {done.returncode}: {said}; see whether 'mmseqs easy-search' works")


def _read_hits(path: Path) -> np.ndarray:
    kind = np.dtype([("target", np.int64), ("split", np.int64), ("row", np.int64), ("identity", np.float64)])
    lines = (line.split("\t") for line in path.read_text().splitlines())
    return np.array([(int(query), *map(int, target.split("_")), float(identity)) for query, target, identity in lines], kind)


def _found(corpus: Corpus, targets: Targets, chunk: Chunk, hits: np.ndarray) -> Found:
    rows = pa.array(hits["row"] - chunk.groups[0].first_row)
    table = corpus.read(chunk.groups, ["id", "sequence"]).take(rows)
    same = pc.equal(binary_sequences(table["sequence"]), targets.sequences.take(pa.array(hits["target"])))
    other = ~same.to_numpy(zero_copy_only=False)
    ids = table["id"].filter(pa.array(other)).to_pylist()
    return Found(chunk.split, ids, hits["target"][other], np.zeros(other.sum(), np.bool_), hits["identity"][other])
