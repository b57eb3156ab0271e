"""The weights of TAPE's models (Rao et al. 2019), as tape-proteins saves them, read as raypro's.

Read exactly are the Transformer (``bert-base``), the LSTM and UniRep (``babbler-1900``). The ResNet is not: it counts positions from the
end of the longest sequence of a batch, so that what it gives for a sequence depends on its neighbours. What stands on top of an encoder,
for pooling, for language modelling or for a task, is left out.

Legend: D width, V tokens of the alphabet.
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from raypro.config import InputError
from raypro.core.alphabet import CLS, CONTROL_TOKENS, FIRST_LETTER, LETTERS, PAD, SEP
from raypro.core.encoders.lstm import LSTMShape
from raypro.core.encoders.mlstm import MultiplicativeLSTMShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.imports import PARALLEL, fitting, read_tensors

TapeShape = TransformerShape | LSTMShape | MultiplicativeLSTMShape

HEAD_WIDTH = 64
"""Dimensions of an attention head, from which the number of heads follows: weights do not tell it."""
_UNIREP_LETTERS = "MRHKDESTNQCUGPAVIFYWLOX"
_UNIREP_CLS, _UNIREP_SEP, _UNIREP_X = 24, 25, 23

_BASE = re.compile(r"(?:bert|lstm|unirep|resnet)\.(.+)")
_ON_TOP = re.compile(r"(?:pooler|mlm|feedforward|predict|classify)\..+")
_Weights = dict[str, Tensor]


def read_tape(path: str | Path) -> tuple[TapeShape, _Weights]:
    """Return the shape and the weights of an encoder from a file of TAPE's (``pytorch_model.bin``), of any size.

    Raises:
        InputError: there is no such file, it holds more than tensors, or they are not those of a model of TAPE that can be read.
    """
    whose = "a Transformer, an LSTM or a UniRep of TAPE"
    found = {name.removeprefix(PARALLEL): tensor for name, tensor in read_tensors(Path(path)).items()}
    named = {match[1] if (match := _BASE.fullmatch(name)) else name: tensor for name, tensor in found.items()}
    named = {name: tensor for name, tensor in named.items() if not _ON_TOP.fullmatch(name)}
    shape: TapeShape
    try:
        if "embeddings.position_embeddings.weight" in named:
            shape, weights = _transformer(named)
        elif "encoder.forward_lstm.0.lstm.weight_ih_l0" in named:
            shape, weights = _lstm(named)
        elif "encoder.mlstm_cell.wmx.weight_v" in named:
            shape, weights = _unirep(named)
        elif "encoder.layer.0.conv1.weight" in named:
            raise InputError("TAPE's ResNet: its positions depend on the other sequences of a batch")
        else:
            raise InputError("none of their first layers is in it")
    except (KeyError, IndexError, ValueError, RuntimeError, InputError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"{path}: not the weights of {whose} ({reason}); take a pytorch_model.bin of tape-proteins") from None
    if named:
        raise InputError(f"{path}: {next(iter(named))!r} is no weight of {whose}; take a pytorch_model.bin of tape-proteins")
    return shape, fitting(path, shape, weights, whose)


def _transformer(named: _Weights) -> tuple[TransformerShape, _Weights]:
    """Take BERT's weights out of ``named``: post-norm, learned positions, one type of token, which is added to every position.

    Ours multiplies embeddings and positions by sqrt(D).
    """
    words, places, kinds = (named.pop(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type"))
    width, layers = words.shape[1], 1 + max(int(name.split(".")[2]) for name in named if name.startswith("encoder.layer."))
    if width % HEAD_WIDTH:
        raise InputError(f"width {width} is no multiple of the {HEAD_WIDTH} dimensions of a head")
    weights = {"embedding.weight": words / math.sqrt(width), "places.weight": (places + kinds[0]) / math.sqrt(width)}
    for kind in ("weight", "bias"):
        weights[f"norm.{kind}"] = named.pop(f"embeddings.LayerNorm.{kind}")
        for layer in range(layers):
            theirs, ours = f"encoder.layer.{layer}.", f"blocks.{layer}."
            attended = [named.pop(f"{theirs}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
            weights[f"{ours}qkv.{kind}"] = torch.cat(attended)
            for from_, to in (
                ("attention.output.dense", "out"),
                ("attention.output.LayerNorm", "norm_attention"),
                ("intermediate.dense", "feed_in"),
                ("output.dense", "feed_out"),
                ("output.LayerNorm", "norm_feed"),
            ):
                weights[f"{ours}{to}.{kind}"] = named.pop(f"{theirs}{from_}.{kind}")
    hidden, heads = len(weights["blocks.0.feed_in.bias"]), width // HEAD_WIDTH
    shape = TransformerShape(
        layers, width, heads, hidden, positions="learned", longest=len(places) - CONTROL_TOKENS, norm="post", norm_epsilon=1e-12
    )
    return shape, weights


def _lstm(named: _Weights) -> tuple[LSTMShape, _Weights]:
    """Take the weights of both stacks out of ``named``."""
    weights = {"embedding.weight": named.pop("embed_matrix.weight")}
    layers = sum(re.fullmatch(r"encoder\.forward_lstm\.\d+\.lstm\.weight_ih_l0", name) is not None for name in named)
    for stack, way in enumerate(("forward", "reverse")):
        for layer in range(layers):
            for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                weights[f"stacks.{stack}.layers.{layer}.{part}"] = named.pop(f"encoder.{way}_lstm.{layer}.lstm.{part}")
    units = weights["stacks.0.layers.0.weight_hh_l0"].shape[1]
    return LSTMShape(layers, units, weights["embedding.weight"].shape[1]), weights


def _unirep(named: _Weights) -> tuple[MultiplicativeLSTMShape, _Weights]:
    """Take the cell's weights out of ``named``. Its alphabet is another, which has no MASK: every letter that it lacks is its X."""
    letters = {letter: token for token, letter in enumerate(_UNIREP_LETTERS, start=1)}
    tokens = [_UNIREP_X] * FIRST_LETTER + [letters.get(letter, _UNIREP_X) for letter in LETTERS]
    tokens[PAD], tokens[CLS], tokens[SEP] = PAD, _UNIREP_CLS, _UNIREP_SEP
    embedding = named.pop("embed_matrix.weight")
    if len(embedding) != _UNIREP_SEP + 1:
        raise InputError(f"{len(embedding)} tokens, where UniRep's alphabet has {_UNIREP_SEP + 1}")
    weights = {"embedding.weight": embedding[tokens], "cell.bias": named.pop("encoder.mlstm_cell.wh.bias")}
    for theirs, ours in (("wmx", "mx"), ("wmh", "mh"), ("wx", "x"), ("wh", "m")):
        for part, original in (("weight_g", "original0"), ("weight_v", "original1")):
            weights[f"cell.{ours}.parametrizations.weight.{original}"] = named.pop(f"encoder.mlstm_cell.{theirs}.{part}")
    return MultiplicativeLSTMShape(units=len(weights["cell.bias"]) // 4, embedding=embedding.shape[1]), weights
