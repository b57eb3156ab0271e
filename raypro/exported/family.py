"""Which model of transformers a Transformer is, and what its parts are called there.

    norm    positions              model      how the positions get there
    pre     rotary                 ESM        the same rotations, of halves
    pre     sinusoidal, learned    ESM        they are its table of positions
    post    sinusoidal, learned    BERT       they are its table of positions
    post    rotary                 RoFormer   it rotates neighbouring dimensions: those of queries and keys are put into that order

Each is the same function, not an approximation: nothing is trained anew.
"""

from dataclasses import dataclass
from typing import Any

from raypro.core.alphabet import CLS, MASK, PAD, SEP, SIZE
from raypro.core.encoders.transformer import TransformerShape
from raypro.data.plan import CONTROL_TOKENS

UNLIMITED = 1026
"""What ESM's configuration says of the longest sequence where rotations set no limit; it is not looked at then."""


@dataclass(frozen=True)
class Family:
    """A family of models in transformers."""

    kind: str
    """``model_type`` in its configuration; the prefix of the encoder's weights."""
    encoder: str
    """Its class for the encoder alone."""
    masked: str
    """Its class with a head for masked language modelling."""
    block: dict[str, str]
    """Where the modules of a block of ours are in a layer of theirs; ``qkv`` apart."""
    norm: str
    """Where the encoder's layer norm outside the blocks is."""
    head: tuple[str, str, str]
    """The token head's first layer, its norm and its last layer."""
    head_biases: tuple[str, ...]
    """Where the bias of the last layer is; a family may keep it twice."""

    @property
    def custom(self) -> str:
        """The class of modeling_raypro.py."""
        return f"Raypro{self.masked}"


_AFTER_SUBLAYERS = {
    "norm_attention": "attention.output.LayerNorm",
    "out": "attention.output.dense",
    "norm_feed": "output.LayerNorm",
    "feed_in": "intermediate.dense",
    "feed_out": "output.dense",
}
_PREDICTIONS = "cls.predictions"
_BERT_HEAD = (f"{_PREDICTIONS}.transform.dense", f"{_PREDICTIONS}.transform.LayerNorm", f"{_PREDICTIONS}.decoder")
_BERT_BIASES = (f"{_PREDICTIONS}.decoder.bias", f"{_PREDICTIONS}.bias")

ESM = Family(
    "esm",
    "EsmModel",
    "EsmForMaskedLM",
    {**_AFTER_SUBLAYERS, "norm_attention": "attention.LayerNorm", "norm_feed": "LayerNorm"},
    "encoder.emb_layer_norm_after",
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ("lm_head.bias",),
)
BERT = Family("bert", "BertModel", "BertForMaskedLM", _AFTER_SUBLAYERS, "embeddings.LayerNorm", _BERT_HEAD, _BERT_BIASES)
ROFORMER = Family("roformer", "RoFormerModel", "RoFormerForMaskedLM", _AFTER_SUBLAYERS, "embeddings.LayerNorm", _BERT_HEAD, _BERT_BIASES)


def family_of(shape: TransformerShape) -> Family:
    """Return the family that computes what a Transformer of this shape does."""
    if shape.norm == "pre":
        return ESM
    return ROFORMER if shape.positions == "rotary" else BERT


def most_residues(shape: TransformerShape, max_length: int) -> int | None:
    """Return the most residues that the exported model takes: ``max_length``, or as many as it learned positions for; None: any number."""
    if shape.longest is not None:
        return shape.longest
    return None if shape.norm == "pre" and shape.positions == "rotary" else max_length


def most_tokens(shape: TransformerShape, max_length: int) -> int | None:
    """Return the same with the control tokens."""
    residues = most_residues(shape, max_length)
    return None if residues is None else residues + CONTROL_TOKENS


def configuration(shape: TransformerShape, max_length: int, token_head: str | None, pair_head: bool) -> dict[str, Any]:
    """Return what config.json says.

    Args:
        shape: the encoder's.
        max_length: most residues of a sequence, where a table of positions sets a limit.
        token_head: see :data:`raypro.exported.weights.TokenHead`.
        pair_head: whether there is a pair head.
    """
    family = family_of(shape)
    tokens = most_tokens(shape, max_length)
    special = {"pad_token_id": PAD, "mask_token_id": MASK, "cls_token_id": CLS, "sep_token_id": SEP, "eos_token_id": SEP}
    about = {
        "model_type": family.kind,
        "architectures": [_architecture(family, token_head, pair_head)],
        "vocab_size": SIZE,
        **special,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": shape.norm_epsilon,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "is_decoder": False,
        "dtype": "float32",
    }
    if family is ESM:
        about["position_embedding_type"] = "rotary" if shape.positions == "rotary" else "absolute"
        # ESM counts positions from the padding token's id on, so that its table has one row more.
        about["max_position_embeddings"] = tokens + PAD + 1 if tokens else UNLIMITED
        about |= {"token_dropout": False, "emb_layer_norm_before": False, "rope_theta": 10000.0}
    else:
        about |= {"max_position_embeddings": tokens, "type_vocab_size": 1}
    if family is ROFORMER:
        about |= {"embedding_size": shape.width, "rotary_value": False}
    if token_head or pair_head:
        about |= {"raypro_token_head": token_head, "raypro_pair_head": pair_head}
    if pair_head or token_head not in (None, "family"):
        about["auto_map"] = {"AutoModelForMaskedLM": f"modeling_raypro.{family.custom}"}
    return about


def _architecture(family: Family, token_head: str | None, pair_head: bool) -> str:
    if token_head == "family":
        return family.masked
    return family.custom if token_head or pair_head else family.encoder
