import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raypro.config import InputError
from raypro.core.encoders.transformer import Transformer, TransformerShape
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.pmlm import PMLM
from tests.small import TINY, batch_of, random_sequences

LONGEST = {"sinusoidal": None, "rotary": None, "learned": 60}
SHAPES = [replace(TINY, layers=2, positions=p, longest=most, norm=n) for p, most in LONGEST.items() for n in ("pre", "post")]


def parameters(shape: TransformerShape, objective: MLM | PMLM) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in objective.build(shape.build()).parameters()) / 1e6


def test_parameter_counts_of_the_paper() -> None:
    base = TransformerShape()
    assert parameters(base, PMLM()) == pytest.approx(87, rel=0.01)
    assert parameters(replace(base, width=1280, hidden=5120, layers=36, heads=20), PMLM()) == pytest.approx(713, rel=0.01)
    # The paper prints 250 M for large; its stated shape (34 layers of base) comes to 243 M, and the shape is what is kept.
    assert parameters(replace(base, layers=34), PMLM()) == pytest.approx(243, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.positions}-{s.norm}")
def test_a_sequence_has_the_same_vectors_alone_and_beside_longer_ones(shape: TransformerShape) -> None:
    encoder = shape.build().double().eval()
    sequences = random_sequences(5, 3, 60)
    together = encoder(batch_of(*sequences).tokens)
    for row, sequence in enumerate(sequences):
        alone = encoder(batch_of(sequence).tokens)[0]
        torch.testing.assert_close(together[row, : len(sequence) + 2], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.positions}-{s.norm}")
def test_equals_plain_loops(shape: TransformerShape) -> None:
    encoder = shape.build().double().eval()
    tokens = batch_of("MKVLAYTW").tokens
    torch.testing.assert_close(encoder(tokens)[0], plain(encoder, tokens[0]), rtol=1e-9, atol=1e-9)


def plain(encoder: Transformer, tokens: Tensor) -> Tensor:
    """The encoder written with a loop over positions and heads, from the papers' formulas."""
    shape = encoder.shape
    d, e = shape.width, shape.width // shape.heads

    def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

    def angle(position: int, pair: int, width: int) -> float:
        return position * 10000.0 ** (-2 * pair / width)

    def turn(x: Tensor, position: int) -> Tensor:
        out = x.clone()
        for pair in range(e // 2):
            a = angle(position, pair, e)
            cos, sin = math.cos(a), math.sin(a)
            out[pair] = x[pair] * cos - x[pair + e // 2] * sin
            out[pair + e // 2] = x[pair + e // 2] * cos + x[pair] * sin
        return out

    x = torch.stack([encoder.embedding.weight[t] * math.sqrt(d) for t in tokens])
    if shape.positions == "sinusoidal":
        for t in range(len(tokens)):
            angles = torch.tensor([angle(t, pair, d) for pair in range(d // 2)], dtype=torch.float64)
            x[t] = x[t] + torch.cat([angles.sin(), angles.cos()])
    if shape.positions == "learned":
        x = x + torch.stack([encoder.places.weight[t] * math.sqrt(d) for t in range(len(tokens))])
    if shape.norm == "post":
        x = norm(encoder.norm, x)
    for block in encoder.blocks:

        def attention(x: Tensor, block=block) -> Tensor:
            q, k, v = block.qkv(x).chunk(3, dim=1)
            out = torch.zeros_like(x)
            for h in range(shape.heads):
                part = slice(h * e, (h + 1) * e)
                for i in range(len(x)):
                    rows = [turn(q[i, part], i) if shape.positions == "rotary" else q[i, part]]
                    keys = [turn(k[j, part], j) if shape.positions == "rotary" else k[j, part] for j in range(len(x))]
                    weights = torch.stack([rows[0] @ key / math.sqrt(e) for key in keys]).softmax(0)
                    out[i, part] = sum(w * v[j, part] for j, w in enumerate(weights))
            return block.out(out)

        def feed(x: Tensor, block=block) -> Tensor:
            z = block.feed_in(x)
            return block.feed_out(0.5 * z * (1 + torch.erf(z / math.sqrt(2))))

        if shape.norm == "post":
            x = norm(block.norm_attention, x + attention(x))
            x = norm(block.norm_feed, x + feed(x))
        else:
            x = x + attention(norm(block.norm_attention, x))
            x = x + feed(norm(block.norm_feed, x))
    return norm(encoder.norm, x) if shape.norm == "pre" else x


def test_activation_checkpointing_changes_no_gradient() -> None:
    tokens = batch_of(*random_sequences(3, 5, 20)).tokens
    gradients = []
    for activation_checkpointing in (False, True):
        torch.manual_seed(1)
        encoder = replace(TINY, activation_checkpointing=activation_checkpointing).build().train()
        encoder(tokens).pow(2).sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for plainly, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plainly, recomputed)


def test_learned_positions_have_an_end_that_is_named() -> None:
    encoder = replace(TINY, positions="learned", longest=20).build()
    assert encoder(batch_of("M" * 20).tokens).shape == (1, 22, 16) and encoder.places.weight.shape == (22, 16)
    with pytest.raises(InputError, match="encoder.longest: a sequence of 21 residues.* positions for 20"):
        encoder(batch_of("M" * 21).tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "learned"}, "encoder.longest: None with learned positions"),
        ({"longest": 20}, "encoder.longest: 20 with sinusoidal positions"),
        ({"positions": "learned", "longest": 0}, "encoder.longest: 0 must be 1 or more"),
        ({"norm_epsilon": 0.0}, "encoder.norm_epsilon: 0.0 must be above 0"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


def test_a_larger_epsilon_shrinks_what_a_normalisation_gives() -> None:
    tokens = batch_of("MKVLAYTW").tokens
    torch.manual_seed(1)
    encoder = replace(TINY, norm="post", norm_epsilon=1.0).build().eval()
    usual = replace(TINY, norm="post").build().eval()
    usual.load_state_dict(encoder.state_dict())
    assert encoder(tokens).std() < 0.9 * usual(tokens).std()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match="encoder.heads: 5 heads"):
        replace(TINY, heads=5)
