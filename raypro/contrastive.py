"""Contrastive accuracy as a probe (Lu et al. 2020, Figure 6): are patches ahead told apart from those of other sequences?

Batches are of one size, so that the figures of different models compare; sequences are distinct, long enough to be a sample, and
what does not fill a batch is left out. Nothing is fitted. Legend: B batches, Q quantities of the objective, K distances.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raypro.config import InputError, from_plain
from raypro.core import checkpoint
from raypro.core.batch import Batch
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.objectives.cpc import CPC
from raypro.data.corpus import MANIFEST, Corpus
from raypro.data.plan import pack, tokenise
from raypro.data.readers import pieces_of, read_piece
from raypro.data.records import Limits, clean
from raypro.encoder import LoadedEncoder
from raypro.evaluate.metrics import bootstrap
from raypro.experiment import Encoder
from raypro.probe_tasks import CONTRASTIVE, Evaluation, Finding, Metrics, Split
from raypro.representations import Encoded, random_weights

BATCH = 512
"""Sequences of a batch, as the paper validates."""
MOST_SEQUENCES = 8192
"""Sequences of a split that are looked at."""
HELD_OUT = ("valid", "test")
"""Splits of a corpus that were not trained on."""
ALL = "all"
"""What the mean over all distances is called."""
PIECE_BYTES = 1 << 26


def objective_of(path: str | Path, shape: Encoder) -> CPC:
    """Return the contrast that a checkpoint was trained by, else the paper's; padding is never a sample of it.

    Raises:
        InputError: the encoder has no patches to contrast.
    """
    if not isinstance(shape, CPCProtShape):
        kind = type(shape).__name__.removesuffix("Shape")
        raise InputError(f"--probe {CONTRASTIVE}: asks which patch comes next, {path} is a {kind} encoder; give a CPCProt checkpoint")
    plain = checkpoint.load(path).experiment.get("objective")
    if plain is None or plain["kind"] != CPC.__name__:
        return CPC(patch_length=shape.patch_length)
    return replace(from_plain(CPC, plain, f"{path}: objective"), reduction="valid")


def evaluate_contrastive(
    encoder: LoadedEncoder,
    objective: CPC,
    path: str | Path,
    baselines: bool = True,
    seed: int = 0,
    most: int = MOST_SEQUENCES,
    batch: int = BATCH,
    names: Sequence[str] = HELD_OUT,
) -> Evaluation:
    """Ask an encoder which patches come next, in batches of one size; the intervals are over batches.

    Args:
        encoder: that of a CPCProt.
        objective: its contrast.
        path: held-out sequences: a corpus, or any file of sequences.
        baselines: ask random weights of the same shape too.
        seed: of random weights, and of which sequences of a file meet in a batch.
        most: sequences of each split.
        batch: sequences of a batch; all of them where there are fewer.
        names: splits of a corpus that are taken.

    Raises:
        InputError: there are not two distinct sequences long enough.
    """
    splits, notes = {}, []
    for name, sequences in held_out(path, objective.min_length, names, seed):
        taken = list(islice(dict.fromkeys(sequences), most))
        if len(taken) < 2:
            raise InputError(
                f"{path}: {name}: {len(taken)} distinct sequences of {objective.min_length} residues or more, which a contrast needs; "
                "give others"
            )
        size = min(batch, len(taken))
        taken = taken[: len(taken) // size * size]
        notes.append(f"{name}: {len(taken) // size} batches of {size} distinct sequences of {objective.min_length} residues or more")
        splits[name] = Split([str(row) for row in range(len(taken))], taken, [])
    encoders = {"this encoder": encoder, **({"random weights": random_weights(encoder, seed)} if baselines else {})}
    weights = ("its weights as they are", f"the same shape, weights drawn with seed {seed}")
    shown = [Encoded(name, about, one, "") for (name, one), about in zip(encoders.items(), weights, strict=False)]
    findings = []
    for name, one in encoders.items():
        of_split = {split: contrast(one, objective, found.sequences, min(batch, len(found.sequences))) for split, found in splits.items()}
        findings += _findings(name, objective, of_split, seed)
    for split in splits:
        notes.append(
            f"{split}: by chance {findings[0].scores[split]['chance']:.4f}, the mean of 1/N over all terms; bound: log N - loss, nats"
        )
    return Evaluation(CONTRASTIVE, "accuracy", None, splits, findings, shown, notes, 0)


def held_out(path: str | Path, shortest: int, names: Sequence[str], seed: int) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield splits with their sequences of ``shortest`` residues or more: a corpus' rows in order, a file's shuffled.

    Raises:
        InputError: no such file or corpus, or none of the splits in it.
    """
    place = Path(path).expanduser()
    if not place.is_dir() or not (place / MANIFEST).is_file():
        yield "test", _of_file(place, shortest, seed)
        return
    corpus = Corpus.open(place)
    there = [name for name in names if corpus.rows(name)]
    if not there:
        raise InputError(f"{path}: no {' or '.join(names)} split in the corpus; build it with one, or give a file of sequences")
    for name in there:
        yield name, _of_corpus(corpus, name, shortest)


def contrast(encoder: LoadedEncoder, objective: CPC, sequences: Sequence[str], size: int) -> tuple[NDArray[np.float64], ...]:
    """Return the sums [B, Q] of the objective's quantities, and what each is a mean over [B, Q], for batches of ``size`` sequences."""
    model = objective.build(encoder.module).eval()
    sums, counts = [], []
    with torch.inference_mode():
        for start in range(0, len(sequences), size):
            prepared = objective.prepare(batch_of(sequences[start : start + size], objective.max_length))
            sums.append(objective.sums(model, prepared.to(encoder.device)).double().cpu().numpy())
            counts.append([prepared.counts[quantity.per] for quantity in objective.quantities])
    return np.array(sums), np.array(counts, float)


def batch_of(sequences: Sequence[str], longest: int) -> Batch:
    """Return sequences, cut at ``longest`` residues, as a batch."""
    lengths = np.array([min(len(sequence), longest) for sequence in sequences])
    tokens, starts = tokenise(pa.chunked_array([[sequence[:longest] for sequence in sequences]], pa.string()))
    rows = torch.arange(len(sequences))
    return Batch(torch.from_numpy(pack(tokens, starts, lengths).astype(np.int64)), rows, rows)


def _findings(name: str, objective: CPC, of_split: Mapping[str, tuple[NDArray[np.float64], ...]], seed: int) -> Iterator[Finding]:
    """Yield what was found over all distances, then at each."""
    places = {quantity.name: place for place, quantity in enumerate(objective.quantities)}
    distances = range(1, objective.steps_ahead + 1)
    for k in (None, *distances):
        scores: dict[str, Metrics] = {}
        intervals = {}
        for split, (sums, counts) in of_split.items():
            columns = {
                "accuracy": [places["accuracy_cpc" if k is None else f"accuracy_cpc_k{k}"]],
                "bound": [places[f"bound_cpc_k{d}"] for d in (distances if k is None else [k])],
            }
            means = {metric: partial(_mean, sums[:, at], counts[:, at]) for metric, at in columns.items()}
            every = np.arange(len(sums))
            scores[split] = {metric: mean(every) for metric, mean in means.items()}
            scores[split]["chance"] = _mean(sums[:, [places["chance_cpc"]]], counts[:, [places["chance_cpc"]]], every)
            if k is None:
                scores[split]["loss"] = _mean(sums[:, [places["loss_cpc"]]], counts[:, [places["loss_cpc"]]], every)
            intervals[split] = {metric: bootstrap(mean, len(sums), seed=seed) for metric, mean in means.items()}
        yield Finding(name, ALL if k is None else f"{k} ahead", "", {}, "", scores, intervals, {})


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64], batches: NDArray[np.int64]) -> float:
    """Return the mean over some batches, of all columns together."""
    return float(sums[batches].sum() / counts[batches].sum())


def _of_corpus(corpus: Corpus, split: str, shortest: int) -> Iterator[str]:
    for group in corpus.row_groups(split):
        for sequence in corpus.read([group], ["sequence"])["sequence"].to_pylist():
            if len(sequence) >= shortest:
                yield sequence


def _of_file(path: Path, shortest: int, seed: int) -> Iterator[str]:
    """Yield a file's sequences in a random order: neighbours in a file are often of one family. What is no protein is left out."""
    found: list[str] = []
    for piece in pieces_of(path, "sequence", PIECE_BYTES):
        for records, _, _ in read_piece(piece, "sequence"):
            found += clean(records, Limits(min_length=shortest))[0]["sequence"].cast(pa.string()).to_pylist()
    for row in np.random.default_rng(seed).permutation(len(found)):
        yield found[row]
