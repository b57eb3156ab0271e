"""What MLflow holds of runs, read: the other way of :mod:`raypro.mlflow_run`. Nothing is written to a store.

Runs of other programs may lie in the same store: whatever they hold is plain text and numbers here, and an artifact that cannot be
had is None.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypro.address import reason, silence_of, sqlite_file
from raypro.config import InputError, nearest
from raypro.mlflow_run import quiet_mlflow

PAGE = 1000
"""Runs that are asked for at once."""
LARGEST = 4 << 20
"""Largest artifact, in bytes, that is read."""


@dataclass(frozen=True)
class RunRecord:
    """One run, as MLflow has it."""

    run_id: str
    """MLflow's id."""
    name: str
    """Its name; empty where it has none."""
    experiment: str
    """Name of its experiment."""
    experiment_id: str
    """MLflow's id of the experiment."""
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    parent: str | None
    """Id of the run around it, of a sweep's trial."""
    started_ms: int
    """When it started, milliseconds since 1970."""
    minutes: float | None
    """From its start to its end; None while it is running."""
    params: dict[str, str]
    """Parameters by name."""
    tags: dict[str, str]
    """Tags by name."""
    metrics: dict[str, float]
    """The last value of each metric, of those that are finite."""


class Store:
    """A store of runs, open for reading; a context manager."""

    def __init__(self, address: str) -> None:
        """Open the store at a tracking address.

        Raises:
            InputError: there is none, or it does not answer.
        """
        database = sqlite_file(address)
        if database is not None and not database.is_file():
            raise InputError(f"{database}: no such MLflow store; runs make one: set RAYPRO_HOME to the home of the runs, or give --address")
        silence = silence_of(address) if database is None else None
        if silence:
            raise InputError(f"{address}: does not answer ({silence})")
        self.address = address
        self._mlflow = quiet_mlflow()
        self._client = self._asked(lambda: self._mlflow.MlflowClient(address, address))
        self._folder = tempfile.TemporaryDirectory(prefix="raypro-report-")

    def __enter__(self) -> "Store":
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was fetched."""
        self._folder.cleanup()

    def runs(self, experiments: Sequence[str] = ()) -> list[RunRecord]:
        """Return the runs of the named experiments, of all where none is named; the oldest first.

        Raises:
            InputError: there is no experiment of that name, or the store cannot be read.
        """
        names = {e.experiment_id: e.name for e in self._asked(self._client.search_experiments)}
        for name in experiments:
            if name not in names.values():
                raise InputError(f"--experiment {name}: no such experiment at {self.address}{nearest(name, sorted(names.values()))}")
        chosen = {id_: name for id_, name in names.items() if not experiments or name in experiments}
        records, token = [], None
        while chosen:
            page = self._asked(lambda token=token: self._client.search_runs(list(chosen), max_results=PAGE, page_token=token))
            records += [_record(run, chosen[run.info.experiment_id]) for run in page]
            token = page.token
            if not token:
                break
        return sorted(records, key=lambda record: (record.started_ms, record.run_id))

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return the (step, value) of a metric in the order of its steps, one a step; what was logged last counts."""
        points: dict[int, float] = {}
        for point in sorted(self._asked(lambda: self._client.get_metric_history(run_id, metric)), key=lambda p: p.timestamp):
            if math.isfinite(point.value):
                points[point.step] = point.value
        return sorted(points.items())

    def files(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of what lies in a folder of a run's artifacts, folders too; nothing where there is no such folder."""
        try:
            return [found.path for found in self._client.list_artifacts(run_id, folder)]
        except Exception:  # whatever keeps a store's files from being listed: the page does without them
            return []

    def bytes(self, run_id: str, path: str) -> bytes | None:
        """Return an artifact; None where it is not there, cannot be had, or is too large."""
        try:
            file = Path(
                self._mlflow.artifacts.download_artifacts(
                    run_id=run_id, artifact_path=path, tracking_uri=self.address, dst_path=self._folder.name
                )
            )
            return file.read_bytes() if file.is_file() and file.stat().st_size <= LARGEST else None
        except Exception:  # as in files
            return None

    def json(self, run_id: str, path: str) -> dict[str, Any]:
        """Return an artifact that is a JSON object; an empty one where it is not."""
        try:
            value = json.loads(self.bytes(run_id, path) or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _asked(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # sqlalchemy's, requests' and mlflow's own: all mean that the store cannot be read
            raise InputError(f"{self.address}: cannot be read as an MLflow store ({reason(error)})") from error


def _record(run: Any, experiment: str) -> RunRecord:
    info, data = run.info, run.data
    ended = info.end_time if info.end_time and info.start_time else None
    return RunRecord(
        info.run_id,
        info.run_name or "",
        experiment,
        info.experiment_id,
        info.status,
        data.tags.get("mlflow.parentRunId"),
        info.start_time or 0,
        max(0.0, (ended - info.start_time) / 60_000) if ended else None,
        dict(data.params),
        dict(data.tags),
        {name: value for name, value in data.metrics.items() if math.isfinite(value)},
    )
