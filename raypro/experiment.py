"""One experiment: everything that decides what a run does, in frozen dataclasses. Defaults live here and in settings.py, nowhere else."""

from dataclasses import dataclass, field
from typing import Any, Literal

from raypro.config import InputError, from_plain, require_finite, to_plain
from raypro.core.encoders.amplify import AmplifyShape
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.hugging_face import HuggingFaceShape, require_length
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
from raypro.settings import Batches, Budget, Probing, SequenceBatches, Tracking, Validation, Workers, require_name
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification

Objective = MLM | PMLM | CPC | Adversarial | NextToken
"""The objectives that there are. A new one is a file in ``raypro/core/objectives`` and a name in this line."""
Encoder = (
    TransformerShape
    | ConvolutionShape
    | ResNetShape
    | LSTMShape
    | MultiplicativeLSTMShape
    | CPCProtShape
    | AmplifyShape
    | OneHotShape
    | HuggingFaceShape
)
"""The encoders that there are: a file in ``raypro/core/encoders`` each, and a name in this line."""
Task = Regression | Classification | ResidueClassification | Contacts
"""The kinds of tasks that there are: a file in ``raypro/tasks`` each, and a name in this line."""


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
        require_finite(self)
        if isinstance(self.encoder, OneHotShape):
            raise InputError("encoder: one-hot has no weights to pre-train; take another")
        if self.batches.accumulation_changes and self.budget.steps is None:
            raise InputError("batches.accumulation_changes: are shares of the budget's steps; give budget.steps too, or leave them out")
        require_length(self.encoder, self.batches.max_length, "batches.max_length")

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
        experiment: Experiment = from_plain(cls, as_shares(plain))
        return experiment


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
        require_finite(self)
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
    experiment: AnyExperiment = from_plain(AnyExperiment, as_shares(plain))
    return experiment


def as_shares(plain: Any) -> Any:
    """Return a saved experiment with the changes of accumulation as shares of the budget's steps: an older raypro saved them in steps.

    Raises:
        InputError: the budget has no steps that they could be a share of.
    """
    try:
        changes, steps = plain["batches"]["accumulation_changes"], plain["budget"]["steps"]
        in_steps = any(isinstance(first, int) and first >= 1 for first, _ in changes)
    except (KeyError, TypeError, ValueError):  # not there, or not what it should be: that is said by its field's name
        return plain
    if not in_steps:
        return plain
    if not steps:
        said = f"{changes} are steps, as an older raypro saved them"
        raise InputError(f"batches.accumulation_changes: {said}; give shares of the budget's steps, and budget.steps")
    shares = [[first / steps, batches] for first, batches in changes if first < steps]
    return {**plain, "batches": {**plain["batches"], "accumulation_changes": shares}}
