"""One worker's steps of fine-tuning: labelled sequences in a seeded order, each exactly once an epoch.

Labelled data fit into memory, so a step is simply ``size`` sequences of the epoch's permutation, whatever the number of workers:
they split it. The cursor (epoch, finished steps) serves any number of them. Legend: B sequences, T tokens, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raypro.core.batch import LabelledBatch
from raypro.core.random import seed_of
from raypro.data.labelled import Examples
from raypro.data.plan import CONTROL_TOKENS, cut_by_budget, digest
from raypro.data.source import Use

_ORDER = 15  # stream of randomness


@dataclass(frozen=True)
class Embedded:
    """Labelled sequences and, where the encoder is frozen, its vectors of them."""

    examples: Examples
    vectors: NDArray[np.float32] | None = None
    """[tokens of all sequences, D], those of a sequence (control tokens too) together, in the examples' order."""

    def batches(self, rows: NDArray[np.int64], token_budget: int) -> list[tuple[NDArray[np.int64], LabelledBatch]]:
        """Return the rows as batches of sequences of similar lengths within the budget, each with its own rows."""
        widths = self.examples.lengths[rows] + CONTROL_TOKENS
        by_length = np.argsort(widths, kind="stable")
        return [(cut, self.batch(cut)) for cut in cut_by_budget(rows[by_length], widths[by_length], token_budget)]

    def batch(self, rows: NDArray[np.int64]) -> LabelledBatch:
        """Return some rows as a batch, with their vectors [B, T, D] where there are any (zero at padding)."""
        batch = self.examples.batch(rows)
        if self.vectors is None:
            return batch
        starts, widths = token_spans(self.examples)
        padded = torch.zeros(*batch.tokens.shape, self.vectors.shape[1])
        for place, (start, width) in enumerate(zip(starts[rows], widths[rows], strict=True)):
            padded[place, :width] = torch.from_numpy(np.array(self.vectors[start : start + width]))
        return replace(batch, vectors=padded)


def token_spans(examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each sequence's tokens, its control tokens too, begin in the row of all of them, and how many they are: [n] each."""
    return examples.starts[:-1] + CONTROL_TOKENS * np.arange(len(examples)), examples.lengths + CONTROL_TOKENS


def steps_of(count: int, size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the rows of each step of an epoch: a seeded permutation of ``count`` rows, ``size`` at a time."""
    order = np.random.default_rng(seed_of(seed, _ORDER, epoch)).permutation(count)
    return [order[i : i + size] for i in range(0, count, size)]


class LabelledSource:
    """A :class:`raypro.training.Source`."""

    def __init__(
        self,
        data: Embedded,
        *,
        seed: int,
        size: int,
        token_budget: int,
        rank: int = 0,
        workers: int = 1,
        epochs: int | None = None,
        cursor: dict[str, Any] | None = None,
    ) -> None:
        """Prepare the steps of worker ``rank``.

        Args:
            data: the training split.
            seed: of the order of each epoch.
            size: sequences of a step, over all workers.
            token_budget: most tokens of a micro-batch; a longer sequence is one alone.
            rank: this worker.
            workers: their number.
            epochs: epochs in all; None: for ever.
            cursor: what :meth:`cursor` returned, to go on from there.
        """
        self.data, self.seed, self.size, self.token_budget = data, seed, size, token_budget
        self.rank, self.workers, self.epochs = rank, workers, epochs
        self.present, self.done = (cursor["epoch"], cursor["steps"]) if cursor else (0, 0)
        self.steps_in_epoch = -(-len(data.examples) // size)
        self.used = self.present * self.steps_in_epoch + self.done
        self.record: list[Use] = []
        """What was used since the record was last taken; the window of a use is its step within the epoch."""

    def __iter__(self) -> Iterator[list[LabelledBatch]]:
        """Yield this worker's share of each step, as micro-batches; it may be none."""
        for epoch in count(self.present) if self.epochs is None else range(self.present, self.epochs):
            steps = steps_of(len(self.data.examples), self.size, self.seed, epoch)
            first, self.present = (self.done if epoch == self.present else 0), epoch
            for step, taken in enumerate(steps[first:], start=first):
                mine = taken[np.argsort(self.data.examples.lengths[taken], kind="stable")][self.rank :: self.workers]
                batches = self.data.batches(mine, self.token_budget)
                self.done = step + 1
                self.used += 1
                self.record += [
                    Use(self.used, epoch, step, self.rank + i * self.workers, len(r), digest(r)) for i, (r, _) in enumerate(batches)
                ]
                yield [batch for _, batch in batches]

    def cursor(self) -> dict[str, Any]:
        """Return how far the workers have come: all are at the same step."""
        return {"epoch": self.present, "steps": self.done}

    def epoch(self) -> float:
        """Return the number of epochs consumed so far, the present one by its fraction."""
        return self.present + self.done / self.steps_in_epoch

    def at_epoch_end(self) -> bool:
        """Return whether the step last yielded is the last of its epoch."""
        return self.done == self.steps_in_epoch
