"""Reading ahead of training with Ray Data: tasks of the data plan in, their batches out, in the plan's order.

Each training worker runs its own pipelines over its own windows, so the plan and not Ray decides who gets what. A pipeline runs to its
end at once and leaves its batches, one byte a token, in Ray's object store; the next one starts when half of them are used. A pipeline
that streamed would hold its executor's thread busy beside the training step all the time, which cost half of the speed of small models.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice

import ray
import ray.data
from ray.data import DataContext, Dataset

from raypro.data.blocks import from_block, read_window
from raypro.data.plan import PackedBatch, Plan, WindowTask
from raypro.data.source import Reader

READ_CPUS = 0.25
"""CPUs that Ray reserves for a task that reads one window."""
FIRST_TASKS, TASKS = 4, 64
"""Windows that the first pipeline of a worker reads, so that training starts soon, and each later one."""

Block = "ray.ObjectRef[pa.Table]"


def ray_reader(plan: Plan) -> Reader:
    """Return a reader that reads, tokenises and batches in Ray Data tasks, ahead of the training step.

    The very first window is read by the worker itself, which would only wait for the first pipeline to start.
    """

    def read(tasks: Iterable[WindowTask]) -> Iterator[PackedBatch]:
        tasks = iter(tasks)
        first = list(islice(tasks, 1))
        blocks: queue.Queue[Block | BaseException | None] = queue.Queue(TASKS // 2)
        threading.Thread(target=_run_pipelines, args=(plan, tasks, blocks), name="read-ahead", daemon=True).start()
        for task in first:
            yield from plan.read(task)
        while (block := blocks.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield from from_block(ray.get(block))

    return read


def _run_pipelines(plan: Plan, tasks: Iterator[WindowTask], blocks: "queue.Queue[Block | BaseException | None]") -> None:
    try:
        DataContext.get_current().enable_progress_bars = False
        size = FIRST_TASKS
        while chunk := list(islice(tasks, size)):
            for block in pipeline(plan, chunk).materialize().get_internal_block_refs():
                blocks.put(block)
            size = TASKS
        blocks.put(None)
    except BaseException as error:  # whatever ends the thread must end the training, which waits for the next block
        blocks.put(error)


def pipeline(plan: Plan, tasks: list[WindowTask]) -> Dataset:
    """Return the data set of the tasks' batches, one row a batch, in the tasks' order."""
    items = ray.data.from_items([asdict(task) for task in tasks], override_num_blocks=len(tasks))
    dataset = items.map_batches(read_window, batch_size=1, batch_format="pyarrow", fn_kwargs={"plan": plan}, num_cpus=READ_CPUS)
    dataset.context.execution_options.preserve_order = True
    return dataset
