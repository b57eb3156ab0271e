"""A split of labelled data in memory: flat numpy arrays, which Ray's object store shares between processes without copying.

Legend: n sequences, B of a batch, R residues of all sequences.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from raypro.core.alphabet import FIRST_LETTER, LETTERS, encode
from raypro.core.batch import ContactLabel, LabelledBatch
from raypro.core.random import combine
from raypro.data.plan import pack

KINDS = ("regression", "classification", "residue_classification", "contacts")
UNSCORED = "-"
"""Stands for a residue without a class on disk; in memory that is -1."""

_KEY = 16  # stream of randomness
_LETTER_OF_TOKEN = np.frombuffer(b"?" * FIRST_LETTER + LETTERS.encode(), np.uint8)


def schema_of(kind: str) -> pa.Schema:
    """Return the columns of a split's file.

    ``label`` is a number, a class name, or a string of one class letter a residue; contacts are pairs ``contact_i`` < ``contact_j`` of
    residues counted from 0, with ``resolved``: whether each residue's place is known.
    """
    indices = pa.list_(pa.int32())
    columns: dict[str, dict[str, pa.DataType]] = {
        "regression": {"label": pa.float64()},
        "classification": {"label": pa.string()},
        "residue_classification": {"label": pa.string()},
        "contacts": {"contact_i": indices, "contact_j": indices, "resolved": pa.list_(pa.bool_())},
    }
    return pa.schema([pa.field(name, type_) for name, type_ in {"id": pa.string(), "sequence": pa.string(), **columns[kind]}.items()])


@dataclass(frozen=True)
class Examples:
    """Labelled sequences in memory: flat numpy arrays and nothing else."""

    kind: str
    """One of :data:`KINDS`."""
    tokens: NDArray[np.uint8]
    """[R] the residues of all sequences, one behind the other, without control tokens."""
    starts: NDArray[np.int64]
    """[n + 1] where each sequence begins in ``tokens``; the last is R."""
    values: NDArray[Any]
    """The labels: [n] float64 numbers; [n] int64 classes; [R] int64 classes; or all contacts [pairs, 2] int32."""
    pair_starts: NDArray[np.int64]
    """[n + 1] where each sequence's contacts begin in ``values``; empty for other labels."""
    resolved: NDArray[np.bool_]
    """[R] whether a residue's place is known; empty for labels other than contacts."""
    id_bytes: NDArray[np.uint8]
    """The ids of all sequences in UTF-8, one behind the other."""
    id_starts: NDArray[np.int64]
    """[n + 1] where each id begins."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Residues [n] of each sequence."""
        return np.diff(self.starts)

    @property
    def ids(self) -> list[str]:
        """The ids."""
        data, at = self.id_bytes.tobytes(), self.id_starts.tolist()
        return [data[i:j].decode() for i, j in zip(at, at[1:], strict=False)]

    @property
    def sequences(self) -> list[str]:
        """The sequences."""
        return [self.sequence(row) for row in range(len(self))]

    def sequence(self, row: int) -> str:
        """Return one sequence."""
        return _LETTER_OF_TOKEN[self.tokens[self.starts[row] : self.starts[row + 1]]].tobytes().decode()

    @property
    def labels(self) -> list[Any]:
        """The labels, each as :meth:`label` returns it."""
        return [self.label(row) for row in range(len(self))]

    def label(self, row: int) -> Any:
        """Return the label of one sequence, as :class:`raypro.core.batch.LabelledBatch` has it."""
        begin, end = self.starts[row], self.starts[row + 1]
        if self.kind == "regression":
            return float(self.values[row])
        if self.kind == "classification":
            return int(self.values[row])
        if self.kind == "residue_classification":
            return self.values[begin:end].copy()
        pairs = self.values[self.pair_starts[row] : self.pair_starts[row + 1]]
        return ContactLabel(pairs.copy(), self.resolved[begin:end].copy())  # the arrays may be shared and read-only; torch wants its own

    def batch(self, rows: NDArray[np.int64], seed: int = 0, epoch: int = 0) -> LabelledBatch:
        """Return the sequences ``rows`` [B] side by side, as given, padded to the longest; the keys depend on seed, epoch and row alone."""
        rows = np.array(rows, np.int64)
        tokens = pack(self.tokens, self.starts[rows], self.lengths[rows]).astype(np.int64)
        keys = (combine(seed, _KEY, epoch, rows) >> np.uint64(1)).astype(np.int64)
        labels = tuple(self.label(int(row)) for row in rows)
        return LabelledBatch(torch.from_numpy(tokens), torch.from_numpy(keys), torch.from_numpy(rows), labels)


def examples_of(table: pa.Table, kind: str, classes: tuple[str, ...]) -> Examples:
    """Return a split's table as flat arrays; ValueError where the columns do not fit one another."""
    if any(column.null_count for column in table.columns):
        raise ValueError("an empty cell")
    letters, starts = _flat_text(table["sequence"])
    tokens = encode(letters)
    if len(tokens) and tokens.min() < FIRST_LETTER or (np.diff(starts) == 0).any():
        raise ValueError("a sequence that is none")
    values, pair_starts, resolved = np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    if kind == "regression":
        values = table["label"].to_numpy()
        if not np.isfinite(values).all():
            raise ValueError("a label that is no finite number")
    elif kind == "classification":
        values = pc.index_in(table["label"], pa.array(classes, pa.string())).to_numpy().astype(np.float64)
        if np.isnan(values).any():
            raise ValueError("an unknown class")
        values = values.astype(np.int64)
    elif kind == "residue_classification":
        letters, label_starts = _flat_text(table["label"])
        values = _classes_of(letters, classes)
        _require_equal(label_starts, starts)
    else:
        resolved, resolved_starts = _flat_list(table["resolved"])
        _require_equal(resolved_starts, starts)
        (first, pair_starts), (second, second_starts) = _flat_list(table["contact_i"]), _flat_list(table["contact_j"])
        _require_equal(pair_starts, second_starts)
        longest = np.repeat(np.diff(starts), np.diff(pair_starts))
        if (first < 0).any() or (first >= second).any() or (second >= longest).any():
            raise ValueError("a contact that is none")
        values = np.stack([first, second], axis=1)
    id_bytes, id_starts = _flat_text(table["id"])
    return Examples(kind, tokens, starts, values, pair_starts, resolved, id_bytes, id_starts)


def _classes_of(letters: NDArray[np.uint8], classes: tuple[str, ...]) -> NDArray[np.int64]:
    numbers = np.full(256, -2, np.int64)
    numbers[ord(UNSCORED)] = -1
    for number, letter in enumerate(classes):
        numbers[ord(letter)] = number
    values = numbers[letters]
    if (values == -2).any():
        raise ValueError("an unknown class")
    return values


def _require_equal(a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    if not np.array_equal(a, b):
        raise ValueError("a label of the wrong length")


def _flat_text(column: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all strings of a column without nulls, one behind the other, and where each begins [n + 1]."""
    array = column.cast(pa.large_string()).combine_chunks()
    _, offsets, data = array.buffers()
    at = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int64)
    letters = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return letters[at[0] : at[-1]].copy(), at - at[0]


def _flat_list(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of all lists of a column without nulls, one behind the other, and where each begins [n + 1]."""
    array = column.combine_chunks()
    values = array.flatten()
    if values.null_count:
        raise ValueError("an empty cell")
    return values.to_numpy(zero_copy_only=False), np.concatenate([[0], np.cumsum(pc.list_value_length(array).to_numpy())]).astype(np.int64)
