import torch
from torch import Tensor

from raypro.core.alphabet import CLASS_TO_TOKEN
from raypro.core.batch import Batch
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.pmlm import PMLM
from tests.small import TINY, batch_of, random_sequences

BATCH = batch_of("M", "BXZ", *random_sequences(3, 10, 40))


def plain_terms(model, masked) -> tuple[Tensor, Tensor, int, int]:
    """L_mlm and L_pmlm as sums over residues and over ordered pairs, in loops, straight from the equations."""
    token_sum, pair_sum, tokens, pairs = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0, 0
    for row in range(len(masked.inputs)):
        h = model.encoder(masked.inputs[row : row + 1])[0]
        places = masked.columns[masked.rows == row].tolist()
        labels = masked.labels[masked.rows == row].tolist()
        for place, label in zip(places, labels, strict=True):
            if model.has_token_head:
                token_sum = token_sum - model.token_head(h[place]).log_softmax(0)[label]
            tokens += 1
        if model.has_pair_head:
            for i, a in zip(places, labels, strict=True):
                for j, b in zip(places, labels, strict=True):
                    if i != j or not model.has_token_head:
                        logits = model.pair_logits(h[i][None], h[j][None])[0]
                        pair_sum = pair_sum - logits.log_softmax(0)[20 * a + b]
                        pairs += 1
    return token_sum, pair_sum, tokens, pairs


def check_against_loops(objective: MLM | PMLM) -> None:
    model = objective.build(TINY.build()).double()
    prepared = objective.prepare(BATCH)
    sums = objective.sums(model, prepared)
    names = [q.name for q in objective.quantities]
    token_sum, pair_sum, tokens, pairs = plain_terms(model, prepared.masked)
    expected = torch.zeros((), dtype=torch.float64)
    found = torch.zeros((), dtype=torch.float64)
    for name, total, count, per in (("loss_mlm", token_sum, tokens, "masked"), ("loss_pmlm", pair_sum, pairs, "pairs")):
        if name in names:
            torch.testing.assert_close(sums[names.index(name)], total, rtol=1e-10, atol=1e-10)
            assert prepared.counts[per] == count
            expected, found = expected + total, found + sums[names.index(name)]
    ours = torch.autograd.grad(found, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_mlm_equals_plain_loops() -> None:
    check_against_loops(MLM())


def test_pmlm_equals_plain_loops() -> None:
    check_against_loops(PMLM(mask_rate=0.3))


def test_pair_only_mode_has_diagonal_pairs_and_no_token_head() -> None:
    objective = PMLM(mask_rate=0.3, pair_only=True)
    check_against_loops(objective)
    assert not any("token_head" in name for name, _ in objective.build(TINY.build()).named_parameters())


def test_a_filler_weighs_nothing_and_still_reaches_every_parameter() -> None:
    for objective in (MLM(), PMLM(), PMLM(pair_only=True)):
        model = objective.build(TINY.build())
        prepared = objective.prepare(Batch.filler())
        sums = objective.sums(model, prepared)
        assert sums.tolist() == [0.0] * len(objective.quantities)
        assert set(prepared.counts.values()) == {0}
        sums.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_accuracy_counts_right_predictions() -> None:
    objective = MLM(mask_rate=1.0)
    model = objective.build(TINY.build())
    torch.nn.init.zeros_(model.token_head[-1].weight)
    with torch.no_grad():
        model.token_head[-1].bias.copy_(torch.arange(20) == 7)
    batch = batch_of("".join("ACDEFGHIKLMNPQRSTVWY"[c] for c in (7, 7, 3, 7)))
    assert int(batch.tokens[0, 1]) == CLASS_TO_TOKEN[7]
    assert objective.sums(model, objective.prepare(batch))[1] == 3
