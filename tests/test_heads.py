"""Pooling and TAPE's heads against plain loops, and what they promise about padding and checkpoints."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from raypro.core.batch import Batch
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.heads import PooledHead, Pooling, ResidueHead, ValueHead
from raypro.core.reference.heads import loop_pooling, loop_residue_head, loop_value_head
from raypro.core.residues import residue_mask
from tests.small import TINY, batch_of

KINDS = ("mean", "attention", "max", "summary")
WIDTH = TINY.width


def vectors(tokens: Tensor) -> Tensor:
    """Random vectors of all tokens: those at padding and control tokens are large, so that they show wherever they leak."""
    h = torch.randn(*tokens.shape, WIDTH, dtype=torch.float64)
    return torch.where(residue_mask(tokens)[:, :, None], h, 100 * h).requires_grad_()


def assert_same(ours: Tensor, loops: Tensor, inputs: list[Tensor]) -> None:
    """Both are equal, and so are the gradients of random sums of them."""
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    wanted = torch.randn_like(ours)
    gradients = [torch.autograd.grad(out, inputs, wanted, materialize_grads=True) for out in (ours, loops)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_residues_are_all_but_control_tokens_and_padding() -> None:
    tokens = torch.tensor([[2, 5, 1, 4, 29, 3, 0, 0]])
    assert residue_mask(tokens).tolist() == [[False, True, True, True, True, False, False, False]]


@pytest.mark.parametrize("kind", ["mean", "attention", "max"])
def test_pooling_equals_plain_loops(kind: str) -> None:
    tokens = batch_of("MKV", "MKVLAYTW", "M").tokens
    h, pooling = vectors(tokens), Pooling(kind, TINY.build()).double()
    loops = torch.stack([loop_pooling(kind, row[mask], pooling.score) for row, mask in zip(h, residue_mask(tokens), strict=True)])
    assert_same(pooling(h, tokens), loops, [h, *pooling.parameters()])


def test_pooling_by_hand() -> None:
    tokens, encoder = batch_of("AC").tokens, OneHotShape().build()
    h = torch.tensor([[[9.0, 9.0], [1.0, 4.0], [3.0, 2.0], [9.0, 9.0]]])
    assert Pooling("mean", encoder)(h, tokens).tolist() == [[2, 3]]
    assert Pooling("max", encoder)(h, tokens).tolist() == [[3, 4]]
    assert Pooling("summary", TINY.build())(h, tokens).tolist() == [[9, 9]]  # at CLS
    attention = Pooling("attention", encoder)
    attention.score = nn.Linear(2, 1)
    with torch.no_grad():
        attention.score.weight.copy_(torch.tensor([[torch.log(torch.tensor(3.0)) / 2, 0.0]]))  # the second residue weighs thrice the first
    assert attention(h, tokens)[0].tolist() == pytest.approx([2.5, 2.5])


def test_value_head_equals_plain_loops() -> None:
    head = ValueHead(WIDTH, 3, hidden=7).double()
    x = torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True)
    assert_same(head(x), torch.stack([loop_value_head(head.hidden, head.out, row) for row in x]), [x, *head.parameters()])


def test_residue_head_equals_plain_loops_and_sees_residues_only() -> None:
    tokens = batch_of("MKV", "MKVLAYTWQR", "M").tokens
    h, head = vectors(tokens), ResidueHead(WIDTH, 3, filters=7).double()
    mask = residue_mask(tokens)
    loops = torch.cat([loop_residue_head(head.norm, head.first, head.second, row[m]) for row, m in zip(h, mask, strict=True)])
    assert_same(head(h, tokens)[mask], loops, [h, *head.parameters()])


def test_parameter_counts_by_hand() -> None:
    def count(head: nn.Module) -> int:
        return sum(p.numel() for p in head.parameters())

    # Each normalised weight has one length beside it.
    assert count(ValueHead(768, 1)) == (768 * 512 + 1 + 512) + (512 + 1 + 1)
    assert count(ValueHead(768, 1195)) == (768 * 512 + 1 + 512) + (512 * 1195 + 1 + 1195)
    assert count(ResidueHead(768, 3)) == 2 * 768 + (768 * 512 * 5 + 1 + 512) + (512 * 3 * 3 + 1 + 3)
    encoder = ConvolutionShape().build()
    assert count(PooledHead("attention", encoder, 1)) - count(PooledHead("summary", encoder, 1)) == 256


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "residues"])
@pytest.mark.parametrize("shape", [TINY, ConvolutionShape(width=16), OneHotShape()], ids=lambda s: type(s).__name__)
def test_outputs_are_the_same_alone_and_beside_longer_ones(shape: object, kind: str, dtype: torch.dtype, tolerance: float) -> None:
    encoder = shape.build().to(dtype).eval()
    head = ResidueHead(encoder.width, 3) if kind == "residues" else PooledHead(kind, encoder, 3)
    head = head.to(dtype).eval()
    short, both = batch_of("MKVLAYT").tokens, batch_of("MKVLAYT", "MKVLAYTWQRSTNPDEACDMKV").tokens
    alone, beside = head(encoder(short), short)[0], head(encoder(both), both)[0]
    if kind == "residues":
        alone, beside = alone[1:8], beside[1:8]
    torch.testing.assert_close(beside, alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [*KINDS, "residues"])
def test_a_batch_without_residues_gives_finite_outputs_and_gradients(kind: str) -> None:
    encoder, tokens = ConvolutionShape(width=8).build(), Batch.filler().tokens
    head = ResidueHead(8, 3) if kind == "residues" else PooledHead(kind, encoder, 1)
    h = torch.randn(1, 2, 8, requires_grad=True)
    out = head(h, tokens)
    out.sum().backward()
    assert out.isfinite().all() and h.grad is not None and not h.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_can_be_copied_kept_and_loaded_and_holds_no_encoder(kind: str) -> None:
    encoder, tokens = TINY.build().eval(), batch_of("MKVLAY", "MKV").tokens
    head, other = PooledHead(kind, encoder, 2).eval(), PooledHead(kind, encoder, 2).eval()
    h = encoder(tokens)
    wanted = head(h, tokens)
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in head.parameters()}
    assert not torch.equal(other(h, tokens), wanted)
    other.load_state_dict(load(save(head.state_dict())))
    assert torch.equal(other(h, tokens), wanted) and torch.equal(copy.deepcopy(head)(h, tokens), wanted)


def test_a_normalised_weight_has_one_length_for_all_outputs() -> None:
    head = ValueHead(WIDTH, 2)
    x = torch.randn(3, WIDTH)
    before = head(x)
    weight = head.hidden.parametrizations.weight
    assert weight.original0.shape == ()
    with torch.no_grad():
        weight.original1 *= 7.0
    torch.testing.assert_close(head(x), before)
    with torch.no_grad():
        weight.original0 *= 2.0
    assert float(head.hidden.weight.detach().norm()) == pytest.approx(weight.original0.item())


@pytest.mark.parametrize("head", [ValueHead(WIDTH, 2, dropout=0.5), ResidueHead(WIDTH, 2, dropout=0.5)], ids=lambda h: type(h).__name__)
def test_dropout_is_for_training_alone(head: nn.Module) -> None:
    tokens = batch_of("MKVLAYT").tokens
    h = torch.randn(*tokens.shape, WIDTH)
    inputs = (h,) if isinstance(head, ValueHead) else (h, tokens)
    assert not torch.equal(head(*inputs), head(*inputs))
    assert torch.equal(head.eval()(*inputs), head(*inputs))
