"""Small data and models that tests share."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypro.config import to_plain
from raypro.core.alphabet import CLS, PAD, SEP, STANDARD, encode
from raypro.core.batch import Batch
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.loop import TrainState
from raypro.core.objectives.pmlm import PMLM
from raypro.core.optimizer import Adam
from raypro.data.corpus import FORMAT_VERSION, MANIFEST, SCHEMA, Corpus, Manifest, sha256_of, write_manifest
from raypro.data.labelled import FORMAT_VERSION as LABELLED_VERSION
from raypro.data.labelled import LabelledData, LabelledManifest, SplitFile, schema_of
from raypro.data.source import read_here
from raypro.data.statistics import Statistics
from raypro.data.writer import write_split
from raypro.experiment import Experiment, FineTuning
from raypro.pretraining import Pretraining
from raypro.settings import Batches, Budget, SequenceBatches, Tracking, Validation, Workers
from raypro.tasks.regression import Regression
from raypro.training import train

TINY = TransformerShape(layers=1, width=16, heads=2, hidden=32, dropout=0.0)


def random_sequences(count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    """Return random proteins."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(STANDARD))
    return ["".join(rng.choice(letters, rng.integers(shortest, longest + 1))) for _ in range(count)]


def mutated(sequence: str, substitutions: int, rng: np.random.Generator) -> str:
    """Return a protein with other residues at so many places."""
    letters = list(sequence)
    for at in rng.choice(len(letters), substitutions, replace=False):
        letters[at] = rng.choice([c for c in STANDARD if c != letters[at]])
    return "".join(letters)


def write_corpus(folder: Path, splits: dict[str, Sequence[str]], row_group_rows: int = 16) -> Corpus:
    """Write a corpus of given sequences."""
    folder.mkdir(parents=True)
    statistics, files = Statistics(), []
    for split, sequences in splits.items():
        lengths = [len(s) for s in sequences]
        columns = {"id": [f"{split}{i}" for i in range(len(sequences))], "sequence": list(sequences), "length": lengths}
        nothing = [None] * len(sequences)
        table = pa.table({**columns, "family": nothing, "clan": nothing, "taxon": nothing}, schema=SCHEMA)
        files += write_split(folder, split, [table], row_group_rows, statistics=statistics)
    counts, histogram = statistics.residue_counts(), statistics.length_histogram()
    write_manifest(
        folder, Manifest(FORMAT_VERSION, "2026-01-01", row_group_rows, tuple(files), "given", ("test",), "{}", "{}", counts, histogram)
    )
    return Corpus.open(folder)


def batch_of(*sequences: str) -> Batch:
    """Return a batch whose keys depend on the sequences alone."""
    tokens = [torch.from_numpy(np.concatenate([[CLS], encode(s), [SEP]]).astype(np.int64)) for s in sequences]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
    keys = torch.tensor([zlib.crc32(s.encode()) for s in sequences])
    return Batch(padded, keys, torch.arange(len(sequences)))


def tiny_experiment(corpus: Path, name: str = "tiny", **changes: object) -> Experiment:
    """Return an experiment that takes a second."""
    experiment = Experiment(
        name=name,
        corpus=str(corpus),
        objective=PMLM(),
        encoder=TINY,
        optimizer=Adam(learning_rate=1e-3, warmup_steps=2),
        batches=Batches(token_budget=256, max_length=40, window_row_groups=2),
        budget=Budget(steps=8),
        validation=Validation(every=4, sequences=32),
        workers=Workers(count=1),
        tracking=Tracking(every=2),
    )
    return replace(experiment, **changes)  # type: ignore[arg-type]


def train_here(experiment: Experiment, folder: Path, resume: Path | None = None) -> TrainState:
    """Pre-train in this process, without Ray, in a run's folder."""
    folder.mkdir(exist_ok=True)
    return train(Pretraining(experiment, read_here), folder, lambda metrics, path: None, resume)


def write_labelled(folder: Path, labels: str, splits: dict[str, dict[str, list[Any]]], classes: tuple[str, ...] = ()) -> LabelledData:
    """Write labelled data: of each split its columns (``sequence`` and those of :func:`raypro.data.labelled.schema_of`)."""
    folder.mkdir(parents=True)
    files = []
    for split, columns in splits.items():
        ids = [f"{split}{i}" for i in range(len(columns["sequence"]))]
        path = folder / f"{split}.parquet"
        pq.write_table(pa.table({"id": ids, **columns}, schema=schema_of(labels)), path)
        files.append(SplitFile(split, path.name, len(ids), sum(map(len, columns["sequence"])), sha256_of(path)))
    manifest = LabelledManifest(LABELLED_VERSION, "2026-01-01", labels, "label", classes, tuple(files), "given", "[]", "{}", "{}", ())
    (folder / MANIFEST).write_text(json.dumps(to_plain(manifest)))
    return LabelledData.open(folder)


def hydrophobic_share(folder: Path, sizes: dict[str, int], seed: int = 0) -> LabelledData:
    """Write proteins whose label is their share of hydrophobic residues: learnable within seconds."""
    splits = {}
    for number, (split, size) in enumerate(sizes.items()):
        sequences = random_sequences(size, 10, 40, seed=seed + number)
        splits[split] = {"sequence": sequences, "label": [sum(c in "AILMFVWY" for c in s) / len(s) for s in sequences]}
    return write_labelled(folder, "regression", splits)


def tiny_fine_tuning(data: Path, name: str = "tiny", **changes: object) -> FineTuning:
    """Return a fine-tuning experiment that takes a second."""
    experiment = FineTuning(
        name=name,
        data=str(data),
        task=Regression(hidden=16),
        encoder=TINY,
        optimizer=Adam(learning_rate=1e-2, warmup_steps=2, decay="constant"),
        batches=SequenceBatches(size=16, token_budget=256),
        budget=Budget(epochs=3),
        tracking=Tracking(every=2),
    )
    return replace(experiment, **changes)  # type: ignore[arg-type]
