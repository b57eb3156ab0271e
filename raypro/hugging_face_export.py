"""``raypro encoder export``: a checkpoint's Transformer as a folder that transformers loads, and that raypro reads back.

config.json, model.safetensors     the model, under the names of transformers
tokenizer.json, tokenizer_config.json
modeling_raypro.py                 where there are heads that transformers has not: a class to read, and to import or not
README.md                          the model card
raypro.json, raypro.safetensors    the experiment, and the weights that have no place in the model: with them nothing is lost
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import raypro
from raypro.config import InputError, from_plain
from raypro.core import checkpoint
from raypro.core.encoders.transformer import TransformerShape
from raypro.experiment import AnyExperiment, Experiment, experiment_of
from raypro.exported.card import Exported, card, data_sentence
from raypro.exported.family import most_tokens
from raypro.exported.tokenizer import tokenizer, tokenizer_configuration
from raypro.exported.weights import to_ours, to_theirs, token_head_of
from raypro.home import RUN_FILE
from raypro.settings import Tracking

FORMAT_VERSION = 1
ABOUT, KEPT, WEIGHTS, MODELING = "raypro.json", "raypro.safetensors", "model.safetensors", "modeling_raypro.py"
"""Where the file ABOUT is, :func:`native` reads the folder."""
LENGTH = 4096
"""Residues that a table of positions is made for, where positions are sinusoids: no training needs more, and it is some megabytes."""


@dataclass(frozen=True)
class About:
    """What raypro.json says beside the experiment."""

    version: int
    """Of this format."""
    raypro: str
    """The version of raypro that wrote it."""
    step: int
    """Finished optimizer steps."""


def export(folder: Path, out: Path, max_length: int = LENGTH) -> Exported:
    """Write a checkpoint's Transformer, with its token and pair heads, as transformers reads it.

    Args:
        folder: the checkpoint.
        out: the folder to make; written under a temporary name that is renamed at the end.
        max_length: most residues of a sequence, where the model has a table of positions; with pre-norm and rotations it has none.

    Raises:
        InputError: no checkpoint of a Transformer, or ``out`` is taken.
    """
    if max_length < 1:
        raise InputError(f"--max-length {max_length}: give 1 or more residues")
    with checkpoint.writing_to(out):
        model, theirs, kept = _read(folder, max_length)
        _write(out.absolute(), model, theirs, kept)
    return model


def _read(folder: Path, max_length: int) -> tuple[Exported, dict[str, Tensor], dict[str, Tensor]]:
    """Return what a checkpoint is exported as: for the card and the configuration, the weights of transformers, and those beside them."""
    found = checkpoint.load(folder)
    experiment = experiment_of(found.experiment)
    shape = experiment.encoder
    if not isinstance(shape, TransformerShape):
        kind = type(shape).__name__.removesuffix("Shape")
        raise InputError(f"{folder}: its encoder is of another kind ({kind}); only raypro's own Transformers are exported")
    if all(name.startswith("encoder.") for name in found.weights):
        raise InputError(f"{folder}: an imported encoder, published by others already; export a checkpoint that was trained from it")
    _require_weights(found, experiment)
    theirs, kept = to_theirs(shape, found.weights, max_length)
    own = {name: weight for name, weight in found.weights.items() if name.startswith(("encoder.", "token_head.", "pair_head."))}
    model = Exported(
        _published(experiment),
        shape,
        found.step,
        found.metrics,
        sum(weight.numel() for weight in own.values()),
        token_head_of(shape, own),
        any(name.startswith("pair_head.") for name in own),
        max_length,
        data_sentence(experiment, folder.absolute().parent / RUN_FILE),
    )
    return model, theirs, kept


def native(folder: Path, out: Path) -> Path:
    """Make a checkpoint of an exported folder again, its weights equal bit for bit; return its folder, ``out``.

    A model that was trained further in transformers and saved over the old one keeps what it learned.

    Raises:
        InputError: the folder is damaged or of another version.
    """
    about, metrics, experiment = _read_about(folder / ABOUT)
    if not isinstance(experiment.encoder, TransformerShape):
        raise InputError(f"{folder / ABOUT}: encoder: expected TransformerShape; export the checkpoint again")
    theirs, kept = _read_tensors(folder / WEIGHTS), _read_tensors(folder / KEPT)
    expected = _expected(experiment)
    try:
        weights = to_ours(experiment.encoder, expected, theirs, kept)
    except KeyError as missing:
        raise InputError(f"{folder}: no weight {missing} in it; export the checkpoint again") from None
    except (IndexError, RuntimeError) as error:  # parts that do not fit together
        raise InputError(f"{folder}: its weights are not those of its experiment ({error}); export the checkpoint again") from None
    wrong = next((name for name, size in expected.items() if weights[name].shape != size), None)
    if wrong is not None:
        found = tuple(weights[wrong].shape)
        raise InputError(f"{folder}: {wrong} should be {tuple(expected[wrong])}, found {found}; export the checkpoint again")
    model = _build(experiment)
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    checkpoint.save(out.absolute(), model, experiment.to_plain(), about.step, metrics)
    return out


def export_encoder_command(
    folder: tyro.conf.Positional[Path],
    /,
    out: Path,
    to: Annotated[Literal["hf"], tyro.conf.arg(name="to")] = "hf",
    max_length: int = LENGTH,
) -> None:
    """Write a checkpoint's Transformer as a folder that Hugging Face's transformers loads, with its tokenizer and a model card.

    Args:
        folder: the checkpoint.
        out: the folder to make.
        to: for what.
        max_length: most residues of a sequence, where the model has a table of positions.
    """
    model = export(folder, out, max_length)
    print(f"{out}: {model.config['architectures'][0]}; see its README.md, and state a licence there before publishing it")


def _build(experiment: AnyExperiment) -> nn.Module:
    learned = experiment.objective if isinstance(experiment, Experiment) else experiment.task
    model: nn.Module = learned.build(experiment.encoder.build())
    return model


def _expected(experiment: AnyExperiment) -> dict[str, torch.Size]:
    """Return the names and shapes of the weights of an experiment's model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in _build(experiment).state_dict().items()}


def _require_weights(found: checkpoint.Checkpoint, experiment: AnyExperiment) -> None:
    expected, weights = _expected(experiment), {name: weight.shape for name, weight in found.weights.items()}
    if weights != expected:
        wrong = next(name for name in {**expected, **weights} if weights.get(name) != expected.get(name))
        raise InputError(f"{found.path}: its weights are not those of its experiment: {wrong}; take another checkpoint of the run")


def _published(experiment: AnyExperiment) -> AnyExperiment:
    """Return the experiment without what is only this machine's: folders above the data, the tracking server's address."""
    if isinstance(experiment, Experiment):
        return replace(experiment, corpus=Path(experiment.corpus).name, tracking=Tracking())
    start = None if experiment.start is None else Path(experiment.start).name
    return replace(experiment, data=Path(experiment.data).name, start=start, tracking=Tracking())


def _write(out: Path, model: Exported, theirs: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    about = {"kind": "About", "version": FORMAT_VERSION, "raypro": raypro.__version__, "step": model.step}
    plain = {
        "config.json": model.config,
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": tokenizer_configuration(most_tokens(model.shape, model.max_length)),
        ABOUT: {"about": about, "metrics": dict(model.metrics), "experiment": model.experiment.to_plain()},
    }
    try:
        temporary.mkdir(parents=True)
        for name, value in plain.items():
            (temporary / name).write_text(json.dumps(value, indent=2) + "\n")
        save_file(theirs, temporary / WEIGHTS, metadata={"format": "pt"})
        save_file(kept, temporary / KEPT)
        (temporary / "README.md").write_text(card(model))
        if "auto_map" in model.config:
            shutil.copyfile(Path(__file__).parent / "exported" / MODELING, temporary / MODELING)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read_about(file: Path) -> tuple[About, dict[str, float], AnyExperiment]:
    try:
        plain: Any = json.loads(file.read_text())
        parts = plain["about"], plain["metrics"], plain["experiment"]
        version = plain["about"]["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged, or not raypro's ({type(error).__name__}: {error}); export the checkpoint again") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{file}: of format version {version!r}, this raypro reads {FORMAT_VERSION}; export the checkpoint again")
    about: About = from_plain(About, parts[0], f"{file}: about")
    if not isinstance(parts[1], dict):
        raise InputError(f"{file}: metrics: expected numbers by name, got {parts[1]!r:.40}")
    metrics = {name: from_plain(float, value, f"{file}: metrics.{name}") for name, value in parts[1].items()}
    try:
        return about, metrics, experiment_of(parts[2])
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: missing or damaged ({error}); export the checkpoint again") from None
