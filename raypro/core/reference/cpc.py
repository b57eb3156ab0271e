"""CPCProt (Lu et al. 2020) written plainly: loops over patches, over t and over k, with dense autograd.

For tests, in float64, and for the benchmark. Shapes: N sequences, P patches of the longest, D width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def channel_norm(weight: Tensor, bias: Tensor, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x [N, C, L] normalised over its channels at each position, with the unbiased variance."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (x.var(dim=1, keepdim=True) + eps).sqrt() * weight[:, None] + bias[:, None]


def encode_patch(patch_encoder: nn.Module, patch: Tensor) -> Tensor:
    """Return the vectors [N, D] of one patch [N, patch length] of each sequence."""
    x = patch_encoder.embedding(patch).transpose(1, 2)  # type: ignore[operator]
    for convolution, norm in zip(patch_encoder.convolutions, patch_encoder.norms, strict=True):  # type: ignore[arg-type]
        x = torch.relu(channel_norm(norm.weight, norm.bias, convolution(x)))
    return x.squeeze(2)


def loop_vectors(encoder: nn.Module, residues: Tensor, patch_length: int = 11) -> tuple[Tensor, Tensor]:
    """Return z and c [N, P, D] for the residues [N, L] of padded sequences, without control tokens, patch by patch."""
    ends = range(patch_length, residues.shape[1] + 1, patch_length)
    z = torch.stack([encode_patch(encoder.patch_encoder, residues[:, end - patch_length : end]) for end in ends], dim=1)  # type: ignore[arg-type]
    return z, encoder.autoregressor(z)[0]  # type: ignore[operator]


def loop_info_nce(z: Tensor, c: Tensor, patches: Sequence[int], steps_ahead: int = 4, first: int = 1) -> dict[str, Tensor]:
    """Return sums over all t and samples for each k (each [K]): loss, correct, log N and the number of terms.

    At t the samples are the sequences with a patch t + K; where there is but one, nothing is contrasted.

    Args:
        z: [N, P, D] vectors of the patches.
        c: [N, P, D] contexts.
        patches: whole patches of each sequence.
        steps_ahead: K.
        first: t_min.
    """
    loss, correct, log_n, terms = ([z.new_zeros(()) for _ in range(steps_ahead)] for _ in range(4))
    for t in range(first, max(patches, default=0) - steps_ahead):
        samples = [i for i, length in enumerate(patches) if t + steps_ahead < length]
        n = len(samples)
        if n < 2:
            continue
        for k in range(1, steps_ahead + 1):
            logits = z[samples, t + k] @ c[samples, t].T
            loss[k - 1] = loss[k - 1] - logits.log_softmax(dim=1).diagonal().sum()
            correct[k - 1] = correct[k - 1] + (logits.argmax(dim=1) == torch.arange(n, device=z.device)).sum()
            log_n[k - 1] = log_n[k - 1] + n * math.log(n)
            terms[k - 1] = terms[k - 1] + n
    return {"loss": torch.stack(loss), "correct": torch.stack(correct), "log_n": torch.stack(log_n), "terms": torch.stack(terms)}


def loop_info_nce_of_the_papers_code(
    z: Tensor, c: Tensor, patches: Sequence[int], steps_ahead: int = 4, first: int = 1
) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy as the authors' public code averages them; arguments as for :func:`loop_info_nce`.

    Every (t, k) has the mean over the whole batch, padding included, and weighs as many times as sequences are valid at t. Their code
    takes ``patches`` of sequences before they are cut: those beyond add up to K zeros to the mean, which is left out here.
    """
    loss, accuracy, weight = z.new_zeros(()), z.new_zeros(()), 0
    every = torch.arange(len(z), device=z.device)
    for t in range(first, z.shape[1] - steps_ahead):
        valid = sum(t + steps_ahead < length for length in patches)
        for k in range(1, steps_ahead + 1):
            logits = z[:, t + k] @ c[:, t].T
            loss = loss - valid * logits.log_softmax(dim=1).diagonal().mean()
            accuracy = accuracy + valid * (logits.argmax(dim=1) == every).to(z.dtype).mean()
            weight += valid
    return loss / weight, accuracy / weight
