"""What a run has to say about itself, kept in its own folder until the tracking server has it.

A process of a run appends JSON lines to ``<run folder>/tracking/outbox-<writer>.jsonl``, one record a line; another process
(:mod:`raypro.tracking`) reads them and sends them on. So nothing the server does, or fails to do, reaches the training, and
nothing is lost when either dies. Appending costs microseconds and loads no tracking library.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tracking"


class Outbox:
    """The appending end. One for each process that writes, under a ``writer`` name of its own within the run.

    Names may hold letters, digits, ``_ - . / :`` and spaces; a ``/`` groups metrics (``train/loss``) and folders.
    """

    def __init__(self, run_folder: Path, writer: str = "driver") -> None:
        """Open the outbox of ``run_folder`` for appending; what an earlier process of the same name wrote stays."""
        folder = run_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._run_folder = run_folder.absolute()
        self._path = folder / f"outbox-{writer}.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._not_finite: set[str] = set()
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # a writer was killed within a line: close it, so that ours stays whole
            os.write(self._file, b"\n")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at ``step``; a metric's steps must rise.

        What is not finite cannot be drawn: it is dropped, and the tag ``not finite: NAME`` says at which step it was so first.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._append("metrics", step=int(step), values=finite)
        bad = {name: float(value) for name, value in values.items() if name not in finite and name not in self._not_finite}
        if bad:
            self._not_finite.update(bad)
            self.tags({f"not finite: {name}": f"{value} at step {step}" for name, value in bad.items()})

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters, which do not change while a run lasts."""
        self._append("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, object]) -> None:
        """Record tags; a later value of the same tag replaces the earlier one."""
        self._append("tags", values={name: str(value) for name, value in values.items()})

    def description(self, markdown: str) -> None:
        """Record the text, in Markdown, that heads the run's page; a later one replaces it."""
        self.tags({"mlflow.note.content": markdown})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, to be copied into ``folder`` of the run's artifacts; it must stay in place until it is sent."""
        self._append("artifact", path=self._relative(path), folder=folder)

    def text(self, name: str, text: str) -> None:
        """Record a text, to become the artifact ``name``."""
        self._append("text", name=name, text=text)

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, object], split: str) -> None:
        """Record what the run reads: a checksum, where it is, its counts (``profile``) and the split it is used as."""
        self._append("dataset", name=name, digest=digest, source=source, profile=dict(profile), split=split)

    def checkpoint(self, path: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Record a checkpoint, which becomes a logged model that points to ``path``; weights are not copied."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._append("checkpoint", path=str(path.absolute()), step=int(step), metrics=finite)

    def model(self, name: str, files: Sequence[Path]) -> None:
        """Record files that make a model, to be copied and registered as a new version of the model ``name``."""
        self._append("model", name=name, files=[self._relative(path) for path in files])

    def status(self, status: str) -> None:
        """Record the run's state: RUNNING, FINISHED, FAILED or KILLED."""
        self._append("status", status=status)

    def close(self) -> None:
        """Close the file; every record is already in it."""
        os.close(self._file)

    def _relative(self, path: Path) -> str:
        """Return ``path`` relative to the run folder where it lies within, so that the folder may be moved."""
        path = path.absolute()
        return str(path.relative_to(self._run_folder)) if path.is_relative_to(self._run_folder) else str(path)

    def _append(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        while line:  # one call as a rule; a full disk or a signal may cut it short
            line = line[os.write(self._file, line) :]


def outbox_files(run_folder: Path) -> list[Path]:
    """Return the outboxes of a run, in the order of their names."""
    return sorted((run_folder / FOLDER).glob("outbox-*.jsonl"))


def read_records(path: Path, position: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the whole records of an outbox from the byte ``position`` on, each with the position after it.

    A line that is not a record (its writer was killed within it) gives ``None``; the last line counts once it is ended.
    """
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) and "kind" in record else None, position


def last_status(run_folder: Path) -> str | None:
    """Return the last state that the run recorded: RUNNING, FINISHED, FAILED or KILLED; None before the first."""
    records = (record for path in outbox_files(run_folder) for record, _ in read_records(path, 0))
    statuses = [(record["time_ms"], record["status"]) for record in records if record is not None and record["kind"] == "status"]
    return max(statuses, key=lambda status: status[0])[1] if statuses else None
