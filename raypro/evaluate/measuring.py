"""Speed and memory measured side by side: two ways to do the same work, in alternating runs."""

import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Unit = Literal["s", "MB", "MB/s", "M residues/s", "steps/s"]


@dataclass(frozen=True)
class Goal:
    """What a benchmark is to reach."""

    of: Literal["ratio", "ours"]
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        """Return the goal as the table has it."""
        return f"{self.of} {'>=' if self.most is None else '<='} {self.least if self.most is None else self.most:g}"

    def met(self, ratio: float, ours: float) -> bool:
        """Return whether it is reached."""
        value = ratio if self.of == "ratio" else ours
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Benchmark:
    """Two ways to do the same work; each call does it once and returns what it took, in ``unit``."""

    name: str
    goal: Goal
    reference: Callable[[], float]
    ours: Callable[[], float]
    unit: Unit
    rounds: int = 5
    """Runs of each that count; with 1 there is no run before that does not count."""

    def ratio(self, reference: float, ours: float) -> float:
        """Return how many times better ours is."""
        return ours / reference if self.unit.endswith("/s") else reference / ours

    def run(self) -> tuple[float, float]:
        """Return the medians of the reference and of ours."""
        skipped = 1 if self.rounds > 1 else 0
        runs = [(self.reference(), self.ours()) for _ in range(self.rounds + skipped)][skipped:]
        reference, ours = zip(*runs, strict=True)
        return statistics.median(reference), statistics.median(ours)


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def extra_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Return the MB of memory that the work of ``prepare(*arguments)`` takes at its peak beyond what was there before it.

    Measured in a process of its own, by the kernel (Linux): resident memory, and its high-water mark.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_extra_memory_here, (prepare, arguments))


def _extra_memory_here(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> float:
    def kilobytes(field: str) -> int:
        match = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
        if match is None:
            raise OSError(f"/proc/self/status: no {field}; memory can be measured on Linux only")
        return int(match[1])

    work = prepare(*arguments)
    before = kilobytes("VmRSS")
    work()
    return (kilobytes("VmHWM") - before) * 1024 / 1e6
