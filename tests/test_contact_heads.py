"""Contact heads against plain loops over pairs; dropout that both passes share; memory that does not grow with all pairs' features."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from raypro.core import contact_heads
from raypro.core.contact_heads import LinearContactHead, ResNetContactHead
from raypro.core.objectives.pairs import PairHead
from raypro.core.reference.heads import loop_contacts, loop_convolution_2d, loop_layer_norm, loop_pairs

WIDTH = 4


def linear_head(pair_layer: bool, dropout: float = 0.0) -> LinearContactHead:
    return LinearContactHead(WIDTH, pair_layer, dropout=dropout).double()


def resnet_head(pair_layer: bool, dropout: float = 0.0) -> ResNetContactHead:
    return ResNetContactHead(WIDTH, pair_layer, channels=3, blocks=2, dropout=dropout).double()


HEADS = [(make, pair_layer) for make in (linear_head, resnet_head) for pair_layer in (False, True)]
IDS = ["linear", "linear pair layer", "resnet", "resnet pair layer"]


def residues(length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(length, WIDTH, dtype=dtype, requires_grad=True)


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.exp() - 1)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def plain(head: nn.Module, h: Tensor) -> Tensor:
    """The logits [L, L] from loops over pairs, without dropout."""

    def features(pair: Tensor) -> Tensor:
        return pair if head.pair_layer is None else gelu(head.pair_layer.weight @ pair + head.pair_layer.bias)

    def project(layer: nn.Linear, pair: Tensor) -> Tensor:
        return layer.weight @ pair + layer.bias

    if isinstance(head, LinearContactHead):
        return loop_contacts(loop_pairs(h, lambda pair: project(head.linear, features(pair))))

    def normalised(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([elu(loop_layer_norm(norm, pair)) for pair in row]) for row in x])

    x = loop_pairs(h, lambda pair: project(head.project, features(pair)))
    for block in head.blocks:
        y = x
        for norm, convolution in zip(block.norms, block.convolutions, strict=True):
            y = loop_convolution_2d(convolution.weight, convolution.bias, normalised(norm, y))
        x = x + y
    return loop_contacts(normalised(head.norm, x) @ head.linear.weight.t() + head.linear.bias)


@pytest.fixture(params=[1, 7, 4096])
def pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one row, of a few, and of all."""
    monkeypatch.setitem(contact_heads.PAIRS, "cpu", request.param)


@pytest.mark.parametrize(("make", "pair_layer"), HEADS, ids=IDS)
def test_equals_plain_loops(make, pair_layer, pairs) -> None:
    head, h = make(pair_layer), residues(5)
    ours, loops = head(h), plain(head, h)
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(head.eval()(h), loops, rtol=1e-10, atol=1e-10)
    inputs, wanted = [h, *head.parameters()], torch.randn(5, 5, dtype=torch.float64)
    gradients = [torch.autograd.grad(out, inputs, wanted, materialize_grads=True) for out in (ours, loops)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "pair_layer"), HEADS, ids=IDS)
def test_maps_are_symmetric_bit_for_bit_and_a_batch_without_residues_is_harmless(make, pair_layer) -> None:
    head = make(pair_layer, dropout=0.5)
    for length in (0, 1, 2, 9):
        head.zero_grad()
        h = residues(length)
        logits = head(h)
        assert logits.shape == (length, length) and torch.equal(logits, logits.t())
        logits.sum().backward()
        assert h.grad is not None and h.grad.shape == h.shape and h.grad.isfinite().all()
        assert length or all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_parameter_counts_by_hand() -> None:
    def count(head: nn.Module) -> int:
        return sum(p.numel() for p in head.parameters())

    assert count(LinearContactHead(768, False)) == 2 * 1536 + 2
    assert count(LinearContactHead(768, True)) == (768 * 1536 + 768) + (2 * 768 + 2)
    block = 2 * (2 * 64 + 64 * 64 * 9 + 64)
    assert count(ResNetContactHead(768, False)) == (64 * 1536 + 64) + 8 * block + 2 * 64 + (2 * 64 + 2)
    assert count(ResNetContactHead(768, True)) - count(LinearContactHead(768, True)) == (64 * 768 + 64) + 8 * block + 128 + 130 - 1538


@pytest.mark.parametrize("make", [linear_head, resnet_head])
def test_a_pair_layer_takes_the_weights_of_a_pre_trained_pair_head(make) -> None:
    pre_trained = PairHead(WIDTH, WIDTH).double()
    head, h = make(True), residues(3)
    before = head(h)
    head.pair_layer.load_state_dict(pre_trained.first.state_dict())
    assert not torch.equal(head(h), before)
    torch.testing.assert_close(head(h), plain(head, h))


def test_without_a_pair_layer_the_linear_head_predicts_from_the_product_alone() -> None:
    head, h = linear_head(False), residues(6)
    before = head(h)
    with torch.no_grad():
        head.linear.weight[:, WIDTH:] += torch.randn(2, WIDTH)
    torch.testing.assert_close(head(h), before, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        head.linear.weight[:, :WIDTH] += torch.randn(2, WIDTH)
    assert not torch.allclose(head(h), before)


def test_the_resnet_sees_the_difference() -> None:
    head, h = resnet_head(False), residues(6)
    before = head(h)
    with torch.no_grad():
        head.project.weight[:, WIDTH:] += torch.randn(3, WIDTH)
    assert not torch.allclose(head(h), before)


@pytest.mark.parametrize(("make", "pair_layer"), HEADS, ids=IDS)
def test_dropout_is_the_same_in_both_passes(make, pair_layer, pairs) -> None:
    head, h = make(pair_layer, dropout=0.5), residues(4)

    def seeded(*_: Tensor) -> Tensor:
        torch.manual_seed(3)
        return head(h)

    assert torch.autograd.gradcheck(seeded, (h, *head.parameters()), fast_mode=True)
    assert torch.equal(seeded(), seeded())
    assert not torch.equal(head(h), head(h))
    assert torch.equal(head.eval()(h), head(h))


@pytest.mark.parametrize("pair_layer", [False, True])
def test_dropout_leaves_the_mean_and_reaches_each_order_of_a_pair_for_itself(pair_layer) -> None:
    head, h = linear_head(pair_layer, dropout=0.25), residues(5).detach()
    draws = torch.stack([head(h) for _ in range(4000)]).detach()
    # Every term is kept with probability 3/4 and divided by it: variance w^2 x^2 / 3, and half of it for the mean of two orders.
    wanted = head.eval()(h)
    weight = (head.linear.weight[1] - head.linear.weight[0]).detach()

    def after_layer(pair: Tensor) -> Tensor:
        return pair if head.pair_layer is None else gelu(head.pair_layer.weight @ pair + head.pair_layer.bias)

    terms = (loop_pairs(h, after_layer).detach() * weight) ** 2 / 3
    variance = (terms + terms.transpose(0, 1)).sum(dim=2) / 4
    assert ((draws.mean(dim=0) - wanted).abs() < 5 * (variance / len(draws)).sqrt()).all()
    torch.testing.assert_close(draws.var(dim=0), variance, rtol=0.15, atol=0)


def test_draws_drop_the_share_asked_for() -> None:
    like, generator = torch.empty(1001, 100), torch.Generator().manual_seed(0)
    for dropped in (0, 26, 128, 255):
        kept = contact_heads._kept(like, dropped, generator)
        assert kept.shape == like.shape and set(kept.unique().tolist()) <= {0, 1}
        share = dropped / 256
        assert float(kept.float().mean()) == pytest.approx(1 - share, abs=5 * (share * (1 - share) / kept.numel()) ** 0.5 + 1e-6)


@pytest.mark.parametrize("pair_layer", [False, True])
@pytest.mark.parametrize("kind", [LinearContactHead, ResNetContactHead])
def test_autocast_stays_close_and_keeps_gradients_in_float32(kind, pair_layer) -> None:
    head, h = kind(WIDTH, pair_layer, dropout=0.0), residues(12, torch.float32)
    exact = head(h)
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(h)
    assert not torch.equal(exact, rough.float())
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.03 * float(exact.detach().abs().max()))
    inputs, wanted = [h, *head.parameters()], torch.randn(12, 12)
    gradients = [torch.autograd.grad(out.float(), inputs, wanted, materialize_grads=True) for out in (rough, exact)]
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.05 * theirs.norm() + 1e-3


@pytest.mark.parametrize(("make", "pair_layer"), HEADS, ids=IDS)
def test_a_head_can_be_copied_kept_and_loaded(make, pair_layer) -> None:
    head, other, h = make(pair_layer).eval(), make(pair_layer).eval(), residues(4)
    assert not torch.equal(other(h), head(h))
    other.load_state_dict(load(save(head.state_dict())))
    assert torch.equal(other(h), head(h)) and torch.equal(copy.deepcopy(head)(h), head(h))


MEASURE = """
import re, sys, torch
from raypro.core.contact_heads import LinearContactHead

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

torch.set_num_threads(1)
for length in (20, 1000):  # the first loads what torch loads late
    head, h = LinearContactHead(128, sys.argv[1] == "True"), torch.randn(length, 128, requires_grad=True)
    before = megabytes("VmRSS")
    head(h).square().sum().backward()
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")
@pytest.mark.parametrize("pair_layer", [False, True])
def test_memory_stays_far_below_that_of_all_pairs_features(pair_layer) -> None:
    finished = subprocess.run([sys.executable, "-c", MEASURE, str(pair_layer)], capture_output=True, text=True, check=True)
    features = 1000 * 1000 * 2 * 128 * 4 / 2**20  # 977 MB, of which a plain head keeps several
    assert float(finished.stdout) < features / 6  # so below 1 GB at a width of 768
