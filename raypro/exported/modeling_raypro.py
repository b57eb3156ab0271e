"""Masked language models that raypro trained, with their own heads, for transformers.

The encoder is transformers' own. This file adds what its classes for masked language modelling have not: a token head without
LayerNorm between its layers, and the pair head of the pairwise masked language model (He et al. 2021). It runs without raypro:

    from modeling_raypro import RayproEsmForMaskedLM          # with this folder on Python's path
    model = RayproEsmForMaskedLM.from_pretrained(FOLDER)

Legend: B sequences, T tokens, D width, V alphabet.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.bert.modeling_bert import BertModel, BertOnlyMLMHead, BertPreTrainedModel
from transformers.models.esm.modeling_esm import EsmLMHead, EsmModel, EsmPreTrainedModel
from transformers.models.roformer.modeling_roformer import RoFormerModel, RoFormerOnlyMLMHead, RoFormerPreTrainedModel

ALPHABET = ("<pad>", "<mask>", "<cls>", "<sep>", "<unk>", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
RESIDUE_TOKENS = [ALPHABET.index(residue) for residue in RESIDUES]
"""Token of each standard residue, in the order of RESIDUES."""
NEVER = -1e4
"""Logit of a token that is never predicted."""


class PairHead(nn.Module):
    """Two layers from [h_i * h_j ; h_i - h_j] to logits over the 400 ordered pairs of residues."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width, width)
        self.second = nn.Linear(width, len(RESIDUES) ** 2)

    def forward(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return [..., 400] for the vectors [..., D] of the first residues and of the second."""
        features = torch.cat([h_i * h_j, h_i - h_j], dim=-1)
        logits: Tensor = self.second(nn.functional.gelu(self.first(features)))
        return logits


class _Heads:
    """What the classes below share: a token head of either kind, a pair head, or both."""

    def add_heads(self: Any, head: type[nn.Module], name: str) -> None:
        """Make the heads that the configuration names; ``head`` is the family's own token head, kept under its own ``name``."""
        width, config = self.config.hidden_size, self.config
        self.family_head = name if config.raypro_token_head == "family" else None
        if self.family_head:
            setattr(self, name, head(config))
        elif config.raypro_token_head:
            between = [nn.GELU(), *([nn.LayerNorm(width)] if config.raypro_token_head == "norm" else [])]
            self.token_head = nn.Sequential(nn.Linear(width, width), *between, nn.Linear(width, len(RESIDUES)))
        if config.raypro_pair_head:
            self.pair_head = PairHead(width)

    def get_output_embeddings(self) -> None:
        """Return None: the output layer is its own, not the embedding."""
        return None

    def residue_logits(self: Any, h: Tensor) -> Tensor:
        """Return logits [..., 20] over RESIDUES for the encoder's vectors h [..., D].

        A model that was trained on pairs alone has P(x_i) on the diagonal of P(x_i, x_j).
        """
        if self.family_head:
            return getattr(self, self.family_head)(h)[..., RESIDUE_TOKENS]
        if self.config.raypro_token_head:
            return self.token_head(h)
        return self.pair_logits(h, h)[..., :: len(RESIDUES) + 1]

    def pair_logits(self: Any, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return logits [..., 400] over pairs of residues for the encoder's vectors [..., D] of the first and of the second.

        Class 20 a + b is the pair of RESIDUES[a] and RESIDUES[b]. Only models trained on pairs have it.
        """
        return self.pair_head(h_i, h_j)

    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> MaskedLMOutput:
        """Return logits [B, T, V] and, with ``labels`` [B, T] (tokens; -100: not counted), the mean cross entropy in nats."""
        found = self.base_model(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **options)
        residues = self.residue_logits(found.last_hidden_state)
        logits = residues.new_full((*residues.shape[:-1], self.config.vocab_size), NEVER)
        logits[..., RESIDUE_TOKENS] = residues
        loss = None if labels is None else cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=found.hidden_states, attentions=found.attentions)


class RayproEsmForMaskedLM(_Heads, EsmPreTrainedModel):
    """ESM's encoder with raypro's heads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.esm = EsmModel(config, add_pooling_layer=False)
        self.add_heads(EsmLMHead, "lm_head")
        self.post_init()


class RayproBertForMaskedLM(_Heads, BertPreTrainedModel):
    """BERT's encoder with raypro's heads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.add_heads(BertOnlyMLMHead, "cls")
        self.post_init()


class RayproRoFormerForMaskedLM(_Heads, RoFormerPreTrainedModel):
    """RoFormer's encoder with raypro's heads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.roformer = RoFormerModel(config)
        self.add_heads(RoFormerOnlyMLMHead, "cls")
        self.post_init()
