"""One experiment: everything that decides what a run does, in frozen dataclasses. Defaults live here and nowhere else."""

from dataclasses import dataclass, field
from typing import Any, Literal

from raypro.config import InputError, from_plain, to_plain
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.lstm import LSTMShape
from raypro.core.encoders.mlstm import MultiplicativeLSTMShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.resnet import ResNetShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.next_token import NextToken
from raypro.core.objectives.objective import Game
from raypro.core.objectives.pmlm import PMLM
from raypro.core.optimizer import Adam
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification
from raypro.tasks.tape import TASKS

Objective = MLM | PMLM | CPC | Adversarial | NextToken
"""The objectives that there are. A new one is a file in ``raypro/core/objectives`` and a name in this line."""
Encoder = TransformerShape | ConvolutionShape | ResNetShape | LSTMShape | MultiplicativeLSTMShape | CPCProtShape | OneHotShape
"""The encoders that there are: a file in ``raypro/core/encoders`` each, and a name in this line."""
Task = Regression | Classification | ResidueClassification | Contacts
"""The kinds of tasks that there are: a file in ``raypro/tasks`` each, and a name in this line."""


@dataclass(frozen=True)
class Batches:
    """How sequences are batched."""

    token_budget: int = 16_384
    """Most tokens of one worker's batch, padding and control tokens included."""
    accumulation: int = 1
    """Batches of each worker that make one optimizer step."""
    accumulation_changes: tuple[tuple[int, int], ...] = ()
    """Larger (or smaller) steps later in training: pairs of a step and the accumulation after so many finished steps, in order."""
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
        steps = [step for step, _ in self.accumulation_changes]
        if steps != sorted(set(steps)) or any(step < 0 or batches < 1 for step, batches in self.accumulation_changes):
            raise InputError("batches.accumulation_changes: give pairs of a step and batches (1 or more), the steps rising")

    def accumulation_at(self, step: int) -> int:
        """Return the number of each worker's batches that make the step after ``step`` finished ones."""
        reached = [batches for first, batches in self.accumulation_changes if first <= step]
        return reached[-1] if reached else self.accumulation


@dataclass(frozen=True)
class Budget:
    """When training ends: at whichever comes first."""

    steps: int | None = None
    """Optimizer steps."""
    epochs: int | None = None
    """Passes over the training split."""
    minutes: float | None = None
    """Minutes of training, since its first step; a restart starts them anew."""

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.steps, self.epochs, self.minutes) if limit is not None]
        if not limits or min(limits) <= 0:
            raise InputError("budget: give steps, epochs or minutes, each above 0; without one training would never end")


@dataclass(frozen=True)
class Validation:
    """What happens every so many steps: the loss on held-out sequences, and a checkpoint."""

    every: int | None = 1000
    """Optimizer steps between validations; a checkpoint is written after each, and at the end. None: an epoch."""
    sequences: int | None = 4096
    """Most sequences of the validation split that are used, the first ones; its rows are shuffled. None: all."""
    batch: int | None = None
    """Sequences of a validation batch, fixed so that a contrastive loss compares between batch sizes; None: as in training."""
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
class Experiment:
    """A pre-training run."""

    name: str
    """Name of the run: its folder in raypro's home, and in MLflow."""
    corpus: str
    """Folder of the corpus."""
    objective: Objective
    """What is learned."""
    encoder: Encoder = field(default_factory=TransformerShape)
    """The model."""
    optimizer: Adam = field(default_factory=Adam)
    """How the weights change."""
    batches: Batches = field(default_factory=Batches)
    """How sequences are batched."""
    budget: Budget = field(default_factory=lambda: Budget(epochs=1))
    """When training ends."""
    validation: Validation = field(default_factory=Validation)
    """Validation and checkpoints."""
    workers: Workers = field(default_factory=Workers)
    """The processes that train."""
    tracking: Tracking = field(default_factory=Tracking)
    """Where the run is logged."""
    probe: Probing = field(default_factory=Probing)
    """What checkpoints are probed on while training goes on."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in bfloat16, weights and sums in float32."""
    compile: bool = False
    """Compile the encoder with torch.compile."""
    seed: int = 0
    """Seed of the weights, the order of the data, the masking and the dropout."""

    stage = "pretraining"

    def __post_init__(self) -> None:
        require_name(self.name)
        if isinstance(self.encoder, OneHotShape):
            raise InputError("encoder: one-hot has no weights to pre-train; take another")

    @property
    def selected_by(self) -> tuple[str, Literal["min", "max"]]:
        """The validation metric by which the best checkpoint is chosen."""
        return (f"valid/{self.objective.judged_by if isinstance(self.objective, Game) else 'loss'}", "min")

    @property
    def ranked_by(self) -> tuple[str, Literal["min", "max"]]:
        """The metric by which a sweep ranks its trials: the probe's where there is one, since losses may be of different things."""
        return (self.probe.metric, "max") if self.probe.task else self.selected_by

    def to_plain(self) -> dict[str, Any]:
        """Return the experiment as plain values."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_plain(cls, plain: Any) -> "Experiment":
        """Return the experiment that :meth:`to_plain` was called on; strict."""
        experiment: Experiment = from_plain(cls, plain)
        return experiment


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


@dataclass(frozen=True)
class FineTuning:
    """A fine-tuning run: a task is learned from labelled sequences."""

    name: str
    """Name of the run: its folder in raypro's home, and in MLflow."""
    data: str
    """Folder of the labelled data (``raypro task import``)."""
    task: Task
    """What is predicted, and by which head."""
    encoder: Encoder = field(default_factory=TransformerShape)
    """The model below the head; that of the checkpoint where there is one."""
    start: str | None = None
    """Checkpoint whose encoder is fine-tuned; None: the encoder starts from random weights."""
    frozen: bool = False
    """Train the head alone; the encoder's vectors are computed once and kept."""
    optimizer: Adam = field(default_factory=lambda: Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=100))
    """How the weights change."""
    batches: SequenceBatches = field(default_factory=SequenceBatches)
    """How sequences are batched."""
    budget: Budget = field(default_factory=lambda: Budget(epochs=20))
    """When training ends."""
    validation: Validation = field(default_factory=lambda: Validation(every=None, sequences=None, patience=5, keep=1))
    """Validation, early stopping and checkpoints."""
    workers: Workers = field(default_factory=Workers)
    """The processes that train."""
    tracking: Tracking = field(default_factory=Tracking)
    """Where the run is logged."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in bfloat16, weights and sums in float32."""
    compile: bool = False
    """Compile the encoder with torch.compile."""
    seed: int = 0
    """Seed of the head's weights (and of the encoder's, without a checkpoint), the order of the data, and the dropout."""

    stage = "fine-tuning"

    def __post_init__(self) -> None:
        require_name(self.name)
        if isinstance(self.encoder, OneHotShape) and not self.frozen:
            raise InputError("encoder: one-hot has no weights to fine-tune; add --frozen")

    @property
    def selected_by(self) -> tuple[str, Literal["min", "max"]]:
        """The validation metric by which the best checkpoint is chosen: the task's own."""
        return (f"valid/{self.task.primary}", "max")

    @property
    def ranked_by(self) -> tuple[str, Literal["min", "max"]]:
        """The metric by which a sweep ranks its trials: that which chooses their checkpoints."""
        return self.selected_by

    def to_plain(self) -> dict[str, Any]:
        """Return the experiment as plain values."""
        plain: dict[str, Any] = to_plain(self)
        return plain


AnyExperiment = Experiment | FineTuning


def experiment_of(plain: Any) -> AnyExperiment:
    """Return the experiment of either kind that ``to_plain`` was called on; strict."""
    experiment: AnyExperiment = from_plain(AnyExperiment, plain)
    return experiment


def require_name(name: str) -> None:
    """Raise InputError for a run's name that could not be a folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise InputError(f"name: {name!r} must be letters, digits, '-', '_' or '.', and not start with '.'")
