"""``raypro embed``: an encoder's vectors of any number of sequences, by a pipeline of Ray Data, in bounded memory.

    reader (one task)  ->  embedders (an actor a GPU, else a CPU)  ->  progress

The input is cut, in its order, into shards. An embedder writes each as a file of its own into the folder OUT.parts and passes on no
more than a note of it; at the end the parts are joined to OUT. What was interrupted and is started again finds the finished parts.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
import tyro
from ray.data import ActorPoolStrategy
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from raypro.cluster.session import ray_session
from raypro.config import InputError, to_plain
from raypro.core.checkpoint import MODEL_FILES
from raypro.core.distributed import best_device
from raypro.core.size import parameters
from raypro.data.corpus import sha256_of
from raypro.data.plan import tokenise
from raypro.data.records import Limits
from raypro.data.table_writer import require_place
from raypro.data.vector_files import VECTOR_ENDINGS, join_parts, require_library, write_part
from raypro.encoder import TOKEN_BUDGET, LoadedEncoder, load_encoder
from raypro.prediction import Survey, causes_of, find_checkpoint, name_of, read_sequences, read_through, windows

SHARD_SEQUENCES, SHARD_RESIDUES = 4096, 1 << 18
"""About the most of either in a shard: enough to sort by length, few enough that little is lost and all embedders end together."""
SHARD_BYTES = 1 << 28
"""About the most bytes of vectors in a shard: an embedder holds them in memory."""
RAY_FROM_WORK = 5 * 10**11
"""Multiplications from which a Ray of one's own is worth the seconds that it takes to start: some ten seconds of one core."""
ABOUT = "about.json"


@dataclass(frozen=True)
class EmbeddingJob:
    """What readers and embedders, in whatever process, must know."""

    sequences: Path
    """The file of sequences."""
    encoder: Path
    """The checkpoint."""
    parts: Path
    """Folder of the parts."""
    sequence_column: str
    """Where the sequences of a table are."""
    limits: Limits
    """Which sequences are embedded."""
    pooling: str | None
    """How a sequence's vectors become one; None: one vector a residue."""
    token_budget: int
    """Most tokens that go through the encoder at once."""
    shard_sequences: int
    """About the most sequences of a shard."""
    shard_residues: int
    """About the most residues of a shard."""

    def part(self, shard: int) -> Path:
        """Return the file of a shard's vectors."""
        return self.parts / f"{shard:08d}.arrow"

    def shards(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield number and records of every shard."""
        shard = 0
        for accepted, _ in read_sequences(self.sequences, self.sequence_column, self.limits):
            for window in windows(accepted, self.shard_sequences, self.shard_residues):
                yield shard, window.select(["id", "sequence"])
                shard += 1

    def embed(self, encoder: LoadedEncoder, shard: int, records: pa.Table) -> tuple[int, int]:
        """Write a shard's part, unless it is there; return how many sequences and residues it has."""
        tokens, starts = tokenise(records["sequence"])
        lengths = np.diff(starts, append=len(tokens))
        if self.part(shard).exists():
            return len(lengths), len(tokens)
        try:
            if self.pooling is None:
                vectors = encoder.per_residue(tokens, lengths, self.token_budget)
            else:
                vectors = encoder.pooled(tokens, lengths, self.pooling, self.token_budget)
        except torch.OutOfMemoryError:
            sizes = f"{self.token_budget} tokens at a time (the longest sequence here has {lengths.max()} residues)"
            advice = "give a smaller --token-budget, or leave long sequences out by --max-length; finished parts are kept"
            raise InputError(f"{self.sequences}: not enough memory on {name_of(encoder.device)} for {sizes}; {advice}") from None
        write_part(self.part(shard), records["id"], vectors, lengths if self.pooling is None else None)
        return len(lengths), len(tokens)


def embed_command(
    sequences: tyro.conf.Positional[Path],
    /,
    encoder: str,
    out: Path,
    pooling: str | None = None,
    per_residue: bool = False,
    sequence_column: str = "sequence",
    token_budget: int = TOKEN_BUDGET,
    max_length: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Embed sequences by a pre-trained encoder: one vector a sequence or a residue, in the input's order; on GPUs where there are any.

    Records that are no proteins, or too short for the encoder, are left out, counted, and listed in OUT.rejects.tsv. What was
    interrupted goes on where it stopped when the same command is given again; the disk has to hold the vectors twice. On several nodes,
    all files lie on storage that all of them see.

    Args:
        sequences: FASTA, CSV or TSV (plain or gzip), Parquet, TAPE's JSON or LMDB.
        encoder: a checkpoint (a folder step_...), the name of a run, whose best checkpoint is taken, models:/NAME/VERSION,
            or hf:FOLDER_OR_NAME of Hugging Face.
        out: the file to make: .parquet, .npz or .h5.
        pooling: how a sequence's vectors become one: mean, first_token, max; of CPCProt z_mean, c_mean, c_final.
        per_residue: one vector a residue instead.
        sequence_column: where the sequences of a table are.
        token_budget: most tokens that go through the encoder at once; changes speed and memory, not the vectors.
        max_length: longest sequence in residues; a longer one is left out; any where missing.
        workers: processes that embed; 0: this one alone, without Ray; where missing, one a GPU, else one a CPU.
        overwrite: replace OUT, and parts of other vectors, if they are there already.
    """
    if token_budget < 1 or (max_length is not None and max_length < 1) or (workers is not None and workers < 0):
        raise InputError("token_budget and max_length: must be 1 or more, workers not negative")
    if per_residue and pooling:
        raise InputError(f"pooling: {pooling} is for one vector a sequence; leave --pooling or --per-residue out")
    sequences, out = sequences.expanduser().absolute(), out.expanduser().absolute()
    require_place(out, overwrite, VECTOR_ENDINGS)
    require_library(out)
    if out.exists() and sequences.exists() and out.samefile(sequences):
        raise InputError(f"{out}: that is the file of sequences; give another name")
    checkpoint = find_checkpoint(encoder).absolute()
    loaded = load_encoder(checkpoint)
    limits, rejects = loaded.limits.at_most(max_length), out.with_name(f"{out.name}.rejects.tsv")
    survey = read_through(sequences, sequence_column, limits, rejects)
    job = EmbeddingJob(
        sequences=sequences,
        encoder=checkpoint,
        parts=out.with_name(f"{out.name}.parts"),
        sequence_column=sequence_column,
        limits=limits,
        pooling=None if per_residue else loaded.pooling_or_default(pooling),
        token_budget=token_budget,
        shard_sequences=SHARD_SEQUENCES,
        shard_residues=max(1, min(SHARD_RESIDUES, SHARD_BYTES // (4 * loaded.width) if per_residue else SHARD_RESIDUES)),
    )
    begin = time.perf_counter()
    prepare_parts(job, loaded, overwrite)
    embed_all(job, loaded, survey, workers)
    finish(job, out)
    what = "one vector a residue" if per_residue else job.pooling
    seconds = time.perf_counter() - begin
    said = [f"{survey.sequences:,} sequence{'s' * (survey.sequences > 1)} embedded ({what}, D = {loaded.width}) in {seconds:.1f} s: {out}"]
    if survey.rejected:
        said.append(f"{causes_of(survey)}; each is listed in {rejects}")
    Console().print("\n".join(said), soft_wrap=True, highlight=False, markup=False)


def prepare_parts(job: EmbeddingJob, encoder: LoadedEncoder, overwrite: bool) -> None:
    """Make the folder of the parts, or find the one of an interrupted run.

    Raises:
        InputError: it holds parts of other vectors and is not to be replaced, or is something else.
    """
    source = job.sequences / "data.mdb" if job.sequences.is_dir() else job.sequences
    about = {
        "sequences": sha256_of(source),
        "encoder": [to_plain(encoder.shape), sha256_of(job.encoder / MODEL_FILES[0])],
        # The token budget is not among them: who ran out of memory goes on with a smaller one.
        "options": [job.pooling, job.sequence_column, to_plain(job.limits), job.shard_sequences, job.shard_residues],
    }
    if (job.parts / ABOUT).is_file():
        known = json.loads((job.parts / ABOUT).read_text())
        if known == about:
            return
        if not overwrite:
            other = " and ".join(name for name in about if known[name] != about[name])
            raise InputError(f"{job.parts}: parts of a run with other {other}; repeat that one, or begin anew with --overwrite")
        shutil.rmtree(job.parts)
    try:
        # Made whole under another name: a folder of this name without the note is not ours to fill or to remove.
        temporary = job.parts.with_name(f".{job.parts.name}.{os.getpid()}")
        temporary.mkdir()
        (temporary / ABOUT).write_text(json.dumps(about))
        os.rename(temporary, job.parts)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"{job.parts}: cannot be made ({error.strerror}); give another --out") from None


def embed_all(job: EmbeddingJob, encoder: LoadedEncoder, survey: Survey, workers: int | None) -> None:
    """Make every part that is missing, with a progress bar of residues."""
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} sequences"),
        TimeRemainingColumn(),
    )
    connected = ray.is_initialized() or "RAY_ADDRESS" in os.environ
    with_ray = bool(workers) or (workers is None and (connected or work(job, encoder, survey) >= RAY_FROM_WORK))
    with ray_session() if with_ray else nullcontext(), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=survey.residues, rows=0)
        rows = 0
        for done, residues in on_ray(job, workers) if with_ray else here(job, encoder):
            rows += done
            progress.update(bar, advance=residues, rows=rows)


def work(job: EmbeddingJob, encoder: LoadedEncoder, survey: Survey) -> int:
    """Return about how many multiplications it takes: every weight meets every residue once, or every patch."""
    return survey.residues * parameters(encoder.module) // (encoder.limits.min_length if job.pooling else 1)


def here(job: EmbeddingJob, encoder: LoadedEncoder) -> Iterator[tuple[int, int]]:
    """Make the parts in this process; yield how many sequences and residues each has."""
    device = best_device()
    encoder = replace(encoder, module=encoder.module.to(device), device=device)
    for shard, records in job.shards():
        yield job.embed(encoder, shard, records)


def on_ray(job: EmbeddingJob, workers: int | None) -> Iterator[tuple[int, int]]:
    """Make the parts by embedders of Ray, which is connected; yield how many sequences and residues each has."""
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    count = workers or gpus or max(1, int(there.get("CPU", 1)))
    needs = {"num_gpus": min(1.0, gpus / count)} if gpus else {"num_cpus": min(1.0, there.get("CPU", 1.0) / count)}
    dataset = (
        ray.data.from_items([{"job": 0}])
        # No CPU is asked for: the embedders hold them all, and a reader that waited for one would wait for ever.
        .map_batches(read_shards, batch_size=1, batch_format="pyarrow", fn_args=(job,), num_cpus=0)
        .map_batches(
            Embedder,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(size=count),
            **needs,
        )
    )
    dataset.context.target_max_block_size = 1  # a block a shard: else many shards would wait for each other and go to one embedder
    dataset.context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for note in dataset.iter_rows():
        if note["error"]:
            raise InputError(note["error"])
        yield note["sequences"], note["residues"]


def read_shards(_: pa.Table, job: EmbeddingJob) -> Iterator[pa.Table]:
    """Yield every shard as one row: its number, and its records as a stream of Arrow."""
    for shard, records in job.shards():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, records.schema) as writer:
            writer.write_table(records)
        yield pa.table({"shard": [shard], "records": pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})


class Embedder:
    """An actor that embeds shards, one after the other."""

    def __init__(self, job: EmbeddingJob) -> None:
        self.job = job
        self.encoder = load_encoder(job.encoder, best_device())

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Return a note of the one shard, whose part is written; what a person can mend is noted too, for Ray would bury it in traces."""
        sequences, residues, error = 0, 0, ""
        try:
            records = pa.ipc.open_stream(shards["records"][0].as_py()).read_all()
            sequences, residues = self.job.embed(self.encoder, shards["shard"][0].as_py(), records)
        except InputError as found:
            error = str(found)
        return pa.table({"sequences": [sequences], "residues": [residues], "error": [error]})


def finish(job: EmbeddingJob, out: Path) -> None:
    """Join the parts to ``out`` and remove them."""
    join_parts(sorted(job.parts.glob("*.arrow")), job.parts / f"joined{out.suffix}", out)
    shutil.rmtree(job.parts)
