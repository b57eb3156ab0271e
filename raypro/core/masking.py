"""Masking of residues (Devlin et al. 2019, as used by TAPE and He et al. 2021). Legend: B sequences, T tokens, N masked residues."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raypro.core.alphabet import CLASS_TO_TOKEN, MASK, STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.random import uniform

_CHOICE, _ACTION, _REPLACEMENT = range(3)  # independent streams of randomness per sequence


@dataclass(frozen=True)
class Masked:
    """A batch with some residues hidden.

    ``inputs`` [B, T] int64: what the encoder sees. ``rows``, ``columns`` [N] int64: the masked residues, row by row.
    ``labels`` [N] int64: their true classes, 0..19. ``counts``: masked residues of each row; ``keys`` [B] int64: the sequences'
    keys. Both stay on the host.
    """

    inputs: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    counts: tuple[int, ...]
    keys: Tensor

    def to(self, device: torch.device) -> "Masked":
        """Return the same with its tensors on ``device``."""
        inputs, rows, columns, labels = (t.to(device, non_blocking=True) for t in (self.inputs, self.rows, self.columns, self.labels))
        return Masked(inputs, rows, columns, labels, self.counts, self.keys)


def mask_residues(batch: Batch, rate: float, mask_share: float = 0.8, random_share: float = 0.1) -> Masked:
    """Hide a fixed share of each sequence's standard residues.

    Of the n standard residues of a sequence max(1, round(rate n)) are chosen without replacement (none where n = 0); of those,
    ``mask_share`` become MASK, ``random_share`` a uniformly drawn standard residue, the rest stay as they are. A pure function of
    each sequence and its key: neighbours and padding change nothing. Control tokens and B, O, U, X, Z are never chosen.

    Args:
        batch: the sequences.
        rate: share of the standard residues to hide, in (0, 1].
        mask_share: probability that a chosen residue becomes MASK.
        random_share: probability that it becomes a random standard residue.
    """
    tokens, keys = batch.tokens.numpy(), batch.keys.numpy()
    width = tokens.shape[1]
    classes = TOKEN_TO_CLASS[tokens]
    candidates = (classes >= 0).sum(axis=1)
    wanted = np.where(candidates > 0, np.maximum(1, np.floor(rate * candidates + 0.5).astype(np.int64)), 0)
    order = np.argsort(np.where(classes >= 0, uniform(keys, width, _CHOICE), 2.0), axis=1, kind="stable")
    chosen = np.zeros(tokens.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(width)[None, :] < wanted[:, None], axis=1)
    rows, columns = np.nonzero(chosen)

    action = uniform(keys, width, _ACTION)[rows, columns]
    replacement = (uniform(keys, width, _REPLACEMENT)[rows, columns] * len(STANDARD)).astype(np.int64)
    new = np.where(action < mask_share, MASK, CLASS_TO_TOKEN[replacement])
    inputs = tokens.copy()
    inputs[rows, columns] = np.where(action < mask_share + random_share, new, tokens[rows, columns])
    as_tensor = torch.from_numpy
    return Masked(
        as_tensor(inputs), as_tensor(rows), as_tensor(columns), as_tensor(classes[rows, columns]), tuple(wanted.tolist()), batch.keys
    )
