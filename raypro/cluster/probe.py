"""Probes of checkpoints beside training: Ray Train's asynchronous validation."""

from pathlib import Path

from ray.train import Checkpoint, ValidationConfig

from raypro.experiment import AnyExperiment, FineTuning
from raypro.settings import Probing


def probes_of(experiment: AnyExperiment) -> ValidationConfig | None:
    """Return how Ray Train has an experiment's checkpoints probed: one at a time, in their order, in a task beside the workers.

    Ray Train removes no checkpoint that waits for this, keeps which ones wait in the run's folder, and so asks again when a run is
    resumed; before a run ends all are done. A task that raises does not end the run, but one whose process dies would: hence the
    process within it (:func:`raypro.own_process.in_own_process`).
    """
    if isinstance(experiment, FineTuning) or experiment.probe.task is None:
        return None
    return ValidationConfig(_Probe(experiment.probe), ray_remote_kwargs={"num_cpus": experiment.probe.cpus})


class _Probe:
    def __init__(self, probing: Probing) -> None:
        self.probing = probing

    def __call__(self, checkpoint: Checkpoint) -> dict[str, float]:
        from raypro.checkpoint_probe import probe_and_record  # scikit-learn: the workers need it not

        return probe_and_record(Path(checkpoint.path), self.probing)
