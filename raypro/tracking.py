"""Runs in MLflow: one thread of the driver sends what the outboxes of a run hold (:mod:`raypro.outbox`).

mlflow is imported by that thread alone (:mod:`raypro.mlflow_run`). A server that does not answer is said aloud once; what it has
not got stays in the run's folder and is sent when it answers again, at the end of the run, or by :func:`send_pending`.
A run that is resumed goes on in the same MLflow run. The same thread sends the runs within a run, a sweep's trials.
"""

import atexit
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from raypro.address import reason, tracking_address
from raypro.config import InputError
from raypro.delivery import Delivery, Sent, sole_delivery
from raypro.mlflow_run import MlflowRun, quiet_mlflow
from raypro.outbox import Outbox, last_status
from raypro.provenance import identity_tags

INTERVAL = 2.0
"""Seconds between two looks into the outboxes."""
LONGEST_INTERVAL = 30.0
"""Seconds between two attempts at a server that has not answered for long."""
FIRST_ANSWER = 30.0
"""Seconds that closing waits for a store not yet heard of: loading mlflow and making a new SQLite store take some."""


class Child:
    """A run within a run: a trial of a sweep. Its records are sent by the thread of the run around it."""

    def __init__(self, run_folder: Path, sent: Sent) -> None:
        """Take charge of it, and begin.

        Raises:
            InputError: another living process drives this run.
        """
        self._held = ExitStack()
        self._held.enter_context(sole_delivery(run_folder))
        sent.save(run_folder)
        self.delivery = Delivery(run_folder, sent, MlflowRun(run_folder))
        self.reopen()

    def reopen(self) -> None:
        """Begin it, or go on with it after it was closed."""
        self.ended = False
        self.outbox = Outbox(self.delivery.run_folder, "driver")
        self.outbox.status("RUNNING")

    def close(self, status: str) -> None:
        """Record how it ended: FINISHED, FAILED or KILLED."""
        self.outbox.status(status)
        self.outbox.close()
        self.ended = True

    def release(self) -> None:
        """Let other processes send what is left."""
        self._held.close()


class Sender:
    """Sends a run's records to MLflow from a thread of this process, the driver's, while the run lasts.

    Use it as a context manager: the run ends as FINISHED, as KILLED on an interrupt, or as FAILED on any other exception.
    """

    def __init__(
        self,
        run_folder: Path,
        experiment_name: str = "raypro",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        first_look: float = 0.0,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        """Prepare to send the records of ``run_folder`` as the run ``run_name`` (default: the folder's name); see :meth:`start`.

        Before the ``first_look`` seconds after the start mlflow is not loaded, which takes a core for seconds.
        """
        self.run_folder = run_folder.absolute()
        self.address, self._experiment_name = tracking_address(tracking_uri), experiment_name
        sent = self._sent(self.run_folder, run_name or run_folder.name)
        self._delivery = Delivery(self.run_folder, sent, MlflowRun(self.run_folder))
        self._children: list[Child] = []
        self._children_change = threading.Lock()
        self._deliveries = [self._delivery]
        self._say, self._first_look = say, first_look
        self._held = ExitStack()
        self._closing = threading.Event()
        self._failures = 0
        self._answered = False
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-sender", daemon=True)

    def _sent(self, run_folder: Path, run_name: str) -> Sent:
        sent = Sent.load(run_folder)
        if sent is None:
            return Sent(self.address, self._experiment_name, run_name, time.time_ns() // 1_000_000)
        if sent.address != self.address:
            sent.forget()
            sent.address = self.address
        return sent

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None as long as MLflow has not answered."""
        return self._delivery.sent.run_id

    def start(self) -> "Sender":
        """Start sending; open :attr:`outbox`, the driver's own.

        Raises:
            InputError: another living process drives this run.
        """
        self._held.enter_context(sole_delivery(self.run_folder))
        self._delivery.sent.save(self.run_folder)
        self.outbox = Outbox(self.run_folder, "driver")
        self.outbox.status("RUNNING")
        self.outbox.tags(identity_tags())
        self._thread.start()
        return self

    def child(self, run_folder: Path, run_name: str) -> Child:
        """Begin, or go on with, a run within this one; close it when it ends.

        Raises:
            InputError: another living process drives it.
        """
        with self._children_change:
            for child in self._children:
                if child.delivery.run_folder == run_folder.absolute():
                    child.reopen()
                    return child
            child = Child(run_folder.absolute(), self._sent(run_folder, run_name))
            self._deliveries.append(child.delivery)
            self._children.append(child)
            return child

    def close(self, status: str, patience: float = 5.0) -> None:
        """Record how the run ended (FINISHED, FAILED or KILLED) and send what is left; runs within it that are open end as KILLED.

        It waits as long as sending goes on, and at most ``patience`` seconds for a server that does not answer.
        """
        for child in self._children:
            if not child.ended:
                child.close("KILLED")
        self.outbox.status(status)
        self.outbox.close()
        self._closing.set()
        while self._thread.is_alive():
            before = sum(delivery.delivered for delivery in self._deliveries)
            self._thread.join(patience if self._answered or self._failures else max(patience, FIRST_ANSWER))
            if sum(delivery.delivered for delivery in self._deliveries) == before:
                break
        for delivery in self._deliveries:
            if delivery.refused:
                self._say(
                    f"tracking: MLflow refused {delivery.refused} records of the run; see {delivery.run_folder}/tracking/refused.jsonl"
                )
        left = sum(delivery.pending() for delivery in self._deliveries)
        if left:
            name = self.run_folder.name
            self._say(f"tracking: {left} records of the run are kept, not sent; when MLflow answers: raypro runs sync {name}")
        for child in self._children:
            child.release()
        self._held.close()

    def __enter__(self) -> "Sender":
        """Start."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close with the true status."""
        if error is not None:
            self.outbox.tags({"failure": f"{type(error).__name__}: {error}"})
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")

    def _send_until_closed(self) -> None:
        last = False
        while not last:
            known = self._failures or self._answered
            last = self._closing.wait(min(INTERVAL * 2**self._failures, LONGEST_INTERVAL) if known else self._first_look)
            try:
                self._deliver()
            except Exception as error:  # whatever goes wrong with tracking, the run goes on; the records stay
                self._failures += 1
                if self._failures == 1:
                    why = reason(error)
                    self._say(f"tracking: {self.address} does not answer ({why}); the run goes on, its records are kept and sent later")
                continue
            if self._failures:
                self._say(f"tracking: {self.address} answers again; everything kept was sent")
            self._failures, self._answered = 0, True

    def _deliver(self) -> None:
        self._delivery.deliver()
        for child in self._children[:]:
            ended = child.ended  # before delivering: what is recorded meanwhile goes with the next round
            child.delivery.sent.parent_run_id = self.run_id
            child.delivery.deliver()
            with self._children_change:
                if ended and child.ended:
                    child.release()
                    self._children.remove(child)


def send_pending(run_folder: Path) -> int:
    """Send the records of a run, and of the runs within it, that MLflow has not got, and return their number.

    A run whose driver died without a word is closed as KILLED.

    Raises:
        InputError: there is no such run, its driver still lives, or MLflow does not answer.
    """
    sent = Sent.load(run_folder)
    if sent is None:
        raise InputError(f"{run_folder}: no tracked run there; 'raypro runs list' shows the runs")
    delivered = _send_one(run_folder, sent)
    for folder in sorted(path for path in run_folder.iterdir() if path.is_dir()):
        child = Sent.load(folder)
        if child is not None:
            child.parent_run_id = sent.run_id
            delivered += _send_one(folder, child)
    return delivered


def _send_one(run_folder: Path, sent: Sent) -> int:
    with sole_delivery(run_folder):
        if last_status(run_folder) == "RUNNING":
            outbox = Outbox(run_folder, "driver")
            outbox.status("KILLED")
            outbox.close()
        delivery = Delivery(run_folder, sent, MlflowRun(run_folder.absolute()))
        try:
            delivery.deliver()
        except Exception as error:
            raise InputError(f"{sent.address}: does not answer ({reason(error)}); the records stay, try again later") from error
    return delivery.delivered


def fetch_model(uri: str, tracking_uri: str | None = None) -> Path:
    """Return the folder of a registered model's checkpoint: ``models:/NAME/VERSION``, or ``models:/NAME`` for the newest version.

    Where the tracking server keeps the files elsewhere, they are fetched to a temporary folder that goes when this process ends.

    Raises:
        InputError: there is no such model, or the server does not answer.
    """
    address = tracking_address(tracking_uri)
    parts = re.fullmatch(r"models:/([^/]+)(?:/(\d+))?", uri)
    if parts is None:
        raise InputError(f"{uri}: not a registered model's address; it is models:/NAME/VERSION")
    mlflow = quiet_mlflow()
    client = mlflow.MlflowClient(address, address)
    try:
        versions = {int(found.version): found for found in client.search_model_versions(f"name = '{parts[1]}'")}
        if not versions or (parts[2] and int(parts[2]) not in versions):
            known = f"its versions: {', '.join(map(str, sorted(versions)))}" if versions else "no model of that name is registered"
            raise InputError(f"{uri}: not there, at {address}; {known}")
        place = client.get_model_version_download_uri(parts[1], str(int(parts[2]) if parts[2] else max(versions)))
        if place.startswith("file://"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=place, tracking_uri=address))
        folder = tempfile.mkdtemp(prefix="raypro-model-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=address))
    except mlflow.MlflowException as error:
        raise InputError(f"{uri}: {address} does not give it ({reason(error)})") from None
