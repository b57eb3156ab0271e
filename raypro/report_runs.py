"""The runs of a store by what was done in them; what they reached is read in the modules ``report_pretrained``, ``report_tuned`` and
``report_probed``.

A run of another program, an older one of ours that lacks something, a file that is damaged: what is not there is left out, and the
cell stays empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from raypro.evaluate.report_scores import Trained
from raypro.evaluate.report_tables import method_name
from raypro.mlflow_store import RunRecord, Store
from raypro.report_data import TaskData, labels, task_data
from raypro.report_fields import encoder_of, equal_time_of, equal_tokens_of, minutes_of, objective_of, parameters_of


@dataclass(frozen=True)
class Runs:
    """The runs of a store, and what they say."""

    store: Store
    """Where they are."""
    records: Sequence[RunRecord]
    """The runs, the oldest first."""
    ui: str = ""
    """Address of MLflow's pages; empty where it is not known."""

    @cached_property
    def pretrained(self) -> list[RunRecord]:
        """Pre-training runs that ended well."""
        return [r for r in self.records if r.params.get("kind") == "Experiment" and r.status == "FINISHED" and "objective.kind" in r.params]

    @cached_property
    def data(self) -> Mapping[str, TaskData]:
        """What fine-tuning runs, and sweeps of them, that ended well were given, by the run's id; not of runs within a sweep."""
        kind = [r for r in self.records if r.params.get("kind") == "FineTuning" and r.status == "FINISHED" and not r.parent]
        return {r.run_id: task_data(r, self.store.json(r.run_id, "data/manifest.json")) for r in kind}

    @cached_property
    def fine_tuned(self) -> list[RunRecord]:
        """Those of them whose data are a task's."""
        return [r for r in self.records if r.run_id in self.data and self.data[r.run_id].task]

    @cached_property
    def data_labels(self) -> Mapping[TaskData, str]:
        """What the data of fine-tuning are called, where the runs of their task read different ones."""
        return labels(self.data[r.run_id] for r in self.fine_tuned)

    @cached_property
    def aligned(self) -> list[RunRecord]:
        """Direct coupling analyses of alignments (``raypro dca``) that ended well."""
        return [r for r in self.records if r.params.get("kind") == "Alignment" and r.status == "FINISHED"]

    def link(self, record: RunRecord) -> str:
        """Return the address of a run's page, or its path within MLflow's pages."""
        place = f"experiments/{quote(record.experiment_id, safe='')}/runs/{quote(record.run_id, safe='')}"
        return f"{self.ui}/#/{place}" if self.ui else place

    def trained(self, record: RunRecord) -> Trained:
        """Return the model of a pre-training run."""
        method = method_name(objective_of(record), encoder_of(record), equal_time=equal_time_of(record))
        return Trained(
            method,
            f"{record.name}, equal tokens" if equal_tokens_of(record) else record.name,
            (record.run_id,),
            self.link(record),
            parameters_of(record),
            record.metrics.get("train/tokens"),
            minutes_of(record),
            record.tags.get("corpus", ""),
            record.tags.get("corpus_checksum", ""),
        )
