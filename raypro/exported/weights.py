"""A model's weights under the names and in the layout of transformers, and back. Legend: D width, H heads, E = D / H, V alphabet."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from raypro.core.alphabet import CLASS_TO_TOKEN, PAD, SIZE
from raypro.core.encoders.transformer import TransformerShape, sinusoids
from raypro.exported.family import ESM, ROFORMER, Family, family_of, most_tokens

NEVER = -1e4
"""Logit of a token that is no standard residue: its probability is zero, and float16 can hold it."""

TokenHead = Literal["family", "norm", "plain"] | None
"""A token head with LayerNorm between its layers that is the family's own, one whose LayerNorm has another epsilon than the encoder's,
one without LayerNorm, or none."""
_EPSILON = 1e-5
"""Of the token head's LayerNorm."""
_EMBEDDING, _PLACES = "encoder.embedding.weight", "encoder.places.weight"
_HEADS = ("token_head.", "pair_head.")


def token_head_of(shape: TransformerShape, names: Iterable[str]) -> TokenHead:
    """Return which token head the weights of a model with these names have."""
    layers = {name.split(".")[1] for name in names if name.startswith("token_head.")}
    if "3" not in layers:
        return "plain" if layers else None
    return "family" if shape.norm_epsilon == _EPSILON else "norm"


def to_theirs(shape: TransformerShape, ours: Mapping[str, Tensor], max_length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a model as transformers has them, and those of ours that have no place there, or not to the last digit.

    The embedding, and learned positions, are multiplied by sqrt(D) once and for all. As this cannot always be divided back to the last
    digit, the second holds them as they were.

    Args:
        shape: the encoder's.
        ours: the model's weights by name.
        max_length: most residues of a sequence, where a table of positions sets a limit.
    """
    family, head = family_of(shape), token_head_of(shape, ours)
    plain, scaled = _renamed(shape, family, head), _scaled(family)
    theirs, kept = _constants(shape, family, max_length), {}
    for name, weight in ours.items():
        if name in plain:
            theirs[plain[name]] = weight
        elif name in scaled:
            theirs[scaled[name]] = _with_rows_before(family, name, weight * math.sqrt(shape.width))
            kept[name] = weight
        elif ".qkv." in name and name.startswith("encoder."):
            theirs |= _split(shape, family, name, weight)
        elif head == "family" and name == "token_head.3.weight":
            theirs[f"{family.head[2]}.weight"] = _over_alphabet(weight, 0.0)
        elif head == "family" and name == "token_head.3.bias":
            theirs |= {place: _over_alphabet(weight, NEVER) for place in family.head_biases}
        elif name.startswith(_HEADS):
            theirs[name] = weight
        else:
            kept[name] = weight
    # Parts of one tensor are not written as they are: each has its own memory.
    return {name: weight.clone().contiguous() for name, weight in theirs.items()}, kept


def to_ours(shape: TransformerShape, names: Iterable[str], theirs: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model, which has these ``names``, from the two that :func:`to_theirs` gave.

    Raises:
        KeyError: one is missing; the message is its name in transformers.
    """
    names = list(names)
    head = token_head_of(shape, names)
    return {name: _one(shape, head, name, theirs, kept) for name in names}


def _one(shape: TransformerShape, head: TokenHead, name: str, theirs: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Tensor:
    family = family_of(shape)
    plain, scaled, residues = _renamed(shape, family, head), _scaled(family), torch.from_numpy(CLASS_TO_TOKEN)
    if name in plain:
        return theirs[plain[name]]
    if name in scaled:
        scale, found, before = math.sqrt(shape.width), theirs[scaled[name]], kept.get(name)
        # Someone may have trained the exported model further: what was kept counts only while it is still the same.
        if before is not None and torch.equal(_with_rows_before(family, name, before * scale), found):
            return before
        return found[_rows_before(family, name) :] / scale
    if ".qkv." in name and name.startswith("encoder."):
        return _joined(shape, family, name, theirs)
    if head == "family" and name == "token_head.3.weight":
        return theirs[f"{family.head[2]}.weight"][residues]
    if head == "family" and name == "token_head.3.bias":
        return theirs[family.head_biases[0]][residues]
    return theirs[name] if name.startswith(_HEADS) else kept[name]


def _scaled(family: Family) -> dict[str, str]:
    """Return where in transformers those weights of ours are that stand there times sqrt(D)."""
    embeddings = f"{family.kind}.embeddings"
    return {_EMBEDDING: f"{embeddings}.word_embeddings.weight", _PLACES: f"{embeddings}.position_embeddings.weight"}


def _rows_before(family: Family, name: str) -> int:
    """ESM counts positions from the padding token's id on, so that its table begins with rows for no position."""
    return PAD + 1 if family is ESM and name == _PLACES else 0


def _with_rows_before(family: Family, name: str, table: Tensor) -> Tensor:
    return torch.cat([table.new_zeros(_rows_before(family, name), table.shape[1]), table])


def _renamed(shape: TransformerShape, family: Family, head: TokenHead) -> dict[str, str]:
    """Return the names in transformers of those weights of ours that are the same there."""
    modules = {"encoder.norm": f"{family.kind}.{family.norm}"}
    for i in range(shape.layers):
        layer = f"{family.kind}.encoder.layer.{i}"
        modules |= {f"encoder.blocks.{i}.{ours}": f"{layer}.{theirs}" for ours, theirs in family.block.items()}
    if head == "family":
        modules |= {"token_head.0": family.head[0], "token_head.2": family.head[1]}
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items() for part in ("weight", "bias")}


def _attention(family: Family, name: str) -> tuple[str, str, str]:
    """Return where the queries', keys' and values' parts of a ``qkv`` of ours are."""
    _, _, block, _, part = name.split(".")
    before = f"{family.kind}.encoder.layer.{block}.attention.self"
    return f"{before}.query.{part}", f"{before}.key.{part}", f"{before}.value.{part}"


def _split(shape: TransformerShape, family: Family, name: str, weight: Tensor) -> dict[str, Tensor]:
    q, k, v = weight.chunk(3)
    if family is ROFORMER:
        q, k = (x[_neighbours(shape)] for x in (q, k))
    return dict(zip(_attention(family, name), (q, k, v), strict=True))


def _joined(shape: TransformerShape, family: Family, name: str, theirs: Mapping[str, Tensor]) -> Tensor:
    q, k, v = (theirs[place] for place in _attention(family, name))
    if family is ROFORMER:
        back = torch.argsort(_neighbours(shape))
        q, k = q[back], k[back]
    return torch.cat([q, k, v])


def _neighbours(shape: TransformerShape) -> Tensor:
    """Return the order [D] that puts dimensions i and i + E / 2 of each head, which rotate together, beside each other."""
    return torch.arange(shape.width).view(shape.heads, 2, -1).transpose(1, 2).flatten()


def _over_alphabet(rows: Tensor, elsewhere: float) -> Tensor:
    """Return [V, ...] with ``rows`` [20, ...] at the standard residues."""
    out = torch.full((SIZE, *rows.shape[1:]), elsewhere, dtype=rows.dtype)
    out[torch.from_numpy(CLASS_TO_TOKEN)] = rows
    return out


def _constants(shape: TransformerShape, family: Family, max_length: int) -> dict[str, Tensor]:
    """Return what their model has and ours has not: tables of positions, and zeros for what it learned nothing of."""
    tokens, head_width = most_tokens(shape, max_length), shape.width // shape.heads
    out = {}
    if family is ESM:
        contacts = f"{family.kind}.contact_head.regression"
        out |= {f"{contacts}.weight": torch.zeros(1, shape.layers * shape.heads), f"{contacts}.bias": torch.zeros(1)}
    else:
        out[f"{family.kind}.embeddings.token_type_embeddings.weight"] = torch.zeros(1, shape.width)
    if family is ROFORMER:
        out["roformer.encoder.embed_positions.weight"] = _sinusoids(tokens, head_width)
    elif shape.positions == "rotary":
        exponents = torch.arange(0, head_width, 2, dtype=torch.float) / head_width
        out["esm.rotary_embeddings.inv_freq"] = 1.0 / 10000.0**exponents
    elif shape.positions == "sinusoidal":
        out[_scaled(family)[_PLACES]] = _with_rows_before(family, _PLACES, _sinusoids(tokens, shape.width))
    return out


def _sinusoids(tokens: int | None, width: int) -> Tensor:
    assert tokens is not None  # only rotations set no limit
    return sinusoids(tokens, width, torch.device("cpu")).float()
