import numpy as np
import torch

from raypro.core.alphabet import CLS, MASK, PAD, SEP, STANDARD, TOKEN_TO_CLASS, encode
from raypro.core.masking import mask_residues
from tests.small import batch_of, random_sequences


def test_exactly_the_rounded_share_of_each_sequence_is_chosen() -> None:
    sequences = random_sequences(20, 1, 90) + ["A" * 512]
    masked = mask_residues(batch_of(*sequences), 0.15)
    assert masked.counts == tuple(max(1, int(0.15 * len(s) + 0.5)) for s in sequences)
    assert masked.counts[-1] == 77
    assert np.bincount(masked.rows, minlength=len(sequences)).tolist() == list(masked.counts)


def test_control_tokens_padding_and_rare_letters_are_never_chosen() -> None:
    batch = batch_of("BXZUO", "ACBXZUO", "A", "ACDEFGHIKLMNPQRSTVWY")
    masked = mask_residues(batch, 1.0)
    chosen = batch.tokens[masked.rows, masked.columns]
    assert masked.counts == (0, 2, 1, 20)
    assert not set(chosen.tolist()) & {PAD, CLS, SEP, *encode("BXZUO").tolist()}
    assert torch.equal(masked.labels, torch.from_numpy(TOKEN_TO_CLASS)[chosen])


def test_a_sequence_is_masked_alike_alone_and_beside_longer_ones() -> None:
    sequences = random_sequences(6, 10, 80)
    together = mask_residues(batch_of(*sequences), 0.2)
    for row, sequence in enumerate(sequences):
        alone = mask_residues(batch_of(sequence), 0.2)
        assert torch.equal(alone.inputs[0], together.inputs[row, : len(sequence) + 2])
        assert torch.equal(alone.columns, together.columns[together.rows == row])


def test_shares_of_mask_random_and_kept_residues() -> None:
    sequences = random_sequences(400, 100, 100)
    batch = batch_of(*sequences)
    masked = mask_residues(batch, 0.5, mask_share=0.8, random_share=0.1)
    seen, true = masked.inputs[masked.rows, masked.columns], batch.tokens[masked.rows, masked.columns]
    shares = [(seen == MASK).double().mean(), ((seen != MASK) & (seen != true)).double().mean(), (seen == true).double().mean()]
    assert np.allclose(shares, [0.8, 0.1 * 19 / 20, 0.1 + 0.1 / 20], atol=0.01)
    untouched = torch.ones_like(batch.tokens, dtype=torch.bool)
    untouched[masked.rows, masked.columns] = False
    assert torch.equal(masked.inputs[untouched], batch.tokens[untouched])


def test_positions_are_chosen_evenly_along_the_sequence() -> None:
    batch = batch_of(*random_sequences(2000, 20, 20))
    hits = torch.bincount(mask_residues(batch, 0.3).columns, minlength=22)[1:21].double() / 2000
    assert torch.allclose(hits, torch.full_like(hits, 0.3), atol=0.05)
    assert len(STANDARD) == 20
