"""The data plan: which sequences make up which batch, so that within an epoch each is used exactly once, whatever happens.

An epoch is a seeded permutation of *windows* (groups of consecutive row groups of a split). A window is shuffled, length-bucketed
and cut into batches by a pure function of (corpus, seed, epoch, window). Windows are dealt to the workers like cards. A *cursor* says
how far each worker has come; it is all that a checkpoint needs, and from it an interrupted epoch can be continued exactly, by the same
number of workers or by another.

This module needs numpy and pyarrow only: it runs in the readers' processes, which should start without torch.
Legend: n rows of a window, B sequences of a batch, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypro.config import InputError, from_plain, to_plain
from raypro.core.alphabet import BYTE_TO_TOKEN, CLS, CONTROL_TOKENS, PAD, SEP
from raypro.core.random import combine, mix, seed_of, uniform
from raypro.data.corpus import Corpus, RowGroup

_SHUFFLE, _ORDER, _KEY, _CROP = 11, 12, 13, 14  # streams of randomness


@dataclass(frozen=True)
class PackedBatch:
    """A batch as it travels from reader to worker: ``tokens`` [B, T] uint8, ``keys`` [B] int64, ``rows`` [B] int64 of the split."""

    epoch: int
    window: int
    index: int
    last: bool
    """Whether it is the window's last batch."""
    tokens: NDArray[np.uint8]
    keys: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class WindowTask:
    """Read one window's batches in one epoch, from batch ``first`` on."""

    epoch: int
    window: int
    first: int


@dataclass(frozen=True)
class Cursor:
    """How far an epoch has been consumed."""

    epoch: int
    workers: int
    deal: tuple[tuple[int, int], ...]
    """(window, first batch of it) in the order dealt: worker r holds every ``workers``-th from the r-th on."""
    done: tuple[tuple[int, int], ...]
    """Of each worker: finished windows of its hand, next batch of the window after those."""

    def hand(self, rank: int) -> list[WindowTask]:
        """Return what is left for worker ``rank``."""
        windows, batch = self.done[rank]
        left = [WindowTask(self.epoch, window, first) for window, first in self.deal[rank :: self.workers]][windows:]
        if left and batch > left[0].first:
            left[0] = WindowTask(self.epoch, left[0].window, batch)
        return left

    def dealt_to(self, workers: int) -> "Cursor":
        """Return the cursor with what is left dealt anew, if the number of workers changed; the same cursor otherwise."""
        if workers == self.workers:
            return self
        hands = [self.hand(rank) for rank in range(self.workers)]
        left = {task.window: (task.window, task.first) for hand in hands for task in hand}
        deal = tuple(left[window] for window, _ in self.deal if window in left)
        return Cursor(self.epoch, workers, deal, ((0, 0),) * workers)

    def to_plain(self) -> dict[str, object]:
        """Return the cursor as plain values, for a checkpoint."""
        plain: dict[str, object] = to_plain(self)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, object]) -> "Cursor":
        """Return the cursor that :meth:`to_plain` was called on."""
        cursor: Cursor = from_plain(cls, plain, "cursor")
        return cursor


@dataclass(frozen=True)
class Plan:
    """The batches of a split, by plain parameters."""

    corpus: Corpus
    split: str
    seed: int
    token_budget: int
    """Most tokens of a batch, padding and control tokens included."""
    max_length: int
    """Most residues of a sequence; a longer one is cropped at a window drawn anew each epoch."""
    window_row_groups: int
    """Row groups of a window: the larger, the less padding and the better shuffled; one window is held in memory at a time."""
    sequences: int | None = None
    """Most sequences of a batch; None: as many as the budget holds."""

    def __post_init__(self) -> None:
        if self.max_length < 1 or self.token_budget < self.max_length + CONTROL_TOKENS:
            raise InputError(
                f"batches.token_budget: {self.token_budget} tokens do not hold one sequence of max_length {self.max_length} "
                f"and its {CONTROL_TOKENS} control tokens; raise it or lower batches.max_length"
            )
        if self.window_row_groups < 1:
            raise InputError(f"batches.window_row_groups: {self.window_row_groups} must be 1 or more")

    @cached_property
    def windows(self) -> list[list[RowGroup]]:
        """The row groups of each window."""
        groups = self.corpus.row_groups(self.split)
        return [groups[i : i + self.window_row_groups] for i in range(0, len(groups), self.window_row_groups)]

    def start(self, epoch: int, workers: int) -> Cursor:
        """Return the cursor at the beginning of an epoch."""
        order = np.random.default_rng(seed_of(self.seed, _ORDER, epoch)).permutation(len(self.windows))
        return Cursor(epoch, workers, tuple((int(window), 0) for window in order), ((0, 0),) * workers)

    def cut(self, lengths: NDArray[np.int32], epoch: int, window: int) -> list[NDArray[np.int64]]:
        """Return the window's batches, each the offsets [B] of its rows, for the residues [n] of its sequences.

        Rows are shuffled, sorted by (cropped) length, cut so that the longest of a batch times its size keeps to the budget,
        and the batches shuffled.
        """
        generator = np.random.default_rng(seed_of(self.seed, _SHUFFLE, epoch, window))
        sizes = np.minimum(lengths, self.max_length).astype(np.int64) + CONTROL_TOKENS
        order = generator.permutation(len(sizes))
        order = order[np.argsort(sizes[order], kind="stable")]
        batches = cut_by_budget(order, sizes[order], self.token_budget, self.sequences)
        return [batches[i] for i in generator.permutation(len(batches))]

    def count(self, task: WindowTask) -> int:
        """Return the number of batches of a task, reading lengths only."""
        lengths = self.corpus.read(self.windows[task.window], ["length"])["length"].to_numpy()
        return len(self.cut(lengths, task.epoch, task.window)) - task.first

    def read(self, task: WindowTask) -> list[PackedBatch]:
        """Read, tokenise and cut a window; return its batches from the task's first on."""
        groups = self.windows[task.window]
        table = self.corpus.read(groups, ["sequence", "length"])
        batches = self.cut(table["length"].to_numpy(), task.epoch, task.window)
        return self._packed(table, groups[0].first_row, task, batches)

    def read_rows(self, batches: Sequence[NDArray[np.int64]]) -> list[PackedBatch]:
        """Read batches of given rows [B] of the split, tokenised and cropped as in epoch 0."""
        last = max((int(rows.max()) for rows in batches), default=-1)
        groups = [group for group in self.corpus.row_groups(self.split) if group.first_row <= last]
        return self._packed(self.corpus.read(groups, ["sequence", "length"]), 0, WindowTask(0, 0, 0), batches) if groups else []

    def _packed(self, table: pa.Table, first_row: int, task: WindowTask, batches: Sequence[NDArray[np.int64]]) -> list[PackedBatch]:
        """Return a task's batches, each given as offsets [B] in a table of sequences whose first is row ``first_row`` of the split."""
        tokens, starts = tokenise(table["sequence"])
        lengths = table["length"].to_numpy()
        rows = first_row + np.arange(len(lengths))
        keys = (combine(self.seed, _KEY, task.epoch, rows) >> np.uint64(1)).astype(np.int64)
        excess = np.maximum(0, lengths - self.max_length)
        begins = starts + np.floor(uniform(keys, 1, _CROP)[:, 0] * (excess + 1)).astype(np.int64)
        sizes = np.minimum(lengths, self.max_length).astype(np.int64)
        return [
            PackedBatch(
                task.epoch, task.window, i, i == len(batches) - 1, pack(tokens, begins[batch], sizes[batch]), keys[batch], rows[batch]
            )
            for i, batch in enumerate(batches)
            if i >= task.first
        ]


def cut_by_budget(
    order: NDArray[np.int64], widths: NDArray[np.int64], token_budget: int, sequences: int | None = None
) -> list[NDArray[np.int64]]:
    """Cut ``order`` [n] into batches whose size times their widest sequence keeps to the budget; ``widths`` [n], in tokens, must rise.

    A batch has at most ``sequences``; a sequence that is wider than the budget is a batch of its own.
    """
    batches, start = [], 0
    while start < len(order):
        most = max(1, min(token_budget // int(widths[start]), sequences or len(order)))
        filled = widths[start : start + most] * np.arange(1, len(widths[start : start + most]) + 1)
        count = max(1, int(np.searchsorted(filled, token_budget, side="right")))
        batches.append(order[start : start + count])
        start += count
    return batches


def tokenise(sequences: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all tokens of a column of sequences, one behind the other, and where each sequence starts [n].

    One look-up over the Arrow buffer: no Python object is made for a sequence.
    """
    array = sequences.combine_chunks() if sequences.num_chunks != 1 else sequences.chunk(0)
    wide = pa.types.is_large_string(array.type)
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]
    letters = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return np.take(BYTE_TO_TOKEN, letters), (offsets[:-1] - offsets[0]).astype(np.int64)


def pack(tokens: NDArray[np.uint8], begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return [B, T] tokens (CLS, residues, SEP, padding) for sequences that begin at ``begins`` [B] and have ``sizes`` [B] residues."""
    width = int(sizes.max())
    steps = np.arange(width)
    inside = steps < sizes[:, None]
    packed = np.full((len(sizes), width + CONTROL_TOKENS), PAD, dtype=np.uint8)
    packed[:, 0] = CLS
    packed[:, 1:-1] = np.where(inside, np.take(tokens, begins[:, None] + steps, mode="clip"), PAD)
    packed[np.arange(len(sizes)), sizes + 1] = SEP
    return packed


def digest(rows: NDArray[np.int64]) -> int:
    """Return a 64-bit digest of a set of rows: the sum of their hashes, so that the digests of parts add up to that of the whole."""
    return int(mix(rows.astype(np.uint64)).sum(dtype=np.uint64))
