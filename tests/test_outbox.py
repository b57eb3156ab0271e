"""The outbox loses nothing, and its delivery repeats nothing, whatever is down or killed in between."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raypro.config import InputError
from raypro.delivery import Delivery, Point, Refused, Sent, sole_delivery
from raypro.outbox import Outbox, outbox_files, read_records


class Memory:
    """A destination that remembers what it took, fails on demand, and refuses what is named "bad"."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.taken: list[dict] = []
        self.down = False

    def connect(self, sent: Sent) -> None:
        self._require_up()
        sent.run_id = "run"

    def log(self, points, params, tags) -> None:
        self._require_up()
        if "bad" in {point.name for point in points}:
            raise Refused("bad name")
        self.points += points
        self.params |= params
        self.tags |= tags

    def take(self, record) -> None:
        self._require_up()
        self.taken.append(record)

    def _require_up(self) -> None:
        if self.down:
            raise ConnectionError("down")


def records(run: Path) -> list[dict]:
    return [record for path in outbox_files(run) for record, _ in read_records(path, 0) if record is not None]


def delivery(run: Path, memory: Memory) -> Delivery:
    """A new process's delivery: what it knows is what is on disk."""
    return Delivery(run, Sent.load(run) or Sent("memory", "experiment", run.name, 0), memory)


def test_a_line_torn_by_a_kill_takes_no_other_record_with_it(tmp_path):
    Outbox(tmp_path).metrics(1, {"loss": 3.0})
    [path] = outbox_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])  # SIGKILL within a line
    assert [r["step"] for r in records(tmp_path)] == [1]
    Outbox(tmp_path).metrics(2, {"loss": 2.0})
    assert [r["step"] for r in records(tmp_path)] == [1, 2]


def test_a_line_still_being_written_is_not_read_yet(tmp_path):
    Outbox(tmp_path).metrics(1, {"loss": 3.0})
    [path] = outbox_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert records(tmp_path) == []
    path.write_bytes(whole)
    assert len(records(tmp_path)) == 1


def test_what_is_not_finite_becomes_a_tag_once(tmp_path):
    outbox = Outbox(tmp_path)
    outbox.metrics(1, {"loss": float("nan"), "rate": 0.5})
    outbox.metrics(2, {"loss": float("inf"), "rate": 0.25})
    metrics = [r["values"] for r in records(tmp_path) if r["kind"] == "metrics"]
    tags = [r["values"] for r in records(tmp_path) if r["kind"] == "tags"]
    assert metrics == [{"rate": 0.5}, {"rate": 0.25}]
    assert tags == [{"not finite: loss": "nan at step 1"}]


def test_every_point_arrives_once_whatever_is_down_killed_or_repeated(tmp_path):
    memory = Memory()
    worker, driver = Outbox(tmp_path, "worker"), Outbox(tmp_path, "driver")
    driver.params({"seed": 1})
    for step in range(1, 6):
        worker.metrics(step, {"loss": 1 / step})
    delivery(tmp_path, memory).deliver()

    memory.down = True
    for step in range(6, 8):
        worker.metrics(step, {"loss": 1 / step})
    with pytest.raises(ConnectionError):
        delivery(tmp_path, memory).deliver()
    assert delivery(tmp_path, memory).pending() == 2

    memory.down = False
    worker = Outbox(tmp_path, "worker")  # the group restarted from the checkpoint of step 4
    for step in range(5, 11):
        worker.metrics(step, {"loss": 1 / step})
    again = delivery(tmp_path, memory)
    again.deliver()
    again.deliver()
    assert [(p.step, p.value) for p in memory.points] == [(step, 1 / step) for step in range(1, 11)]
    assert delivery(tmp_path, memory).pending() == 0


def test_a_failure_in_mid_outbox_repeats_nothing_that_was_taken(tmp_path):
    class Flaky(Memory):
        def take(self, record) -> None:
            super().take(record)
            self.down = record["name"] == "second"

    memory = Flaky()
    outbox = Outbox(tmp_path)
    for name in ("first", "second", "third"):
        outbox.text(name, "text")
        outbox.metrics(1, {name: 1.0})
    with pytest.raises(ConnectionError):
        delivery(tmp_path, memory).deliver()
    memory.down = False
    delivery(tmp_path, memory).deliver()
    assert [r["name"] for r in memory.taken] == ["first", "second", "third"]
    assert [p.name for p in memory.points] == ["first", "second", "third"]


def test_one_refused_record_takes_no_other_with_it(tmp_path):
    memory = Memory()
    outbox = Outbox(tmp_path)
    for name in ("loss", "bad", "rate"):
        outbox.metrics(1, {name: 1.0})
    delivery(tmp_path, memory).deliver()
    assert [p.name for p in memory.points] == ["loss", "rate"]
    [refused] = [json.loads(line) for line in (tmp_path / "tracking" / "refused.jsonl").read_text().splitlines()]
    assert refused["values"] == {"bad": 1.0} and refused["why"] == "bad name"


def test_a_parameter_changed_at_resuming_becomes_a_tag(tmp_path):
    memory = Memory()
    Outbox(tmp_path).params({"workers": 2, "seed": 1})
    delivery(tmp_path, memory).deliver()
    Outbox(tmp_path).params({"workers": 3, "seed": 1, "new": 7})
    delivery(tmp_path, memory).deliver()
    assert memory.params == {"workers": "2", "seed": "1", "new": "7"}
    assert memory.tags == {"changed: workers": "3"}


def test_one_process_drives_a_run_and_its_death_frees_it(tmp_path):
    hold = f"import sys; from pathlib import Path; from raypro.delivery import sole_delivery\nwith sole_delivery(Path({str(tmp_path)!r})):"
    other = subprocess.Popen([sys.executable, "-c", hold + " print('held', flush=True); sys.stdin.read()"], stdin=-1, stdout=-1, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process drives this run"), sole_delivery(tmp_path):
        pass
    other.kill()
    other.wait()
    with sole_delivery(tmp_path):
        pass
