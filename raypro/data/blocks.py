"""Batches as Arrow tables, on their way from the processes that read to those that train; needs no torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from raypro.data.plan import PackedBatch, Plan, WindowTask

_NUMBERS, _ARRAYS = ("epoch", "window", "index", "last"), ("tokens", "keys", "rows")


def read_window(task: pa.Table, plan: Plan) -> pa.Table:
    """Return the batches of a task (a table of one row, the fields of a WindowTask), one row a batch."""
    (fields,) = task.to_pylist()
    return to_block(plan.read(WindowTask(**fields)))


def to_block(batches: list[PackedBatch]) -> pa.Table:
    """Return batches as a table of numbers and bytes."""
    rows: list[dict[str, Any]] = [
        {**{name: getattr(b, name) for name in _NUMBERS}, **{name: getattr(b, name).tobytes() for name in _ARRAYS}} for b in batches
    ]
    return pa.Table.from_pylist(rows)


def from_block(block: pa.Table) -> Iterator[PackedBatch]:
    """Yield the batches of a table that :func:`to_block` made."""
    for row in block.to_pylist():
        rows = np.frombuffer(row.pop("rows"), np.int64)
        keys = np.frombuffer(row.pop("keys"), np.int64)
        tokens = np.frombuffer(row.pop("tokens"), np.uint8).reshape(len(rows), -1)
        yield PackedBatch(**row, tokens=tokens, keys=keys, rows=rows)
