"""Any protein encoder that the library ``transformers`` has: ESM-1b, ESM-2, ProtBERT, the encoder of ProtT5 and others.

Their tokens differ from ours in number and order, and not every model has a token before the residues or after them. So each token of
ours is translated, and each vector that leaves belongs to the token of ours at its place. Legend: B sequences, T tokens, V our alphabet,
D width.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.alphabet import MASK, PAD, SEP, SIZE, UNK
from raypro.core.residues import residue_mean

MISSING = "models of Hugging Face need the package transformers: pip install 'raypro[transformers]'"
T5 = "t5"
"""The one model with a decoder of which the encoder is taken alone."""
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Where a configuration may name code on the hub that transformers would fetch and run."""


@dataclass(frozen=True)
class HuggingFaceShape:
    """A protein encoder of the library transformers, whole: nothing else is needed to build it. ``raypro encoder import`` writes it."""

    config: str
    """The model's configuration: its config.json as one line of JSON, sorted by name."""
    vocabulary: tuple[int, ...]
    """[V] the model's token for each token of raypro's alphabet, in its order."""
    starts: bool
    """Whether the model has a token before the residues."""
    ends: bool
    """Whether the model has a token after the residues."""
    longest: int | None = None
    """Most residues of a sequence, where the model has a learned vector for each position; None: any number."""

    def __post_init__(self) -> None:
        if len(self.vocabulary) != SIZE or min(self.vocabulary) < 0:
            raise InputError(f"encoder.vocabulary: {len(self.vocabulary)} numbers; there must be {SIZE}, none negative")
        try:
            named = json.loads(self.config)["model_type"]
        except (ValueError, TypeError, KeyError):
            raise InputError("encoder.config: no configuration of a model as JSON; import the model again") from None
        if not isinstance(named, str):
            raise InputError(f"encoder.config: model_type: expected a name, got {named!r}; import the model again")

    def build(self) -> "HuggingFace":
        """Return the encoder, initialised by its own rules from torch's global generator.

        Raises:
            InputError: transformers is missing, or cannot build such a model.
        """
        return HuggingFace(self)


class HuggingFace(nn.Module):
    """Token ids to one vector a token. A sequence's output does not depend on its neighbours in the batch."""

    vocabulary: Tensor
    """[V] the model's token for each of ours."""

    def __init__(self, shape: HuggingFaceShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = build_model(config_of(json.loads(shape.config)))
        self.register_buffer("vocabulary", torch.tensor(shape.vocabulary), persistent=False)
        # A function, not a method: a head that pools by it does not hold the encoder.
        self.summary = _first if shape.starts else residue_mean

    @property
    def width(self) -> int:
        """Dimension D of the output vectors."""
        return int(self.model.config.hidden_size)

    def forward(self, tokens: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return vectors [B, T, D] for tokens [B, T] int64: zero at padding, and where the model has no token (at CLS, at SEP).

        ``inputs`` [B, T, V], where given, are seen in the tokens' place: weights over the alphabet, through which gradients flow.

        Raises:
            InputError: a sequence is longer than the model's positions.
        """
        require_length(self.shape, tokens.shape[1] - 2)
        seen = tokens != PAD
        if not self.shape.ends:
            seen = seen & (tokens != SEP)
        first = 0 if self.shape.starts else 1  # CLS is always our first token
        tokens, seen = tokens[:, first:], seen[:, first:]
        if inputs is None:
            h = self._vectors(tokens, seen)
        else:
            with self._in_place_of_tokens(inputs[:, first:], seen):
                h = self._vectors(tokens.masked_fill(tokens == MASK, UNK), seen)
        h = h.masked_fill(~seen[:, :, None], 0.0)
        return nn.functional.pad(h, (0, 0, first, 0))

    def _vectors(self, tokens: Tensor, seen: Tensor) -> Tensor:
        h: Tensor = self.model(input_ids=self.vocabulary[tokens], attention_mask=seen.long(), return_dict=True).last_hidden_state
        return h

    @contextmanager
    def _in_place_of_tokens(self, inputs: Tensor, seen: Tensor) -> Iterator[None]:
        """Let the model's embedding give mixtures of its tokens' vectors.

        Not by ``inputs_embeds``: of some models, ESM's for one, that stands for the embedding with its positions and norms.
        """
        table = self.model.get_input_embeddings()
        vectors = table.weight[self.vocabulary]  # [V, D]
        scale = torch.ones((), device=inputs.device)
        if getattr(self.model.config, "token_dropout", False):
            # ESM: a mask has no vector, and the others grow by the share of masks among a sequence's tokens.
            vectors = vectors.masked_fill(torch.arange(SIZE, device=inputs.device)[:, None] == MASK, 0.0)
            masks = (inputs[:, :, MASK] * seen).sum(dim=1) / seen.sum(dim=1)
            scale = 1 / (1 - masks)[:, None, None]
        with torch.autocast(inputs.device.type, enabled=False):
            mixtures = inputs.to(vectors.dtype) @ vectors * scale
        hook = table.register_forward_hook(lambda *_: mixtures)
        try:
            yield
        finally:
            hook.remove()


def require_length(shape: Any, residues: int, where: str = "sequences") -> None:
    """Raise InputError, naming where they come from, if an encoder of this shape, of any kind, takes no sequence of so many residues."""
    longest = getattr(shape, "longest", None)
    if longest is not None and residues > longest:
        raise InputError(
            f"{where}: {residues} residues, the encoder takes {longest} at most; leave longer sequences out, or take another encoder"
        )


def config_of(plain: dict[str, Any]) -> Any:
    """Return a model's configuration from the plain values of its config.json, without what names code to be fetched.

    Raises:
        InputError: transformers is missing, or has no such type of model.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        raise InputError(MISSING) from None
    if plain["model_type"] not in CONFIG_MAPPING:
        raise InputError(f"encoder.config: the installed transformers has no model of type {plain['model_type']!r}; take a newer one")
    plain = {name: value for name, value in plain.items() if name not in _KERNELS}
    with _explained(plain["model_type"]):
        return CONFIG_MAPPING[plain["model_type"]].from_dict(plain)


def build_model(config: Any) -> Any:
    """Return the encoder that a configuration describes, in float32, with nothing in it that gives no vectors.

    Raises:
        InputError: transformers cannot build it.
    """
    with _explained(config.model_type):
        chosen = model_class(config)
        model = chosen(config, **options_of(chosen)).float()
    return encoder_of(model)


def model_class(config: Any) -> Any:
    """Return the class of transformers of a configuration's encoder."""
    import transformers

    chosen = transformers.T5EncoderModel if config.model_type == T5 else transformers.MODEL_MAPPING[type(config)]
    return chosen[0] if isinstance(chosen, tuple) else chosen


def options_of(chosen: Any) -> dict[str, bool]:
    """Return what a class of transformers is built with: no layer for pooling."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(chosen.__init__).parameters else {}


def encoder_of(model: Any) -> Any:
    """Return what the vectors come from: of T5 the encoder's layers, of ESM all but a head for contacts, which would not be trained."""
    if model.config.model_type == T5:
        return model.encoder  # which has the embedding too: as a whole the model names it twice
    if hasattr(model, "contact_head"):
        model.contact_head = None
    return model


def _first(h: Tensor, tokens: Tensor) -> Tensor:
    """Return the vectors [B, D] at CLS, the first token, for h [B, T, D]."""
    return h[:, 0]


@contextmanager
def _explained(model_type: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many kinds, by who wrote the model
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"encoder.config: no {model_type} model can be made of it ({type(error).__name__}: {reason})") from None
