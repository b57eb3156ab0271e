"""The runs of a store by what was done in them; what they reached is read in the modules ``report_pretrained``, ``report_tuned`` and
``report_probed``.

A run of another program, an older one of ours that lacks something, a file that is damaged: what is not there is left out, and the
cell stays empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from urllib.parse import quote

from raypro.evaluate.report_scores import Trained
from raypro.evaluate.report_tables import method_name
from raypro.mlflow_store import RunRecord, Store
from raypro.report_data import TaskData, labels, task_data
from raypro.report_fields import at_step, encoder_of, equal_time_of, equal_tokens_of, objective_of, parameters_of, step_of
from raypro.scoring import START


@dataclass(frozen=True)
class Runs:
    """The runs of a store, and what they say."""

    store: Store
    """Where they are."""
    records: Sequence[RunRecord]
    """The runs, the oldest first."""
    ui: str = ""
    """Address of MLflow's pages; empty where it is not known."""
    elsewhere: Sequence[RunRecord] = ()
    """Runs that are not shown, but whose encoders those that are may have begun with."""

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
        """Those of them of whose data it is known what is measured."""
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

    def origin(self, record: RunRecord) -> RunRecord | None:
        """Return the pre-training run that a fine-tuned encoder is from; None where there is none, or it is not sure which one.

        MLflow's id decides, which fine-tuning logs. A run that could not know it has the name, the corpus and the objective instead:
        there has to be one run, and no other, that fits. An imported encoder is of no run, whatever its folder is called.
        """
        source, tags = source_of(record), record.tags
        if source is None or step_of(record.params["start"]) is None:
            return None
        if known := tags.get(f"{START}run_id"):
            fitting = [r for r in self._origins if r.run_id == known]
        else:
            corpus, objective = (tags.get(f"{START}{name}") for name in ("corpus_checksum", "objective"))
            named = [r for r in self._origins if r.name == source and objective in (None, r.params["objective.kind"])]
            fitting = [r for r in named if corpus in (None, r.tags.get("corpus_checksum"))]
        return fitting[0] if len(fitting) == 1 else None

    @cached_property
    def _origins(self) -> list[RunRecord]:
        """Pre-training runs, wherever they are and however they ended."""
        every = {r.run_id: r for r in (*self.elsewhere, *self.records)}
        return [r for r in every.values() if r.params.get("kind") == "Experiment" and "objective.kind" in r.params]

    @cached_property
    def _curves(self) -> dict[tuple[str, str], list[tuple[int, float]]]:
        return {}

    def curve(self, record: RunRecord, metric: str) -> list[tuple[int, float]]:
        """Return the (step, value) of a metric of a run, asked for once."""
        key = (record.run_id, metric)
        if key not in self._curves:
            self._curves[key] = self.store.curve(*key)
        return self._curves[key]

    def trained(self, record: RunRecord, step: int | None) -> Trained:
        """Return the model of a pre-training run at a step; of None it is not known how long it was trained."""
        method = method_name(objective_of(record), encoder_of(record), equal_time=equal_time_of(record))
        return Trained(
            method,
            f"{record.name}, equal tokens" if equal_tokens_of(record) else record.name,
            (record.run_id,),
            self.link(record),
            parameters_of(record),
            *(None if step is None else at_step(self.curve(record, f"train/{count}"), step) for count in ("residues", "minutes")),
            record.tags.get("corpus", ""),
            record.tags.get("corpus_checksum", ""),
            pretrained=True,
        )


def source_of(record: RunRecord) -> str | None:
    """Return the name of the run, or of the imported encoder, that fine-tuning began with; None: random weights.

    A run's checkpoint is a folder ``step_...`` in the run's, an imported encoder a folder of its own.
    """
    start = record.params.get("start", "None")
    if start == "None":
        return None
    place = PurePath(start)
    return place.name if step_of(start) is None else place.parent.name
