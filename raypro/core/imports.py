"""Weights that others published, read as raypro's: without ever executing code from the file."""

import re
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.alphabet import SIZE
from raypro.core.encoders.cpcprot import CPCProtShape

PARALLEL = "module."
"""What a model trained on several GPUs has before each name."""
_CONVOLUTION = re.compile(r"enc\.conv(\d+)\.(weight|bias)")
_NORM = re.compile(r"enc\.norm(\d+)\.(weight|bias)")
_RECURRENT = re.compile(r"autoregressor\.(gru|lstm)\.((?:weight|bias)_[ih]h_l\d+)")


def read_cpcprot(path: str | Path) -> tuple[CPCProtShape, dict[str, Tensor]]:
    """Return the shape and the weights of a CPCProt encoder from a file of its authors: a ``state_dict`` that torch saved.

    The shape is read from the weights: any numbers of filters, convolutions and recurrent layers fit.

    Raises:
        InputError: there is no such file, it holds more than tensors, or they are not those of a CPCProt.
    """
    saved = read_tensors(Path(path))
    named = {name.removeprefix(PARALLEL): tensor for name, tensor in saved.items()}
    weights = {_our_name(name, path): tensor for name, tensor in named.items()}
    weights = {name: t.flatten() if name.startswith("patch_encoder.norms") else t for name, t in weights.items()}  # from [1, C, 1]
    try:
        shape = _shape_of(weights, "lstm" if any(name.startswith("autoregressor.lstm") for name in named) else "gru")
    except (KeyError, ValueError, IndexError) as error:  # ValueError, IndexError: tensors with fewer or more axes
        raise InputError(f"{path}: not the weights of a CPCProt encoder ({error}); take a best.ckpt of its authors") from None
    return shape, fitting(path, shape, weights, "CPCProt")


def fitting(path: str | Path, shape: "Buildable", weights: dict[str, Tensor], whose: str) -> dict[str, Tensor]:
    """Return those of the ``weights`` that an encoder of a shape has, in float32.

    Raises:
        InputError: one is not there, or of another size.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in shape.build().state_dict().items()}
    for name, size in expected.items():
        if name not in weights or weights[name].shape != size:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise InputError(f"{path}: {name} should be {tuple(size)}, found {found}; take {whose} as its authors saved it")
    return {name: weights[name].float() for name in expected}


class Buildable(Protocol):
    """The shape of an encoder."""

    def build(self) -> nn.Module:
        """Return the encoder."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of a ``state_dict`` that torch saved, executing nothing from it.

    Raises:
        InputError: there is no such file, it is damaged, or it holds anything else.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # torch's reader runs into anything in bytes that are no file of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: damaged, or holds more than tensors and plain values ({reason})") from None
    if not isinstance(saved, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in saved.items()):
        raise InputError(f"{path}: no state_dict in it: expected tensors by name; save the model's state_dict()")
    return saved


def _our_name(name: str, path: str | Path) -> str:
    """Return the name of a weight of the authors' in raypro."""
    if name == "enc.embedding.weight":
        return "patch_encoder.embedding.weight"
    if match := _CONVOLUTION.fullmatch(name):
        return f"patch_encoder.convolutions.{int(match[1]) - 1}.{match[2]}"
    if match := _NORM.fullmatch(name):
        return f"patch_encoder.norms.{int(match[1]) - 1}.{match[2]}"
    if match := _RECURRENT.fullmatch(name):
        return f"autoregressor.{match[2]}"
    raise InputError(f"{path}: {name!r} is no weight of CPCProt; take a best.ckpt of its authors")


def _shape_of(weights: dict[str, Tensor], recurrent: str) -> CPCProtShape:
    tokens, embedding = weights["patch_encoder.embedding.weight"].shape
    if tokens != SIZE:
        raise InputError(f"{tokens} tokens, where TAPE's IUPAC alphabet has {SIZE}")
    names = [f"patch_encoder.convolutions.{i}.weight" for i in range(len(weights))]
    convolutions = [weights[name] for name in names if name in weights]
    layers = sum(name.startswith("autoregressor.weight_ih_l") for name in weights)
    filters, kernels = (tuple(int(w.shape[axis]) for w in convolutions) for axis in (0, 2))
    return CPCProtShape(embedding, filters, kernels, "lstm" if recurrent == "lstm" else "gru", layers)
