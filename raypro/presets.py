"""What several jobs share: the demonstration corpus, names for runs, and where fine-tuning begins."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from raypro.config import InputError, from_plain, nearest
from raypro.core import checkpoint
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.cpcprot import CPCPROT
from raypro.core.encoders.lstm import BEPLER, TAPE_LSTM
from raypro.core.encoders.mlstm import UNIREP
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.resnet import TAPE_RESNET
from raypro.core.encoders.transformer import TAPE_TRANSFORMER, TransformerShape
from raypro.core.optimizer import Adam
from raypro.encoder_import import resolve_encoder
from raypro.experiment import Encoder, FineTuning
from raypro.home import home
from raypro.hugging_face import PREFIX
from raypro.settings import SequenceBatches
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.tape import TASKS

SCRATCH: dict[str, Encoder] = {
    "convolution": ConvolutionShape(width=192, residues="onehot", residual=False, norm="none", activation="relu", dropout=0.0),
    "transformer": TransformerShape(layers=4, width=128, heads=4, hidden=512),
    "tape_transformer": TAPE_TRANSFORMER,
    "tape_resnet": TAPE_RESNET,
    "tape_lstm": TAPE_LSTM,
    "unirep": UNIREP,
    "bepler": BEPLER,
    "cpcprot": CPCPROT,
    "onehot": OneHotShape(),
}
"""Encoders that start from random weights, or have none: what the presets of the pre-training jobs of the same names are judged beside.
The plain convolutions are those that validated best on TAPE's stability."""
FROM_SCRATCH = Adam(learning_rate=5e-4, beta2=0.999, warmup_steps=200, weight_decay=0.01)


def demo_corpus() -> str:
    """Return the folder of the corpus of synthetic families, which is made when it is first asked for."""
    return str(home() / "demo-corpus")


def fresh_name(kind: str) -> str:
    """Return ``kind`` with the time: a run's name that is not taken."""
    return f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def fine_tuning(task: str, encoder: str, data: str) -> FineTuning:
    """Return the fine-tuning experiment that a task, an encoder and labelled data make with all else at its default.

    Args:
        task: one of :data:`raypro.tasks.tape.TASKS`.
        encoder: a checkpoint of a pre-training (or fine-tuning) run, hf: and a model of Hugging Face, or one of :data:`SCRATCH`.
        data: folder of the labelled data.

    Raises:
        InputError: no such task or encoder, or a name that is both one of :data:`SCRATCH` and a checkpoint's folder.
    """
    if task not in TASKS:
        raise InputError(f"--task {task}: no such task{nearest(task, list(TASKS))}")
    name = fresh_name(f"{task.replace('_', '-')}-{encoder if encoder in SCRATCH else _called(encoder)}")
    if encoder in SCRATCH:
        if (Path(encoder) / checkpoint.MODEL_FILES[0]).is_file():
            raise InputError(f"--encoder {encoder}: both random weights and a checkpoint's folder here; write ./{encoder} for the folder")
        learned = TASKS[task]()
        if encoder == "convolution" and isinstance(learned, Regression | Classification):
            learned = replace(learned, pooling="max", dropout=0.1)
        batches = SequenceBatches(size=64 if encoder == "convolution" else 32)
        return FineTuning(name, data, learned, SCRATCH[encoder], frozen=encoder == "onehot", optimizer=FROM_SCRATCH, batches=batches)
    path = resolve_encoder(encoder)
    if not path.is_dir():
        raise InputError(f"--encoder {encoder}: neither a checkpoint's folder nor one of {', '.join(SCRATCH)}")
    shape, has_pair_head = start_of(path)
    experiment = FineTuning(name, data, TASKS[task](), shape, start=str(path.absolute()))
    if has_pair_head and isinstance(experiment.task, Contacts):
        return replace(experiment, task=replace(experiment.task, pair_layer=True))
    return experiment


def _called(encoder: str) -> str:
    """Return what a run is called after: the run of a checkpoint, or the model of Hugging Face."""
    path = Path(encoder.removeprefix(PREFIX)).absolute()
    return path.name if encoder.startswith(PREFIX) else path.parent.name


def start_of(path: str | Path) -> tuple[Encoder, bool]:
    """Return the encoder's shape of a checkpoint, and whether it has a pair head.

    Raises:
        InputError: there is no checkpoint.
    """
    found = checkpoint.load(resolve_encoder(path))
    encoder: Encoder = from_plain(Encoder, found.experiment["encoder"])
    return encoder, "pair_head.first.weight" in found.weights
