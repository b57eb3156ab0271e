"""One worker's steps: batches of its windows, epoch after epoch, from a cursor on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import torch

from raypro.core.batch import Batch
from raypro.core.distributed import gather_ints, max_over_workers
from raypro.data.plan import Cursor, PackedBatch, Plan, WindowTask, digest

Reader = Callable[[Iterable[WindowTask]], Iterator[PackedBatch]]
"""Turns tasks into their batches, in order, as far ahead as it likes."""


@dataclass(frozen=True)
class Use:
    """That a batch was trained on: one line of a run's record."""

    step: int
    epoch: int
    window: int
    batch: int
    rows: int
    digest: int
    """Digest of the rows (:func:`raypro.data.plan.digest`)."""


def read_here(plan: Plan) -> Reader:
    """Return a reader that reads in this process, a window at a time."""
    return lambda tasks: (batch for task in tasks for batch in plan.read(task))


def to_batch(packed: PackedBatch) -> Batch:
    """Return a packed batch as tensors."""
    as_tensor = torch.from_numpy
    return Batch(as_tensor(packed.tokens.astype(np.int64)), as_tensor(packed.keys.copy()), as_tensor(packed.rows.copy()))


class TrainingSource:
    """The steps of one worker, for :func:`raypro.core.loop.fit`.

    All workers take the same number of steps in an epoch: one that runs out of its windows feeds fillers, which weigh nothing,
    so no sequence is dropped to make ends equal. ``accumulation_at`` gives the micro-batches of the step after so many finished ones.
    """

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        *,
        rank: int = 0,
        workers: int = 1,
        accumulation_at: Callable[[int], int] = lambda step: 1,
        epochs: int | None = None,
        cursor: Cursor | None = None,
        step: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan, self.reader, self.rank, self.workers = plan, reader, rank, workers
        self.accumulation_at, self.epochs, self.device, self.step = accumulation_at, epochs, torch.device(device), step
        self.first = cursor.dealt_to(workers) if cursor else plan.start(0, workers)
        self.present = self.first
        self.position = self.first.done[rank]
        self.epoch_started = step
        self.steps_in_epoch = 0
        """Steps that were left of the present epoch when it was begun or resumed."""
        self.record: list[Use] = []
        """What was used since the record was last taken."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield each step's micro-batches, through ``epochs`` epochs in all (None: for ever)."""
        batches = self.reader(task for cursor in self._epochs() for task in cursor.hand(self.rank))
        for cursor in self._epochs():
            yield from self._epoch(cursor, batches)

    def cursor(self) -> dict[str, object]:
        """Return the :class:`Cursor` after the step last yielded, as plain values. Every worker must call it at the same step."""
        done = gather_ints(list(self.position), self.device)
        return replace(self.present, done=tuple((windows, batch) for windows, batch in done)).to_plain()

    def epoch(self) -> float:
        """Return the number of epochs consumed so far, the present one by its fraction."""
        left = sum(len(self.present.hand(rank)) for rank in range(self.workers)) / len(self.plan.windows)
        steps = self.step - self.epoch_started
        return self.present.epoch + 1 - left + left * steps / max(1, self.steps_in_epoch)

    def at_epoch_end(self) -> bool:
        """Return whether the step last yielded is the last of its epoch."""
        return self.step - self.epoch_started == self.steps_in_epoch

    def _epochs(self) -> Iterator[Cursor]:
        numbers = count(self.first.epoch) if self.epochs is None else range(self.first.epoch, self.epochs)
        return (self.first if number == self.first.epoch else self.plan.start(number, self.workers) for number in numbers)

    def _epoch(self, cursor: Cursor, stream: Iterator[PackedBatch]) -> Iterator[list[Batch]]:
        hand = cursor.hand(self.rank)
        self.present, self.position, self.epoch_started = cursor, cursor.done[self.rank], self.step
        mine = sum(self.plan.count(task) for task in hand)
        sizes = list(self._sizes(int(max_over_workers(mine, self.device))))
        self.steps_in_epoch = len(sizes)
        batches = islice(stream, mine)
        for size in sizes:
            taken = list(islice(batches, size))
            self.step += 1
            for packed in taken:
                self.position = (self.position[0] + 1, 0) if packed.last else (self.position[0], packed.index + 1)
                self.record.append(Use(self.step, packed.epoch, packed.window, packed.index, len(packed.rows), digest(packed.rows)))
            yield [*map(to_batch, taken), *[Batch.filler()] * (size - len(taken))]

    def _sizes(self, batches: int) -> Iterator[int]:
        """Yield the numbers of micro-batches of the steps from here on that it takes to use so many."""
        step = self.step
        while batches > 0:
            yield (size := self.accumulation_at(step))
            step, batches = step + 1, batches - size
