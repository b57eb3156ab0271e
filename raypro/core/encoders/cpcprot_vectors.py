"""What CPCProt (Lu et al. 2020) says of a protein: one vector, or one a residue.

    z_mean   the mean of the patches' vectors z           c_final  the context of the last patch
    c_mean   the mean of their contexts c                  residues see :func:`residue_contexts`

Legend: B sequences, T tokens, P patches of the longest sequence, W windows of the longest sequence, D width.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from raypro.core.alphabet import PAD
from raypro.core.encoders.cpcprot import CPCProt, cut
from raypro.core.residues import only_residues, residue_mask

PatchPooling = Literal["z_mean", "c_mean", "c_final"]
"""How a protein's patches become one vector."""


def pooled_patches(encoder: CPCProt, tokens: Tensor, pooling: PatchPooling) -> Tensor:
    """Return [B, D] for tokens [B, T] int64; zero for a sequence shorter than one patch, which has no vector."""
    if pooling == "z_mean":  # needs no recurrent network, which is most of the arithmetic
        patches = cut(tokens, encoder.shape.patch_length)
        vectors = encoder.latents(patches.flatten(0, 1)).view(*patches.shape[:2], encoder.width)
        whole = residue_mask(tokens).sum(dim=1) // encoder.shape.patch_length
    else:
        _, vectors, whole = encoder.vectors(tokens)
    place = torch.arange(vectors.shape[1], device=tokens.device)
    last = whole[:, None] - 1
    chosen = place == last if pooling == "c_final" else place <= last
    return only_residues(vectors, chosen).sum(dim=1) / chosen.sum(dim=1, keepdim=True).clamp(min=1)


def residue_contexts(encoder: CPCProt, tokens: Tensor) -> Tensor:
    """Return one vector a residue, [B, T, D] for tokens [B, T] int64, from a window of one patch that slides by one residue.

    A residue's vector is the context c of the patch that has it in the middle: the recurrent network has read this patch and those
    at whole patches' distance before it, from the first that fits into the sequence on. So patch length many networks read each
    sequence, each from another of its first residues, and every window belongs to one of them.

    The first and the last residues, which are in the middle of no patch, have the vectors of the nearest residue that is: five of
    them at either end, of patches of 11. Those at padding and control tokens are zero, and so are all of a sequence shorter than
    one patch.
    """
    length = encoder.shape.patch_length
    mask = residue_mask(tokens)
    residues = tokens[:, 1:-1].masked_fill(~mask[:, 1:-1], PAD)
    b, longest = len(tokens), max(length, residues.shape[1])
    residues = pad(residues, (0, longest - residues.shape[1]), value=PAD)
    windows = longest - length + 1
    # Convolutions without padding, along the whole sequence, give the vector of every window: no residue is seen twice.
    z = encoder.patch_encoder(residues).view(b, windows, encoder.width)
    steps = -(-windows // length)
    in_steps = pad(z, (0, 0, 0, steps * length - windows)).unflatten(1, (steps, length)).transpose(0, 1)  # [steps, B, length, D]
    c = encoder.contexts(in_steps.flatten(0, 2), [b * length] * steps)
    c = c.view(steps, b, length, encoder.width).transpose(0, 1).flatten(1, 2)  # [B, steps * length, D], by the window's beginning
    last = (mask.sum(dim=1, keepdim=True) - length).clamp(min=0)
    place = torch.arange(tokens.shape[1], device=tokens.device) - 1 - (length - 1) // 2  # CLS is first
    window = torch.minimum(place.clamp(min=0)[None, :], last)
    h = c.gather(1, window[:, :, None].expand(-1, -1, encoder.width))
    return only_residues(h, mask & (mask.sum(dim=1, keepdim=True) >= length))
