"""The parts of an experiment that say how, not what: batches, budget, validation, workers, tracking, probes. Defaults live here alone."""

from dataclasses import dataclass

from raypro.config import InputError
from raypro.tasks.tape import TASKS


@dataclass(frozen=True)
class Batches:
    """How sequences are batched."""

    token_budget: int = 16_384
    """Most tokens of one worker's batch, padding and control tokens included."""
    accumulation: int = 1
    """Batches of each worker that make one optimizer step."""
    accumulation_changes: tuple[tuple[float, int], ...] = ()
    """Larger (or smaller) steps later in training: pairs of a share of the budget's steps, 0 to below 1, and the accumulation once that
    share is done, in order. So they come wherever the budget is set; they need one in steps."""
    max_length: int = 512
    """Most residues of a sequence; a longer one is cropped at a window drawn anew each epoch."""
    window_row_groups: int = 4
    """Row groups of the corpus that are read, shuffled and sorted by length together."""
    sequences: int | None = None
    """Most sequences of one worker's batch, where their number matters (negatives of a contrast); None: what the budget holds."""

    def __post_init__(self) -> None:
        for name in ("accumulation", "sequences"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"batches.{name}: {getattr(self, name)} must be 1 or more")
        shares = [share for share, _ in self.accumulation_changes]
        if shares != sorted(set(shares)) or any(not 0 <= share < 1 or batches < 1 for share, batches in self.accumulation_changes):
            what = "pairs of a share of the budget's steps (0 to below 1, rising) and batches (1 or more)"
            raise InputError(f"batches.accumulation_changes: give {what}, as 0.8 2")

    def accumulation_at(self, total_steps: int | None, step: int) -> int:
        """Return the number of each worker's batches that make the step after ``step`` finished ones of a budget of ``total_steps``."""
        reached = [batches for share, batches in self.accumulation_changes if total_steps and round(share * total_steps) <= step]
        return reached[-1] if reached else self.accumulation


@dataclass(frozen=True)
class Budget:
    """When training ends: at whichever comes first."""

    steps: int | None = None
    """Optimizer steps."""
    epochs: int | None = None
    """Passes over the training split."""
    minutes: float | None = None
    """Minutes of training, validation included, since its first step; those up to a checkpoint count when it goes on from there."""
    residues: int | None = None
    """Residues that the encoder was trained on, of all workers: the step that reaches so many is the last. Those that only an adversary
    was trained on do not count."""

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.steps, self.epochs, self.minutes, self.residues) if limit is not None]
        if not limits or min(limits) <= 0:
            raise InputError("budget: give steps, epochs, minutes or residues, each above 0; without one training would never end")


@dataclass(frozen=True)
class Validation:
    """What happens every so many steps: the loss on held-out sequences, and a checkpoint."""

    every: int | None = 1000
    """Optimizer steps between validations; a checkpoint is written after each, and at the end. None: an epoch."""
    sequences: int | None = 4096
    """Most sequences of the validation split that are used: of a corpus the first ones, since its rows are shuffled; of labelled data a
    draw, the same for all runs. None: all."""
    batch: int | None = None
    """Sequences of each validation batch, so that a contrastive loss compares between batch sizes: exactly so many, in the order of the
    corpus, which is random. What is too short for the objective, and what does not fill a batch, is left out; where there are fewer,
    they are one batch. None: batches as in training."""
    patience: int | None = None
    """Stop after so many validations in a row that are no better than the best; None: never."""
    keep: int = 2
    """Checkpoints kept: the best so many, and the latest."""

    def __post_init__(self) -> None:
        for name in ("every", "sequences", "keep", "patience", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"validation.{name}: {getattr(self, name)} must be 1 or more")


@dataclass(frozen=True)
class Workers:
    """The processes that train together, and what each gets."""

    count: int = 1
    """Number of data-parallel workers."""
    cpus: float | None = None
    """CPUs that Ray reserves for each; None: an equal share of the cluster's, less one CPU for reading."""
    gpus: float = 0.0
    """GPUs that Ray reserves for each."""
    restarts: int = 3
    """Times that training goes on from the last checkpoint after a worker or a node died."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.gpus < 0 or self.restarts < 0 or (self.cpus is not None and self.cpus <= 0):
            raise InputError("workers: count must be 1 or more, cpus above 0, gpus and restarts not negative")


@dataclass(frozen=True)
class Tracking:
    """Where the run is logged."""

    experiment: str | None = None
    """Name of the MLflow experiment; None: ``pretraining`` or ``fine-tuning``."""
    uri: str | None = None
    """MLflow tracking address; None: ``$MLFLOW_TRACKING_URI``, else the SQLite store in raypro's home."""
    every: int = 50
    """Optimizer steps between logged points."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"tracking.every: {self.every} must be 1 or more")


@dataclass(frozen=True)
class Probing:
    """What checkpoints are probed on while training goes on (see ``raypro evaluate``): a curve over steps. Without a task: none."""

    task: str | None = None
    """What ``raypro evaluate --probe`` takes: a task, a kind of labels, families or contrastive."""
    data: str | None = None
    """Folder of its labelled data; for families and contrastive what ``raypro evaluate --data`` takes."""
    every: int = 1
    """Each so many-th checkpoint is probed. Those that wait for their probe stay on disk, and the run's end waits for them."""
    examples: int = 1000
    """Most examples that are fitted to, and most that are predicted, so that a probe is quick; of families in all."""
    cpus: float = 0.5
    """CPUs that Ray reserves for a probe, beside the workers; one probe runs at a time."""

    def __post_init__(self) -> None:
        if (self.task is None) != (self.data is None):
            raise InputError("probe: give task and data, or neither")
        if self.every < 1 or self.examples < 2 or self.cpus <= 0:
            raise InputError("probe: every must be 1 or more, examples 2 or more, cpus above 0")

    @property
    def reserved(self) -> float:
        """CPUs that must be there for probes."""
        return self.cpus if self.task else 0.0

    @property
    def metric(self) -> str:
        """Name of the figure that judges a checkpoint, higher is better: of several probes that of the best on validation."""
        primary = TASKS[self.task]().primary if self.task in TASKS else "accuracy"
        return f"probe/{self.task}/{primary}"


@dataclass(frozen=True)
class SequenceBatches:
    """How labelled sequences are batched."""

    size: int = 32
    """Sequences that make one optimizer step, over all workers."""
    token_budget: int = 8192
    """Most tokens that go through the model at once, padding included; a longer sequence goes alone. The loss does not depend on it."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.token_budget < 1:
            raise InputError("batches: size and token_budget must be 1 or more")


def require_name(name: str) -> None:
    """Raise InputError for a run's name that could not be a folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise InputError(f"name: {name!r} must be letters, digits, '-', '_' or '.', and not start with '.'")
