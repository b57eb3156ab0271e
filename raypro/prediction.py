"""``raypro predict``: what a fine-tuned model predicts for any number of new sequences, in their order and in bounded memory."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from raypro import tracking
from raypro.config import InputError, nearest
from raypro.core import checkpoint
from raypro.core.batch import LabelledBatch
from raypro.core.distributed import best_device
from raypro.data.plan import CONTROL_TOKENS, cut_by_budget, pack, tokenise
from raypro.data.readers import pieces_of, read_piece
from raypro.data.records import REJECTS, Limits, binary_buffers, clean
from raypro.data.table_writer import TableWriter, require_place
from raypro.encoder import most_residues
from raypro.encoder_import import resolve_encoder
from raypro.experiment import experiment_of
from raypro.finetuning import FineTuned, forward
from raypro.home import RUN_FILE, home, run_folder

WINDOW_SEQUENCES, WINDOW_RESIDUES = 4096, 1 << 20
"""What is sorted by length, predicted and written together: the memory needed does not depend on the number of sequences."""

NUCLEOTIDES = b"ACGTUN"
DNA_SHARE = 0.9
"""Share of nucleotide letters from which a file is taken for DNA or RNA; of proteins' residues they are about a quarter."""

REGISTERED = "models:/"


@dataclass
class Survey:
    """What a first reading of the input found."""

    sequences: int = 0
    """Sequences that will be predicted."""
    letters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """[256] how often each letter (ASCII) occurs in them."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Records left out, by cause."""

    @property
    def residues(self) -> int:
        """Residues of the sequences."""
        return int(self.letters.sum())


def predict_command(
    sequences: tyro.conf.Positional[Path],
    /,
    model: str,
    out: Path,
    sequence_column: str = "sequence",
    token_budget: int = 16_384,
    max_length: int | None = None,
    overwrite: bool = False,
) -> None:
    """Predict for unlabelled sequences by a fine-tuned model: one row a sequence, in the input's order; on a GPU where there is one.

    Records that are no proteins are left out, counted, and listed in OUT.rejects.tsv.

    Args:
        sequences: FASTA, CSV or TSV (plain or gzip), Parquet, TAPE's JSON or LMDB.
        model: a fine-tuned checkpoint (a folder step_...), the name of a run, whose best checkpoint is taken, or models:/NAME/VERSION.
        out: the table to make: .parquet, .csv or .tsv, the latter two also .gz.
        sequence_column: where the sequences of a table are.
        token_budget: most tokens that go through the model at once; changes speed and memory, not the predictions.
        max_length: longest sequence in residues; a longer one is left out; any where missing.
        overwrite: replace OUT if it is there already.
    """
    if token_budget < 1 or (max_length is not None and max_length < 1):
        raise InputError("token_budget and max_length: must be 1 or more")
    sequences, out = sequences.expanduser(), out.expanduser()
    require_place(out, overwrite)
    if out.exists() and sequences.exists() and out.samefile(sequences):
        raise InputError(f"{out}: that is the file of sequences; give another name")
    device = best_device()
    loaded = FineTuned.load(find_checkpoint(model), device)
    console, rejects = Console(), out.with_name(f"{out.name}.rejects.tsv")
    limits = most_residues(loaded.experiment.encoder).at_most(max_length)
    survey = read_through(sequences, sequence_column, limits, rejects)
    begin = time.perf_counter()
    predict_file(loaded, device, sequences, sequence_column, limits, survey, out, token_budget)
    seconds = time.perf_counter() - begin
    speed = f"{seconds:.1f} s on {name_of(device)}, {survey.sequences / seconds:,.0f} a second"
    console.print(
        f"{survey.sequences:,} sequence{'s' * (survey.sequences > 1)} predicted in {speed}: {out}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if survey.rejected:
        console.print(f"{causes_of(survey)}; each is listed in {rejects}", soft_wrap=True, highlight=False, markup=False)


def find_checkpoint(model: str) -> Path:
    """Return the checkpoint's folder that ``model`` means: itself, the best of a run (by name or folder), one fetched from MLflow or made
    of a model of Hugging Face.

    Raises:
        InputError: it means none, or the run has none yet.
    """
    if model.startswith(REGISTERED):
        fetched: Path = tracking.fetch_model(model)
        return fetched
    folder = resolve_encoder(model)
    if folder.is_dir() and not (folder / RUN_FILE).is_file():
        return folder
    run = folder if folder.is_dir() else run_folder(model)
    if not (run / RUN_FILE).is_file():
        names = sorted(path.parent.name for path in (home() / "runs").glob(f"*/{RUN_FILE}"))
        hint = nearest(model, names) if names else f"; there are no runs in {home()}"
        raise InputError(f"{model}: neither a checkpoint's folder nor a run{hint}")
    found = [checkpoint.load(path) for path in sorted(run.glob("step_*"))]
    if not found:
        raise InputError(f"{model}: the run has no checkpoint yet; train it first")
    name, order = experiment_of(found[0].experiment).selected_by
    choose, worst = (min, math.inf) if order == "min" else (max, -math.inf)  # what an older raypro saved may lack the metric
    return choose(found, key=lambda c: c.metrics.get(name, worst)).path


def read_sequences(path: Path, sequence_column: str, limits: Limits) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the sequences of a file (:data:`raypro.data.records.RECORDS`), and what is none (``REJECTS``, with lines of the file)."""
    for piece in pieces_of(path, sequence_column, piece_bytes=1 << 62):  # one piece, however large
        for records, strays, _ in read_piece(piece, sequence_column):
            accepted, rejected = clean(records, limits)
            yield accepted, pa.concat_tables([strays, rejected]).sort_by("line")


def read_through(path: Path, sequence_column: str, limits: Limits, rejects: Path) -> Survey:
    """Read a file once, so that what is wrong with it is known before hours of work; list what is left out in the file ``rejects``.

    Raises:
        InputError: it cannot be read, holds no protein, or looks like DNA.
    """
    survey = Survey()
    with ExitStack() as stack:
        writer = None
        for accepted, rejected in read_sequences(path, sequence_column, limits):
            survey.sequences += accepted.num_rows
            for chunk in accepted["sequence"].chunks:
                survey.letters += np.bincount(binary_buffers(chunk)[1], minlength=256)
            survey.rejected.update(rejected["cause"].to_pylist())
            if rejected.num_rows:
                writer = writer or stack.enter_context(TableWriter(rejects, REJECTS))
                writer.write(rejected.to_pydict())
        if not survey.sequences:
            raise InputError(f"{path}: no protein sequence in it ({causes_of(survey) if survey.rejected else 'no record at all'})")
        _require_protein(path, survey)
    if not survey.rejected:
        rejects.unlink(missing_ok=True)  # of a table that is replaced
    return survey


def predict_file(
    model: FineTuned, device: torch.device, path: Path, sequence_column: str, limits: Limits, survey: Survey, out: Path, token_budget: int
) -> None:
    """Predict for every sequence of a file into the table ``out``, with a progress bar of residues."""
    columns = (
        TextColumn("predicting"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} sequences"),
        TimeRemainingColumn(),
    )
    with TableWriter(out, schema_of(model, device)) as writer, Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=survey.residues, rows=0)
        rows = 0
        for accepted, _ in read_sequences(path, sequence_column, limits):
            for window in windows(accepted, WINDOW_SEQUENCES, WINDOW_RESIDUES):
                tokens, starts = tokenise(window["sequence"])
                lengths = np.diff(starts, append=len(tokens))
                try:
                    predicted = predict_window(model, device, tokens, lengths, token_budget)
                except torch.OutOfMemoryError:
                    sizes = f"{token_budget} tokens at a time (the longest sequence here has {lengths.max()} residues)"
                    advice = "give a smaller --token-budget, or leave long sequences out by --max-length"
                    raise InputError(f"{path}: not enough memory on {name_of(device)} for {sizes}; {advice}") from None
                writer.write({"id": window["id"].to_pylist(), **predicted})
                rows += window.num_rows
                progress.update(bar, advance=len(tokens), rows=rows)


def windows(records: pa.Table, sequences: int, residues: int) -> Iterator[pa.Table]:
    """Cut records, in order, into parts of about so many ``sequences`` and ``residues`` at most."""
    if not records.num_rows:
        return
    _, starts = tokenise(records["sequence"])
    number = starts // residues + np.arange(records.num_rows) // sequences
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), records.num_rows]
    for begin, end in zip(cuts, cuts[1:], strict=False):
        yield records.slice(begin, end - begin)


def predict_window(
    model: FineTuned, device: torch.device, tokens: NDArray[np.uint8], lengths: NDArray[np.int64], token_budget: int
) -> dict[str, list[Any]]:
    """Return the task's columns for some sequences, in their order.

    Args:
        model: the model, its weights on ``device``.
        device: where it runs.
        tokens: [R] residues of the sequences, one behind the other, without control tokens.
        lengths: [n] residues of each.
        token_budget: most tokens of a batch; sequences of similar lengths go together.
    """
    task, bf16 = model.experiment.task, model.experiment.precision == "bf16"
    starts, widths = np.cumsum(lengths) - lengths, lengths + CONTROL_TOKENS
    order = np.argsort(widths, kind="stable")
    batches = ((rows, _batch(tokens, starts[rows], lengths[rows])) for rows in cut_by_budget(order, widths[order], token_budget))
    done: list[int] = []
    columns: dict[str, list[Any]] = {}
    for rows, prepared, outputs in forward(task, model.model, batches, device, bf16):
        # Columns are made batch by batch: a window of contact maps would not fit into memory.
        for name, values in task.columns(task.predictions(outputs, prepared), None).items():
            columns.setdefault(name, []).extend(values)
        done += rows.tolist()
    back = np.argsort(done).tolist()
    return {name: [values[place] for place in back] for name, values in columns.items()}


def schema_of(model: FineTuned, device: torch.device) -> pa.Schema:
    """Return the id and the task's columns with their types, found by predicting for one made-up protein."""
    tokens, starts = tokenise(pa.chunked_array([["ACDEFGHIKLMNPQRSTVWY"]]))
    example = predict_window(model, device, tokens, np.diff(starts, append=len(tokens)), token_budget=len(tokens) + CONTROL_TOKENS)
    return pa.schema([("id", pa.string()), *((name, pa.array(values).type) for name, values in example.items())])


def _batch(tokens: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> LabelledBatch:
    """Return sequences [B] as a batch without labels."""
    nothing = torch.zeros(len(starts), dtype=torch.int64)  # keys and rows: nothing is random, and there is no corpus
    return LabelledBatch(torch.from_numpy(pack(tokens, starts, lengths).astype(np.int64)), nothing, nothing, ())


def _require_protein(path: Path, survey: Survey) -> None:
    counts = survey.letters[list(NUCLEOTIDES)]
    all_four = counts[:3].all() and counts[3:5].any()  # a peptide of alanines alone is none
    if all_four and counts.sum() > DNA_SHARE * survey.residues:
        share = 100 * counts.sum() // survey.residues
        raise InputError(f"{path}: DNA or RNA? {share} % of its letters are A, C, G, T, U or N; translate it: proteins are expected")


def causes_of(survey: Survey) -> str:
    """Return in words how many records were left out, and why."""
    parts = ", ".join(f"{count:,} {cause}" for cause, count in survey.rejected.most_common())
    return f"{survey.rejected.total():,} left out: {parts}"


def name_of(device: torch.device) -> str:
    """Return what a person calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU with {torch.get_num_threads()} thread(s)"
