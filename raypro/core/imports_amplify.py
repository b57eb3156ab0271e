"""The weights of AMPLIFY (Fournier et al. 2024), as its authors publish them, read as raypro's: none of the code beside them is run.

Legend: D width, H heads, E = D / H, V tokens of our alphabet.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raypro.config import InputError
from raypro.core.encoders.amplify import AmplifyShape

MODEL_TYPE = "AMPLIFY"
"""What a configuration of it names as its type."""
_PUBLISHED = {
    "rms_norm": True,
    "hidden_act": "SwiGLU",
    "layer_norm_after_embedding": False,
    "layer_norm_before_last_layer": True,
    "ffn_bias": False,
    "att_bias": False,
}
"""What a configuration may ask for otherwise, and no published model does."""
_BLOCK = {"wo": "out", "ffn.w12": "feed_in", "ffn.w3": "feed_out", "attention_norm": "norm_attention", "ffn_norm": "norm_feed"}
_TOKEN_HEAD = ("decoder.weight", "decoder.bias")


def amplify_shape(config: Mapping[str, Any]) -> AmplifyShape:
    """Return the shape that a configuration describes.

    Of the stated width of the feed-forward layer two thirds are left behind the gate, rounded up to a multiple of eight.

    Raises:
        InputError: a size is missing or none, or the model is not of the published form.
    """
    for name, expected in _PUBLISHED.items():
        found = config.get(name, expected)
        if str(found).lower() != str(expected).lower():  # as the authors' code compares activations
            raise InputError(f"{name}: {found!r}, where AMPLIFY has {expected!r}")
    try:
        width, layers, heads, inner = (
            int(config[name]) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        )
        epsilon = float(config.get("norm_eps", 1e-5))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"no sizes of an AMPLIFY in it ({error})") from None
    return AmplifyShape(layers, width, heads, hidden=-(-(2 * inner // 3) // 8) * 8, norm_epsilon=epsilon)


def amplify_weights(shape: AmplifyShape, theirs: Mapping[str, Tensor], vocabulary: Sequence[int]) -> dict[str, Tensor]:
    """Return the encoder's weights in our names, order and alphabet; the token head is left out.

    Of each head they rotate dimensions 2i and 2i + 1 together, we i and i + E / 2: the rows of queries and keys are put in that order.

    Args:
        shape: the encoder's.
        theirs: their weights by name.
        vocabulary: [V] their token for each of ours.

    Raises:
        InputError: one is missing, or there is one more.
    """
    named = {name: weight for name, weight in theirs.items() if name not in _TOKEN_HEAD}
    halves = torch.arange(shape.width).view(shape.heads, -1, 2).transpose(1, 2).flatten()
    try:
        weights = {"embedding.weight": named.pop("encoder.weight")[list(vocabulary)], "norm.weight": named.pop("layer_norm_2.weight")}
        for layer in range(shape.layers):
            before, ours = f"transformer_encoder.{layer}", f"blocks.{layer}"
            q, k, v = (named.pop(f"{before}.{part}.weight") for part in "qkv")
            weights[f"{ours}.qkv.weight"] = torch.cat([q[halves], k[halves], v])
            weights |= {f"{ours}.{to}.weight": named.pop(f"{before}.{from_}.weight") for from_, to in _BLOCK.items()}
    except (KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"not the weights of an AMPLIFY of its config.json's sizes ({str(error).splitlines()[0]})") from None
    if named:
        raise InputError(f"{next(iter(named))!r} is no weight of an AMPLIFY of its config.json's sizes")
    return weights
