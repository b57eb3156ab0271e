"""What a fine-tuning run was given, as the manifest of its labelled data, which every such run logs, has it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raypro.evaluate.report_tables import OWN_KINDS, own_task
from raypro.mlflow_store import RunRecord
from raypro.report_fields import mapping, number
from raypro.tasks.tape import TASKS

KEPT = re.compile(r"([\d,]+) sequences of train are also in (\w+)")
"""What a manifest notes where an import was told to keep them."""
KINDS = {"Regression": "regression", "Classification": "classification", "ResidueClassification": "residue_classification"}
"""A task's class -> what a person's own data of that kind are asked for as."""


@dataclass(frozen=True)
class TaskData:
    """Labelled data, as a run knew them."""

    task: str
    """What they were imported as, one of TASKS, or the kind of task of a person's own data; empty where that is not known."""
    name: str
    """Name of their folder."""
    checksum: str
    """The beginning of their checksum."""
    rows: int | None = None
    """Training examples; None: not known."""
    in_train: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Split -> its sequences that train holds too, where the import kept them."""
    own: bool = False
    """Whether they are a person's own, of none of the papers' tasks."""

    @property
    def measured(self) -> str:
        """What a :class:`raypro.evaluate.report_scores.Score` of them calls its task."""
        return own_task(self.task) if self.own else self.task


def task_data(record: RunRecord, manifest: Mapping[str, Any]) -> TaskData:
    """Return what a run was given; ``manifest``: that of its data, empty where it cannot be had."""
    try:
        options = mapping(json.loads(str(manifest.get("options"))))
    except ValueError:
        options = {}
    named = record.tags.get("data_task", options.get("task"))
    of_a_paper = named in TASKS and named not in OWN_KINDS
    said = "data_task" in record.tags or "task" in options  # what nothing is said of may be of a paper's task
    kind = KINDS.get(record.params.get("task.kind", ""), "") if said else ""
    files = [mapping(file) for file in _list(manifest.get("files")) if mapping(file).get("split") == "train"]
    rows = number(files[0].get("rows")) if files else None
    kept = {split: int(count.replace(",", "")) for note in _list(manifest.get("notes")) for count, split in KEPT.findall(str(note))}
    return TaskData(
        str(named) if of_a_paper else kind,
        record.tags.get("data", ""),
        record.tags.get("data_checksum", ""),
        None if rows is None else int(rows),
        kept,
        own=not of_a_paper and bool(kind),
    )


def labels(given: Iterable[TaskData]) -> dict[TaskData, str]:
    """Return what tells data from others of the same task: name and size, the checksum where these are equal; nothing of the only ones."""
    different = set(given)
    said = {data: f"{data.name}, {data.rows:,} to train on" if data.rows else data.name for data in different}
    found = {}
    for data in different:
        alike = [other for other in different if other.measured == data.measured and (not data.own or other.name == data.name)]
        others = [other for other in alike if other.checksum != data.checksum]
        twin = any(said[other] == said[data] for other in others)
        found[data] = (f"{said[data]}, checksum {data.checksum[:8]}" if twin else said[data]) if others else ""
    return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
