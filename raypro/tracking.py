"""Runs in MLflow: one thread of the driver sends what the outboxes of a run hold (:mod:`raypro.outbox`).

The only module that imports mlflow, and only in the thread that sends. A server that does not answer is said aloud once; what
it has not got stays in the run's folder and is sent when it answers again, at the end of the run, or by :func:`send_pending`.
A run that is resumed goes on in the same MLflow run.
"""

import fcntl
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from raypro.address import first_line, reason, sqlite_file, tracking_address
from raypro.config import InputError
from raypro.delivery import Delivery, Point, Refused, Sent, sole_delivery
from raypro.outbox import Outbox, last_status
from raypro.provenance import identity_tags

INTERVAL = 2.0
"""Seconds between two looks into the outboxes."""
LONGEST_INTERVAL = 30.0
"""Seconds between two attempts at a server that has not answered for long."""
FIRST_ANSWER = 30.0
"""Seconds that closing waits for a store not yet heard of: loading mlflow and making a new SQLite store take some."""

METRICS_AT_ONCE, PARAMS_OR_TAGS_AT_ONCE = 1000, 100  # MLflow's limits
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
CUT = " ... (cut)"
FINAL_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}


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
        parent_run_id: str | None = None,
        first_look: float = 0.0,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        """Prepare to send the records of ``run_folder`` as the run ``run_name`` (default: the folder's name); see :meth:`start`.

        Before the ``first_look`` seconds after the start mlflow is not loaded, which takes a core for seconds.
        """
        self.run_folder = run_folder.absolute()
        self.address = tracking_address(tracking_uri)
        sent = Sent.load(self.run_folder)
        if sent is None:
            now = time.time_ns() // 1_000_000
            sent = Sent(self.address, experiment_name, run_name or run_folder.name, now, parent_run_id)
        elif sent.address != self.address:
            sent.forget()
            sent.address = self.address
        self._delivery = Delivery(self.run_folder, sent, _MlflowRun(self.run_folder))
        self._say, self._first_look = say, first_look
        self._held = ExitStack()
        self._closing = threading.Event()
        self._failures = 0
        self._answered = False
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow-sender", daemon=True)

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

    def close(self, status: str, patience: float = 5.0) -> None:
        """Record how the run ended (FINISHED, FAILED or KILLED) and send what is left.

        It waits as long as sending goes on, and at most ``patience`` seconds for a server that does not answer.
        """
        self.outbox.status(status)
        self.outbox.close()
        self._closing.set()
        while self._thread.is_alive():
            before = self._delivery.delivered
            self._thread.join(patience if self._answered or self._failures else max(patience, FIRST_ANSWER))
            if self._delivery.delivered == before:
                break
        if self._delivery.refused:
            self._say(f"tracking: MLflow refused {self._delivery.refused} records of the run; see {self.run_folder}/tracking/refused.jsonl")
        left = self._delivery.pending()
        if left:
            name = self.run_folder.name
            self._say(f"tracking: {left} records of the run are kept, not sent; when MLflow answers: raypro runs sync {name}")
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
                self._delivery.deliver()
            except Exception as error:  # whatever goes wrong with tracking, the run goes on; the records stay
                self._failures += 1
                if self._failures == 1:
                    why = reason(error)
                    self._say(f"tracking: {self.address} does not answer ({why}); the run goes on, its records are kept and sent later")
                continue
            if self._failures:
                self._say(f"tracking: {self.address} answers again; everything kept was sent")
            self._failures, self._answered = 0, True


def send_pending(run_folder: Path) -> int:
    """Send the records of a run that MLflow has not got, and return their number.

    A run whose driver died without a word is closed as KILLED.

    Raises:
        InputError: there is no such run, its driver still lives, or MLflow does not answer.
    """
    sent = Sent.load(run_folder)
    if sent is None:
        raise InputError(f"{run_folder}: no tracked run there; 'raypro runs list' shows the runs")
    with sole_delivery(run_folder):
        if last_status(run_folder) == "RUNNING":
            outbox = Outbox(run_folder, "driver")
            outbox.status("KILLED")
            outbox.close()
        delivery = Delivery(run_folder, sent, _MlflowRun(run_folder.absolute()))
        try:
            delivery.deliver()
        except Exception as error:
            raise InputError(f"{sent.address}: does not answer ({reason(error)}); the records stay, try again later") from error
    return delivery.delivered


class _MlflowRun:
    """One MLflow run as the destination of a run's records (:class:`raypro.delivery.Destination`)."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder

    def connect(self, sent: Sent) -> None:
        self._mlflow = _quiet_mlflow()
        self._sent = sent
        database = sqlite_file(sent.address)
        with ExitStack() as held:
            if database is not None:  # two processes that make the same new store at once would spoil it
                database.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(database.with_suffix(".lock").open("w")), fcntl.LOCK_EX)
            self._client = self._mlflow.MlflowClient(sent.address)
            if sent.run_id is not None:
                try:
                    self._client.get_run(sent.run_id)
                except self._mlflow.MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    sent.forget()  # the store lost the run: it gets it again, whole
            self._experiment_id = self._experiment(sent.experiment, database)
            if sent.run_id is None:
                parent = {"mlflow.parentRunId": sent.parent_run_id} if sent.parent_run_id else {}
                run = self._client.create_run(self._experiment_id, start_time=sent.started_ms, tags=parent, run_name=sent.run_name)
                sent.run_id = run.info.run_id

    def log(self, points: list[Point], params: dict[str, str], tags: dict[str, str]) -> None:
        entities = self._mlflow.entities
        batches = (
            ("metrics", [entities.Metric(p.name, p.value, p.time_ms, p.step) for p in points], METRICS_AT_ONCE),
            ("params", [entities.Param(name, _cut(value, LONGEST_PARAM)) for name, value in params.items()], PARAMS_OR_TAGS_AT_ONCE),
            ("tags", [entities.RunTag(name, _cut(value, LONGEST_TAG)) for name, value in tags.items()], PARAMS_OR_TAGS_AT_ONCE),
        )
        for kind, items, size in batches:
            for start in range(0, len(items), size):
                self._call(self._client.log_batch, self._sent.run_id, **{kind: items[start : start + size]})

    def take(self, record: dict[str, Any]) -> None:
        kinds = {
            "artifact": self._artifact,
            "text": self._text,
            "dataset": self._dataset,
            "checkpoint": self._checkpoint,
            "status": self._status,
        }
        if record["kind"] not in kinds:
            raise Refused(f"unknown kind of record: {record['kind']}")
        kinds[record["kind"]](record)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the client; its final refusals become :class:`Refused`."""
        try:
            return method(*args, **kwargs)
        except self._mlflow.MlflowException as error:
            if error.error_code in FINAL_REFUSALS:
                raise Refused(first_line(error)) from error
            raise

    def _experiment(self, name: str, database: Path | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        beside = None if database is None else (database.parent / "artifacts").as_uri()  # mlflow's default is the working folder
        return self._client.create_experiment(name, beside, tags={"mlflow.experimentKind": "custom_model_development"})

    def _artifact(self, record: dict[str, Any]) -> None:
        path = self._run_folder / record["path"]
        if not path.exists():
            raise Refused(f"{path}: the file is gone")
        self._call(self._client.log_artifact, self._sent.run_id, str(path), record["folder"] or None)

    def _text(self, record: dict[str, Any]) -> None:
        self._call(self._client.log_text, self._sent.run_id, record["text"], record["name"])

    def _dataset(self, record: dict[str, Any]) -> None:
        entities = self._mlflow.entities
        source, profile = json.dumps({"uri": record["source"]}), json.dumps(record["profile"])
        dataset = entities.Dataset(record["name"], record["digest"][:12], "local", source, profile=profile)
        used = entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", record["split"])])
        self._call(self._client.log_inputs, self._sent.run_id, [used])

    def _checkpoint(self, record: dict[str, Any]) -> None:
        entities, step = self._mlflow.entities, record["step"]
        name = re.sub(r"[^\w-]", "-", f"{self._sent.run_name}-step-{step}")  # a model's name allows less than a run's
        tags = {"mlflow.model.isExternal": "true", "checkpoint": record["path"], "step": str(step)}
        model = self._call(self._client.create_logged_model, self._experiment_id, name, self._sent.run_id, tags)
        self._call(self._client.finalize_logged_model, model.model_id, entities.LoggedModelStatus.READY)
        self._call(self._client.log_outputs, self._sent.run_id, [entities.LoggedModelOutput(model.model_id, step)])
        metrics = []
        for key, value in record["metrics"].items():
            last_step, time_ms = self._sent.points.get(key, (None, None))
            moment = time_ms if last_step == step else record["time_ms"]  # the same moment: the same point of the run, not a second one
            metrics.append(entities.Metric(key, value, moment, step, model_id=model.model_id))
        if metrics:
            self._call(self._client.log_batch, self._sent.run_id, metrics=metrics)

    def _status(self, record: dict[str, Any]) -> None:
        if record["status"] == "RUNNING":
            self._call(self._client.update_run, self._sent.run_id, status="RUNNING")
        else:
            self._call(self._client.set_terminated, self._sent.run_id, record["status"], record["time_ms"])


def _quiet_mlflow() -> Any:
    """Import mlflow: it neither waits for minutes, nor reports its use to anyone, nor tells the user about its database."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again ourselves
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.entities

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return mlflow


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT
