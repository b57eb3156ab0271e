"""One run in MLflow: what :mod:`raypro.tracking` sends goes through here. The only module that imports mlflow."""

import fcntl
import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raypro.address import sqlite_file
from raypro.config import first_line
from raypro.delivery import Point, Refused, Sent
from raypro.outbox import FOLDER

METRICS_AT_ONCE, PARAMS_OR_TAGS_AT_ONCE = 1000, 100  # MLflow's limits
LONGEST_PARAM, LONGEST_TAG = 6000, 8000
CUT = " ... (cut)"
REGISTERED = "registered"
"""File in a run's tracking folder: the address of the model that it registered."""
FINAL_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}


class MlflowRun:
    """One MLflow run as the destination of a run's records (:class:`raypro.delivery.Destination`)."""

    def __init__(self, run_folder: Path) -> None:
        """Take the records of the run in this folder."""
        self._run_folder = run_folder

    def connect(self, sent: Sent) -> None:
        """Find or make the run."""
        self._mlflow = quiet_mlflow()
        self._sent = sent
        database = sqlite_file(sent.address)
        with ExitStack() as held:
            if database is not None:  # two processes that make the same new store at once would spoil it
                database.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(database.with_suffix(".lock").open("w")), fcntl.LOCK_EX)
            self._client = self._mlflow.MlflowClient(sent.address, sent.address)
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
        """Take a batch."""
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
        """Take one record of any other kind."""
        kinds = {
            "artifact": self._artifact,
            "text": self._text,
            "dataset": self._dataset,
            "checkpoint": self._checkpoint,
            "model": self._model,
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

    def _model(self, record: dict[str, Any]) -> None:
        """Log files as a model and register it; its address in the registry becomes the run's tag "model"."""
        name, files = record["name"], [self._run_folder / path for path in record["files"]]
        missing = next((path for path in files if not path.is_file()), None)
        if missing:
            raise Refused(f"{missing}: the file is gone")
        model = self._call(self._client.create_logged_model, self._experiment_id, name, self._sent.run_id)
        for path in files:
            self._call(self._client.log_model_artifact, model.model_id, str(path))
        self._call(self._client.finalize_logged_model, model.model_id, self._mlflow.entities.LoggedModelStatus.READY)
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._call(self._client.create_registered_model, name)
        place = model.artifact_location  # not models:/..., which is looked for at mlflow's global address
        version = self._call(self._client.create_model_version, name, place, self._sent.run_id, model_id=model.model_id)
        address = f"models:/{name}/{version.version}"
        self._call(self._client.set_tag, self._sent.run_id, "model", address)
        (self._run_folder / FOLDER / REGISTERED).write_text(address)

    def _status(self, record: dict[str, Any]) -> None:
        if record["status"] == "RUNNING":
            self._call(self._client.update_run, self._sent.run_id, status="RUNNING")
        else:
            self._call(self._client.set_terminated, self._sent.run_id, record["status"], record["time_ms"])


def quiet_mlflow() -> Any:
    """Return mlflow, imported: it neither waits for minutes, nor reports its use to anyone, nor tells the user about its database."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again ourselves
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.entities

    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return mlflow


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT
