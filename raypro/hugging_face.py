"""Encoders from Hugging Face, a folder or a name on its hub, read as raypro's: without ever executing code that comes with them."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raypro.config import InputError, first_line
from raypro.core.alphabet import STANDARD, encode
from raypro.core.encoders.amplify import AmplifyShape
from raypro.core.encoders.hugging_face import (
    MISSING,
    T5,
    HuggingFaceShape,
    config_of,
    encoder_of,
    model_class,
    options_of,
)
from raypro.core.imports import fitting
from raypro.core.imports_amplify import MODEL_TYPE as AMPLIFY
from raypro.core.imports_amplify import amplify_shape, amplify_weights
from raypro.data.plan import CONTROL_TOKENS, pack
from raypro.hugging_face_files import read_json, read_tokenizer, refuse_code, translation

PREFIX = "hf:"
CONFIG = "config.json"
SAFE, PICKLED = ("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ABOUT_FILES = ("_name_or_path", "_commit_hash", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")
"""What a configuration says of its files, not of the model."""
_ABOUT_OUTPUTS = ("id2label", "label2id", "problem_type", "return_dict", "output_attentions", "output_hidden_states")
"""What it says of heads and of further outputs."""
_ALIKE = 1e-3
"""By how much of their largest value the vectors of a sequence may differ between batches: far more than rounding does."""


def read_hugging_face(path_or_id: str | Path) -> tuple[HuggingFaceShape | AmplifyShape, dict[str, Tensor]]:
    """Return the shape and the float32 weights of a protein encoder of Hugging Face.

    Weights are read as safetensors or, where a folder has no others, by torch's reader of tensors alone; code that a folder brings
    along is never run. Supported is what the installed transformers itself knows as an encoder of masked language models, the encoder of
    T5, and AMPLIFY, whose own code transformers would run: it becomes an encoder of ours.

    Args:
        path_or_id: a folder with config.json, weights and tokenizer; or a name on the hub, which transformers' own library downloads.

    Raises:
        InputError: there is no such model; it is damaged, no encoder, asks to run code, or does not take proteins residue by residue.
    """
    with _quiet():
        folder = folder_of(path_or_id)
        if read_json(folder / CONFIG).get("model_type") == AMPLIFY:
            return _read_amplify(folder)
        config = _read_config(folder)
        vocabulary, starts, ends = translation(folder, read_tokenizer(folder), config)
        model = _read_model(folder, config)
    kept = {**json.loads(config.to_json_string(use_diff=False)), "model_type": config.model_type}
    plain = {name: value for name, value in kept.items() if name not in _ABOUT_FILES + _ABOUT_OUTPUTS}
    most = most_tokens(model)
    shape = HuggingFaceShape(
        config=json.dumps(plain, sort_keys=True),
        vocabulary=vocabulary,
        starts=starts,
        ends=ends,
        longest=None if most is None else most - starts - ends,
    )
    weights = {f"model.{name}": weight.contiguous() for name, weight in model.state_dict().items()}
    _require_alike(folder, shape, weights)
    return shape, weights


def folder_of(path_or_id: str | Path) -> Path:
    """Return the folder that is meant: the given one, or where the hub's library keeps what it downloaded.

    Raises:
        InputError: transformers is missing, there is no such folder, or the hub does not give it.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"{folder}: a file; give its folder, with config, weights and tokenizer")
    name = str(path_or_id)
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise InputError(f"{name}: no such folder, and no name on the hub either; give a folder, or a name like facebook/esm2_t6_8M_UR50D")
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(MISSING) from None
    try:
        needed = ["*.json", "*.txt", "*.model", "model*.safetensors"]
        fetched = Path(huggingface_hub.snapshot_download(name, allow_patterns=needed, ignore_patterns=["*/*"]))
        if not _has_any(fetched, SAFE):
            huggingface_hub.snapshot_download(name, allow_patterns=["pytorch_model*.bin"], ignore_patterns=["*/*"], revision=fetched.name)
    except Exception as error:  # of many kinds: no network, no such name, no right to it
        raise InputError(f"{name}: no such folder, and the hub does not give it ({first_line(error)}); give a folder") from None
    return fetched


def most_tokens(model: nn.Module) -> int | None:
    """Return how many tokens a model takes: as many as its table has positions, less what its padding takes; None: any number."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("position_embeddings", "embed_positions")):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(module.num_embeddings - before, int(model.config.max_position_embeddings))  # type: ignore[union-attr, arg-type]
    return None


def _read_config(folder: Path) -> Any:
    """Return the configuration of a folder's model, if it is an encoder that transformers has."""
    import transformers

    plain = read_json(folder / CONFIG)
    named = plain.get("model_type")
    if not isinstance(named, str) or named not in transformers.CONFIG_MAPPING:
        refuse_code(folder / CONFIG, plain)
        known = f"no model of type {named!r}" if named else "no model_type"
        raise InputError(f"{folder / CONFIG}: {known} that the installed transformers ({transformers.__version__}) has; take a newer one")
    try:
        config = config_of(plain)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}; download it again") from None
    if config.model_type == T5:
        return config
    if config.is_encoder_decoder or getattr(config, "is_decoder", False) or type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        what = "an encoder with a decoder" if config.is_encoder_decoder else "no encoder of a masked language model"
        raise InputError(f"{folder / CONFIG}: {named} is {what}; raypro takes encoders, and of T5 the encoder")
    return config


def _read_amplify(folder: Path) -> tuple[AmplifyShape, dict[str, Tensor]]:
    """Return the shape and the float32 weights of an AMPLIFY; of its folder the configuration, the tokenizer and the tensors are read."""
    plain = read_json(folder / CONFIG)
    vocabulary, starts, ends = translation(folder, read_tokenizer(folder), SimpleNamespace(**plain))
    if not (starts and ends):
        raise InputError(f"{folder}: its tokenizer puts no token before or behind the residues; take an AMPLIFY as its authors saved it")
    try:
        shape = amplify_shape(plain)
        weights = amplify_weights(shape, load_file(folder / SAFE[0]), vocabulary)
    except InputError as error:
        raise InputError(f"{folder}: {error}; take an AMPLIFY as its authors saved it") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / SAFE[0]}: its weights cannot be read ({first_line(error)}); download them again") from None
    weights = fitting(folder, shape, weights, "AMPLIFY")
    _require_alike(folder, shape, weights)
    return shape, weights


def _read_model(folder: Path, config: Any) -> Any:
    """Return the encoder with the weights of a folder, all of them."""
    safe = _has_any(folder, SAFE)
    if not safe and not _has_any(folder, PICKLED):
        raise InputError(f"{folder}: no weights in it: expected {SAFE[0]} (or {PICKLED[0]})")
    chosen = model_class(config)
    try:
        model, said = chosen.from_pretrained(
            str(folder),
            config=config,
            use_safetensors=safe,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options_of(chosen),
        )
    except Exception as error:  # of many kinds, by what is damaged
        raise InputError(f"{folder}: its weights cannot be read ({first_line(error)}); download them again") from None
    encoder = encoder_of(model)
    used = {id(weight) for weight in encoder.parameters()}
    absent = {*said["missing_keys"], *(name for name, *_ in said["mismatched_keys"])}
    lacking = [name for name, weight in model.named_parameters() if id(weight) in used and name in absent]
    if lacking:
        raise InputError(
            f"{folder}: its weights lack {lacking[0]} and {len(lacking) - 1} more, of config.json's sizes; download both again"
        )
    return encoder


@torch.inference_mode()
def _require_alike(folder: Path, shape: HuggingFaceShape | AmplifyShape, weights: dict[str, Tensor]) -> None:
    """Raise InputError if vectors are not finite, or depend on a longer neighbour in the batch: such a model sees its padding."""
    encoder = shape.build().eval()
    encoder.load_state_dict(weights)
    long, short = len(STANDARD), 7
    tokens = pack(encode(STANDARD + STANDARD[:short]), np.array([0, long]), np.array([long, short])).astype(np.int64)
    both = torch.from_numpy(tokens)
    try:
        alone, beside = encoder(both[1:, : short + CONTROL_TOKENS]), encoder(both)[1:, : short + CONTROL_TOKENS]
        fits = alone.shape[2] == encoder.width
    except Exception as error:  # of many kinds: a model that takes no mask, a sequence of another kind
        raise InputError(
            f"{folder}: it does not work on tokens and a mask alone ({first_line(error)}); raypro takes no such model"
        ) from None
    if not fits:
        raise InputError(
            f"{folder}: its vectors have {alone.shape[2]} dimensions, its hidden_size is {encoder.width}; raypro takes no such model"
        )
    if not (alone + beside).isfinite().all():
        raise InputError(f"{folder}: its vectors are not finite; download its weights again")
    if not (alone - beside).abs().max() <= _ALIKE * alone.abs().max():
        raise InputError(f"{folder}: a sequence's vectors depend on its neighbours' lengths; raypro takes models that do not see padding")


def _has_any(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own reports and progress bars off the screen; as they were at the end."""
    try:
        from transformers.utils import logging
    except ImportError:
        raise InputError(MISSING) from None
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
