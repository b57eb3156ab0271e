"""``raypro encoder import``: weights that others published become a checkpoint, from which everything else goes on."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

import tyro
from safetensors import SafetensorError
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.encoders.amplify import AmplifyShape
from raypro.core.encoders.hugging_face import HuggingFaceShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.imports import read_cpcprot
from raypro.core.imports_tape import TapeShape, read_tape
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.next_token import NextToken
from raypro.experiment import Experiment
from raypro.home import home
from raypro.hugging_face import PREFIX, folder_of, read_hugging_face
from raypro.hugging_face_export import ABOUT, native
from raypro.settings import Batches

Source = Literal["cpcprot", "hf", "tape"]
Imported = HuggingFaceShape | AmplifyShape | TapeShape
"""The shapes whose weights come without a head."""
_READ_AS = 1
"""How models of Hugging Face are read: another number, and they are read anew."""


def import_encoder(file: str | Path, out: Path, source: Source = "cpcprot") -> Path:
    """Write weights that others published as a checkpoint; return its folder.

    Args:
        file: of CPCProt and TAPE their authors' file; of Hugging Face a folder, one that raypro exported too, or a name on the hub.
        out: the folder to make.
        source: whose weights they are.

    Raises:
        InputError: the file holds something else, or ``out`` is taken.
    """
    with checkpoint.writing_to(out):
        if source == "hf":
            meant = str(file).removeprefix(PREFIX)
            return _import_hugging_face(folder_of(meant), out, Path(meant).name)
        if Path(file).is_dir():
            raise InputError(f"{file}: a folder; give the file of weights in it, or say --from hf of a folder of Hugging Face")
        if source == "tape":
            return _without_head(*read_tape(file), "tape", out, Path(file).name)
        return _import_cpcprot(file, out)


def _import_cpcprot(file: str | Path, out: Path) -> Path:
    shape, weights = read_cpcprot(file)
    objective = CPC(patch_length=shape.patch_length)
    model = objective.build(shape.build())
    model.encoder.load_state_dict(weights)
    plain = Experiment(name="cpcprot", corpus=f"imported from {Path(file).name}", objective=objective, encoder=shape).to_plain()
    checkpoint.save(out.absolute(), model, plain, step=0, metrics={})
    return out


def _import_hugging_face(folder: Path, out: Path, name: str) -> Path:
    """Write an encoder of Hugging Face as a checkpoint without a head, or what raypro exported as it was; return its folder."""
    if (folder / ABOUT).is_file():
        return native(folder, out)
    return _without_head(*read_hugging_face(folder), "hugging-face", out, name)


def _without_head(shape: Imported, weights: dict[str, Tensor], source: str, out: Path, name: str) -> Path:
    """Write an encoder as a checkpoint without a head: a head of random weights would pass for one that was trained."""
    encoder = shape.build()
    encoder.load_state_dict(weights)
    batches, longest = Batches(), getattr(shape, "longest", None)
    if longest is not None:
        batches = Batches(max_length=min(batches.max_length, longest))
    objective = MLM() if isinstance(shape, HuggingFaceShape | TransformerShape | AmplifyShape) else NextToken()
    about = Experiment(name=source, corpus=f"imported from {name}", objective=objective, encoder=shape, batches=batches)
    checkpoint.save(out.absolute(), nn.ModuleDict({"encoder": encoder}), about.to_plain(), step=0, metrics={})
    return out


def resolve_encoder(encoder: str | Path) -> Path:
    """Return the checkpoint's folder that is meant: of ``hf:FOLDER_OR_NAME`` that made of the model, the first time it is asked for.

    It is kept in raypro's home; a model whose files changed is read anew.

    Raises:
        InputError: the model cannot be read (see :func:`raypro.hugging_face.read_hugging_face`), or the home not be written.
    """
    if not str(encoder).startswith(PREFIX):
        return Path(encoder).expanduser()
    meant = str(encoder).removeprefix(PREFIX)
    folder = folder_of(meant)
    name = Path(meant).name or folder.resolve().name
    path = home() / "encoders" / f"{name}-{_digest_of(folder)}"
    if not path.is_dir():
        print(f"reading {meant} into raypro's home: {path}", flush=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _import_hugging_face(folder, temporary, name)
            os.rename(temporary, path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not path.is_dir():  # else another process was quicker
                raise InputError(f"{path}: cannot be written ({error}); set RAYPRO_HOME to a folder that can") from None
    return path


def _digest_of(folder: Path) -> str:
    """Return what a folder's files are known by, as a short digest: their names, sizes and times, for weights are many gigabytes."""
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir() if f.is_file())
    return hashlib.sha256(f"{_READ_AS} {folder.resolve()} {files}".encode()).hexdigest()[:12]


def import_encoder_command(
    file: tyro.conf.Positional[str], /, out: Path, source: Annotated[Source | None, tyro.conf.arg(name="from")] = None
) -> None:
    """Turn published weights into a checkpoint, running no code from the file.

    Args:
        file: the weights: of CPCProt the authors' best.ckpt; of TAPE the pytorch_model.bin of its Transformer, LSTM or UniRep; of
            Hugging Face a folder, or a name on its hub; hf:FOLDER_OR_NAME needs no --from.
        out: folder of the checkpoint to make.
        source: whose weights they are; hf of what begins with hf:, else cpcprot.
    """
    if file.startswith(PREFIX) and source not in (None, "hf"):
        raise InputError(f"{file}: a model of Hugging Face, but --from {source}; leave out either")
    source = source or ("hf" if file.startswith(PREFIX) else "cpcprot")
    print(f"{import_encoder(file, out, source)}: {source} encoder; use it wherever --encoder wants a checkpoint")
