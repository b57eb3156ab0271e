"""The kernels of the relaxed subset against its plain form: in Triton's interpreter where Triton is installed, and on a GPU."""

import multiprocessing
from importlib.util import find_spec

import pytest
import torch

from raypro.core.subset import EPS, gradient_limit, relaxed_subset
from tests.test_subset import case, gradient, noise_of


def through_kernels(logits: torch.Tensor, counts: torch.Tensor, weight: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernels' result and gradient; they are imported here, in a process in which Triton interprets."""
    from raypro.core import subset_triton

    limit = gradient_limit(logits.dtype)
    return subset_triton.forward(logits, counts, t, EPS), subset_triton.backward(logits, counts, weight, t, EPS, limit)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA")
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_kernels_equal_the_plain_form_in_tritons_interpreter(temperature, monkeypatch):
    scores, noise, valid = (x.detach()[1:] for x in case(37))
    logits = ((scores + noise) / temperature).float()
    counts, weight = torch.tensor([1, 0, 8, 9, 20]), noise_of(5, 37, 4) * valid
    scores = (temperature * logits.double()).requires_grad_()  # what float32 has of them
    plain = relaxed_subset(scores, torch.zeros_like(scores), valid, counts, temperature)
    logits = logits.masked_fill(~valid, torch.finfo(torch.float32).min / 4).t().contiguous().t()  # rows apart in memory
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result, d_logits = pool.apply(through_kernels, (logits, counts, weight.float(), temperature))
    torch.testing.assert_close(result.double() * valid, plain, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(d_logits.double() / temperature, gradient(plain, scores), rtol=1e-4, atol=5e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("apart", [False, True])
def test_on_a_gpu_the_kernels_equal_the_plain_form(temperature, apart):
    scores, noise = noise_of(128, 514, 1).float().requires_grad_(), noise_of(128, 514, 2).float()
    valid, counts = noise_of(128, 514, 3) > -1, torch.arange(128) % 52
    there = scores.detach().cuda()
    there = (there.t().contiguous().t() if apart else there).requires_grad_()  # a row's positions side by side in memory, or apart
    on_gpu = relaxed_subset(there, noise.cuda(), valid.cuda(), counts, temperature)
    on_host = relaxed_subset(scores, noise, valid, counts, temperature)
    torch.testing.assert_close(on_gpu.cpu(), on_host, rtol=1e-4, atol=1e-5)
    weight = noise_of(128, 514, 4).float()
    (d_there,) = torch.autograd.grad((on_gpu * weight.cuda()).sum(), there)
    torch.testing.assert_close(d_there.cpu(), gradient(on_host, scores), rtol=1e-3, atol=1e-4)
