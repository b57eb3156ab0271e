"""Delivers the records of a run's outboxes, each once, to whatever takes them; knows no tracking library.

How far delivery has come is kept in ``tracking/sent.json`` after every step of it, so that any process may go on with it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from raypro.config import InputError
from raypro.outbox import FOLDER, outbox_files, read_records

BATCH_RECORDS = 200
"""Records of metrics, parameters and tags that are sent together."""


class Refused(Exception):
    """The destination answered, and will never take this."""


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    time_ms: int


@dataclass
class Sent:
    """What a run is called at its destination, and what that already has of it."""

    address: str
    experiment: str
    run_name: str
    started_ms: int
    parent_run_id: str | None = None
    run_id: str | None = None
    """The destination's own name for the run; None until it has answered."""
    positions: dict[str, int] = field(default_factory=dict)
    """Outbox -> position in bytes up to which it was delivered."""
    points: dict[str, list[int]] = field(default_factory=dict)
    """Metric -> [step, time in ms] of its last delivered value: a restart repeats steps, which are not sent again."""
    params: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, run_folder: Path) -> "Sent | None":
        """Return what is kept in the run's folder, or None."""
        file = _sent_file(run_folder)
        return cls(**json.loads(file.read_text())) if file.is_file() else None

    def save(self, run_folder: Path) -> None:
        """Keep it in the run's folder: to a temporary name, then renamed, so that a reader never sees half of it."""
        file = _sent_file(run_folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)))
        os.replace(temporary, file)

    def forget(self) -> None:
        """Start again from nothing delivered: for another destination, or one that lost the run."""
        self.run_id = None
        self.positions, self.points, self.params = {}, {}, {}


class Destination(Protocol):
    """What takes records. Every method raises :class:`Refused` for what it will never take, anything else for "not now"."""

    def connect(self, sent: Sent) -> None:
        """Find or make the run that ``sent`` names, and note its ``run_id``; :meth:`Sent.forget` where the old one is gone."""

    def log(self, points: list[Point], params: dict[str, str], tags: dict[str, str]) -> None:
        """Take a batch."""

    def take(self, record: dict[str, Any]) -> None:
        """Take one record of any other kind."""


class Delivery:
    """Delivers the outboxes of one run. One at a time: see :func:`sole_delivery`."""

    def __init__(self, run_folder: Path, sent: Sent, destination: Destination) -> None:
        """Prepare; nothing is sent yet."""
        self.sent = sent
        self.delivered = 0
        """Records delivered by this object."""
        self.refused = 0
        self.run_folder, self._destination = run_folder, destination
        self._connected = False

    def deliver(self) -> None:
        """Deliver every whole record that is there.

        Raises:
            Exception: the destination does not answer; what was delivered until then is noted, the rest stays.
        """
        if not self._connected:
            self._destination.connect(self.sent)
            self.sent.save(self.run_folder)
            self._connected = True
        for path in outbox_files(self.run_folder):
            batch: list[dict[str, Any]] = []
            position = self.sent.positions.get(path.name, 0)
            for record, after in read_records(path, position):
                if record is not None and record["kind"] not in ("metrics", "params", "tags"):
                    self._deliver(batch, path.name, position)
                    self._deliver([record], path.name, after)
                    batch = []
                elif record is not None:
                    batch.append(record)
                position = after
                if len(batch) >= BATCH_RECORDS:
                    self._deliver(batch, path.name, position)
                    batch = []
            self._deliver(batch, path.name, position)

    def pending(self) -> int:
        """Return how many records are still to be delivered."""
        start = self.sent.positions
        return sum(
            record is not None for path in outbox_files(self.run_folder) for record, _ in read_records(path, start.get(path.name, 0))
        )

    def _deliver(self, records: list[dict[str, Any]], outbox: str, position: int) -> None:
        """Deliver ``records``, then note that ``outbox`` is delivered up to ``position``."""
        if records:
            self._attempt(records)
            self.delivered += len(records)
        if self.sent.positions.get(outbox) != position:
            self.sent.positions[outbox] = position
            self.sent.save(self.run_folder)

    def _attempt(self, records: list[dict[str, Any]]) -> None:
        """Deliver ``records`` together; where that is refused, one by one, so that one bad record takes no other with it."""
        try:
            if records[0]["kind"] in ("metrics", "params", "tags"):
                self._log(records)
            else:
                self._destination.take(records[0])
        except OSError:  # some of the errors below are also this: no answer
            raise
        except (Refused, KeyError, TypeError, ValueError) as refusal:  # the latter: a record that is not what its kind says
            if len(records) == 1:
                self._refuse(records[0], refusal)
            else:
                for record in records:
                    self._attempt([record])

    def _log(self, records: list[dict[str, Any]]) -> None:
        points: list[Point] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        newest = {name: step for name, (step, _) in self.sent.points.items()}
        for record in records:
            values = record["values"]
            if record["kind"] == "tags":
                tags |= values
            elif record["kind"] == "params":
                for name, value in values.items():
                    if self.sent.params.get(name, params.setdefault(name, value)) != value:
                        tags[f"changed: {name}"] = value  # a run resumed with another value; the first one stays the parameter
            else:
                fresh = [Point(name, value, record["step"], record["time_ms"]) for name, value in values.items()]
                points += [point for point in fresh if point.step > newest.get(point.name, -1)]
                newest |= {name: max(record["step"], newest.get(name, -1)) for name in values}
        params = {name: value for name, value in params.items() if name not in self.sent.params}
        self._destination.log(points, params, tags)
        self.sent.points |= {point.name: [point.step, point.time_ms] for point in points}
        self.sent.params |= params

    def _refuse(self, record: dict[str, Any], refusal: Exception) -> None:
        self.refused += 1
        with (self.run_folder / FOLDER / "refused.jsonl").open("a") as file:
            file.write(json.dumps({"why": str(refusal), **record}) + "\n")


@contextmanager
def sole_delivery(run_folder: Path) -> Iterator[None]:
    """Hold the right to deliver a run's records; the system takes it back when the process ends, however it ends.

    Raises:
        InputError: another living process has it.
    """
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run_folder.name}: another process drives this run now; wait for its end, or choose another name") from None
        yield


def _sent_file(run_folder: Path) -> Path:
    return run_folder / FOLDER / "sent.json"
