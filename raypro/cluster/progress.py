"""Progress of a run on the terminal, read from the run's outbox while Ray trains."""

import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raypro.outbox import FOLDER, read_records
from raypro.settings import Budget
from raypro.training import RESUMED, WARNING

INTERVAL = 0.5
LINE_INTERVAL = 10.0
"""Seconds between lines where there is no terminal to draw a bar on."""


def fraction_done(budget: Budget, step: int, metrics: dict[str, float], seconds: float) -> float:
    """Return which part of the budget is used, by the limit that is nearest."""
    used = [
        step / budget.steps if budget.steps else 0.0,
        metrics.get("train/epoch", 0.0) / budget.epochs if budget.epochs else 0.0,
        seconds / (60 * budget.minutes) if budget.minutes else 0.0,
        metrics.get("train/residues", 0.0) / budget.residues if budget.residues else 0.0,
    ]
    return min(1.0, max(used))


class RunProgress:
    """Shows how far training is, from a thread; a context manager."""

    def __init__(self, run: Path, budget: Budget) -> None:
        self.path, self.budget = run / FOLDER / "outbox-worker.jsonl", budget
        self.position = self.path.stat().st_size if self.path.exists() else 0
        self.metrics: dict[str, float] = {}
        self.step, self.first_point = 0, 0.0
        self.ended = threading.Event()
        self.console = Console(stderr=True)
        columns = (TextColumn("[bold]training"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
        rest = (TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, *rest, console=self.console, transient=False)
        self.thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> "RunProgress":
        """Start showing."""
        self.started = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""
        self.ended.set()
        self.thread.join()

    def _show(self) -> None:
        if self.console.is_terminal:
            with self.bar:
                task = self.bar.add_task("starting the workers", total=1.0)
                while not self.ended.wait(INTERVAL):
                    if self._read():
                        self.bar.update(task, completed=self._fraction(), description=self._text())
                self._read()
                self.bar.update(task, completed=self._fraction(), description=self._text())
            return
        shown = float("-inf")
        while not self.ended.wait(INTERVAL):
            if self._read() and time.monotonic() - shown >= LINE_INTERVAL:
                shown = time.monotonic()
                print(f"training {100 * self._fraction():3.0f} %  {self._text()}", file=sys.stderr, flush=True)

    def _read(self) -> bool:
        """Take in what was logged since the last look; return whether there was anything."""
        before = self.position
        if self.path.exists():
            for record, position in read_records(self.path, self.position):
                self.position = position
                if record and RESUMED in record.get("values", {}):
                    self.console.print(f"training goes on from the checkpoint of step {record['values'][RESUMED]}", highlight=False)
                elif record and WARNING in record.get("values", {}):
                    self.console.print(f"warning: {record['values'][WARNING]}", highlight=False, soft_wrap=True)
                elif record and record["kind"] == "metrics":
                    self.first_point = self.first_point or time.monotonic()
                    self.step = record["step"]
                    self.metrics |= record["values"]
        return self.position > before

    def _fraction(self) -> float:
        return fraction_done(self.budget, self.step, self.metrics, time.monotonic() - self.first_point)

    def _text(self) -> str:
        parts = [f"step {self.step}"]
        shown = (("train/loss", "loss {:.3f}"), ("valid/loss", "validation {:.3f}"), ("speed/tokens_per_second", "{:,.0f} tokens/s"))
        return "  ".join(parts + [form.format(self.metrics[name]) for name, form in shown if name in self.metrics])
