"""Table 2 and Figure 3 against plain float64 loops and cases worked by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raypro.core.alphabet import CLASS_TO_TOKEN, CLS, MASK, PAD, SEP, SIZE
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.masking import Masked
from raypro.core.objectives.pmlm import PMLM
from raypro.evaluate.pairs import (
    KL_EDGES,
    PairSums,
    evaluate_pairs,
    ordered_pairs,
    product_divergence,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


class Toy(nn.Module):
    """A random model whose hidden states depend on the whole sequence, its padding excepted; dropout would show in training mode."""

    def __init__(self, has_token_head: bool = True, has_pair_head: bool = True, width: int = 6) -> None:
        super().__init__()
        self.has_token_head, self.has_pair_head = has_token_head, has_pair_head
        self.embedding = nn.Embedding(SIZE, width)
        self.dropout = nn.Dropout(0.5)
        self.token_head = nn.Linear(width, 20)
        self.pair_head = nn.Linear(2 * width, 400)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return embeddings with a position's sine and the mean over the sequence added."""
        x = self.dropout(self.embedding(tokens))
        visible = (tokens != PAD)[..., None]
        mean = (x * visible).sum(1, keepdim=True) / visible.sum(1, keepdim=True)
        return x + mean + torch.arange(tokens.shape[1])[:, None].sin()

    def token_logits(self, h: Tensor) -> Tensor:
        """Return logits over residues."""
        assert self.has_token_head
        return self.token_head(h)

    def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
        """Return logits over pairs of residues."""
        assert self.has_pair_head
        return self.pair_head(torch.cat([h_i * h_j, h_i - h_j], dim=-1))


def masked_batch(counts: Sequence[int], length: int, seed: int) -> Masked:
    """Return a batch with the given numbers of masked residues, all of them shown as MASK."""
    rng = np.random.default_rng(seed)
    tokens = np.full((len(counts), length + 2), CLS)
    tokens[:, -1] = SEP
    tokens[:, 1:-1] = CLASS_TO_TOKEN[rng.integers(0, 20, (len(counts), length))]
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.concatenate([np.sort(rng.choice(length, n, replace=False)) + 1 for n in counts]).astype(np.int64)
    labels = torch.from_numpy(rng.integers(0, 20, len(rows)))
    tokens[rows, columns] = MASK
    keys = torch.zeros(len(counts), dtype=torch.int64)
    return Masked(torch.from_numpy(tokens), torch.from_numpy(rows), torch.from_numpy(columns), labels, tuple(counts), keys)


def softmax(logits: Tensor) -> list[float]:
    """Return probabilities in plain Python."""
    weights = [math.exp(x) for x in logits.tolist()]
    return [w / sum(weights) for w in weights]


def naive_single(model: Toy, h: Tensor) -> list[float]:
    """Return P(x_i): by the token head, else by the diagonal pair."""
    if model.has_token_head:
        return softmax(model.token_logits(h))
    return softmax(torch.stack([model.pair_logits(h, h)[20 * a + a] for a in range(20)]))


def naive_divergence(p_i: list[float], p_j: list[float], joint: list[float]) -> float:
    """Return KL(P(x_i) P(x_j) || P(x_i, x_j))."""
    return sum(p_i[a] * p_j[b] * math.log(p_i[a] * p_j[b] / joint[20 * a + b]) for a in range(20) for b in range(20))


@torch.no_grad()
def naive_table(model: Toy, batches: list[Masked]) -> tuple[dict[str, float], list[float]]:
    """Return Table 2 and every pair's divergence, one masked residue and one pair at a time."""
    losses, hits, pair_losses, pair_hits, product_hits, divergences = [], [], [], [], [], []
    for masked in batches:
        h = model.hidden(masked.inputs)
        for row in range(len(masked.inputs)):
            where = [n for n in range(len(masked.rows)) if masked.rows[n] == row]
            states = [h[row, masked.columns[n]] for n in where]
            labels = [int(masked.labels[n]) for n in where]
            singles = [naive_single(model, state) for state in states]
            right = [max(range(20), key=single.__getitem__) == label for single, label in zip(singles, labels, strict=True)]
            losses += [-math.log(single[label]) for single, label in zip(singles, labels, strict=True)]
            hits += right
            for i in range(len(where)):
                for j in range(len(where)):
                    if i == j or not model.has_pair_head:
                        continue
                    joint = softmax(model.pair_logits(states[i], states[j]))
                    label = 20 * labels[i] + labels[j]
                    pair_losses.append(-math.log(joint[label]))
                    pair_hits.append(max(range(400), key=joint.__getitem__) == label)
                    product_hits.append(right[i] and right[j])
                    divergences.append(naive_divergence(singles[i], singles[j], joint))
    loss = float(np.mean(losses))
    table = {"table2/L_mlm": loss, "table2/perplexity": math.exp(loss), "table2/ACC_mlm": float(np.mean(hits))}
    if pair_losses:
        joint_acc, product_acc = float(np.mean(pair_hits)), float(np.mean(product_hits))
        table |= {"table2/L_pmlm": float(np.mean(pair_losses)), "table2/ACC_pmlm": joint_acc, "table2/ACC_product": product_acc}
        table["table2/delta_ACC"] = joint_acc - product_acc
        table["table2/delta_ACC_over_ACC_pmlm"] = (joint_acc - product_acc) / joint_acc if joint_acc else math.nan
        table["table2/KL_mean"] = float(np.mean(divergences))
    return table, divergences


def learnable_labels(model: Toy, masked: Masked) -> Masked:
    """Return the batch with labels that the token head gets right half the time, so that accuracies are neither 0 nor 1."""
    with torch.no_grad():
        best = model.token_head(model.hidden(masked.inputs)[masked.rows, masked.columns]).argmax(-1)
    even = torch.arange(len(best)) % 2 == 0
    return Masked(masked.inputs, masked.rows, masked.columns, torch.where(even, best, masked.labels), masked.counts, masked.keys)


@pytest.mark.parametrize(("token_head", "pair_head"), [(True, True), (False, True), (True, False)])
def test_table_equals_plain_loops(token_head: bool, pair_head: bool) -> None:
    """Batches of different sizes, sequences with 0 and 1 masked residues; sums over all, not means of means."""
    model = Toy(token_head, pair_head).eval()
    batches = [learnable_labels(model, b) for b in (masked_batch([3, 0, 1, 5], 9, 1), masked_batch([2], 5, 2), masked_batch([6, 4], 12, 3))]
    expected, divergences = naive_table(model, batches)
    report = evaluate_pairs(model, batches)
    assert report.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(report.metrics[name], value, **TOLERANCE, err_msg=name)
    if pair_head:
        assert 0 < report.metrics["table2/ACC_product"] < 1 or not token_head
        np.testing.assert_array_equal(report.kl_counts, np.histogram(divergences, KL_EDGES)[0])
    else:
        assert report.kl_counts is None


def test_table_by_hand() -> None:
    """Two masked residues that are always equal: each alone is a coin, the pair is known but for one coin."""

    class Coin(Toy):
        def token_logits(self, h: Tensor) -> Tensor:
            return torch.tensor([1.0, 1.0] + [0.0] * 18).log().expand(*h.shape[:-1], 20)

        def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
            logits = torch.full((len(h_i), 400), 1e-30).log()
            logits[:, 0] = logits[:, 21] = 0.0
            return logits

    masked = masked_batch([2, 2], 6, 0)
    labels = torch.tensor([0, 0, 1, 1])
    metrics = evaluate_pairs(Coin(), [Masked(masked.inputs, masked.rows, masked.columns, labels, (2, 2), masked.keys)]).metrics
    assert metrics["table2/L_mlm"] == pytest.approx(math.log(2))
    assert metrics["table2/perplexity"] == pytest.approx(2)
    assert metrics["table2/ACC_mlm"] == 0.5  # the first of equal classes
    assert metrics["table2/L_pmlm"] == pytest.approx(math.log(2))
    assert metrics["table2/ACC_pmlm"] == metrics["table2/ACC_product"] == 0.5


def test_joint_accuracy_beyond_the_product() -> None:
    """Singles prefer residue 0, the joint knows (0, 1) and (1, 0): delta ACC counts what only the joint gets right."""

    class Joint(Toy):
        def token_logits(self, h: Tensor) -> Tensor:
            return torch.eye(20)[0].expand(*h.shape[:-1], 20)

        def pair_logits(self, h_i: Tensor, h_j: Tensor) -> Tensor:
            return torch.eye(400)[1].expand(len(h_i), 400)

    masked = masked_batch([2, 2], 6, 0)
    labels = torch.tensor([0, 1, 0, 0])
    metrics = evaluate_pairs(Joint(), [Masked(masked.inputs, masked.rows, masked.columns, labels, (2, 2), masked.keys)]).metrics
    assert metrics["table2/ACC_mlm"] == 0.75
    assert metrics["table2/ACC_pmlm"] == 0.25  # (0, 1), not its reverse (1, 0)
    assert metrics["table2/ACC_product"] == 0.5
    assert metrics["table2/delta_ACC"] == -0.25
    assert metrics["table2/delta_ACC_over_ACC_pmlm"] == -1.0


def test_nothing_masked_is_nan() -> None:
    """No masked residue: no number, rather than a wrong one."""
    report = evaluate_pairs(Toy(), [masked_batch([0], 4, 0)])
    assert all(math.isnan(value) for value in report.metrics.values()) and report.kl_counts is None


def test_chunks_and_workers_change_nothing() -> None:
    """Sums of two workers add up to those of one; small chunks give the same."""
    model = Toy().eval()
    batches = [masked_batch([7, 3], 10, 1), masked_batch([4, 4, 0], 8, 2)]
    one, first, second = PairSums(), PairSums(), PairSums()
    for masked in batches:
        one.add(model, masked)
    first.add(model, batches[0], pair_chunk=5)
    second.add(model, batches[1], pair_chunk=1)
    torch.testing.assert_close(first.totals + second.totals, one.totals, rtol=1e-6, atol=1e-9)


def test_the_model_gets_its_mode_back() -> None:
    """Evaluation switches dropout off, and only for itself."""
    model = Toy().train()
    first, second = (evaluate_pairs(model, [masked_batch([5], 9, 1)]).metrics["table2/L_pmlm"] for _ in range(2))
    assert first == second and model.training


def test_ordered_pairs_equal_plain_loops() -> None:
    """Sequences with 0, 1 and more masked residues."""
    counts = (3, 0, 1, 4, 2)
    expected, start = [], 0
    for count in counts:
        expected += [(start + i, start + j) for i in range(count) for j in range(count) if i != j]
        start += count
    assert list(zip(*(t.tolist() for t in ordered_pairs(counts)), strict=True)) == expected
    assert [len(t) for t in ordered_pairs((0, 1))] == [0, 0]


def test_divergence_equals_plain_loops() -> None:
    """Random distributions; zero where the joint is the product."""
    generator = torch.Generator().manual_seed(5)
    single_i, single_j = (torch.randn(4, 20, generator=generator, dtype=torch.float64).log_softmax(1) for _ in range(2))
    joint = torch.randn(4, 400, generator=generator, dtype=torch.float64).log_softmax(1)
    found = product_divergence(single_i, single_j, joint)
    for n in range(4):
        expected = naive_divergence(single_i[n].exp().tolist(), single_j[n].exp().tolist(), joint[n].exp().tolist())
        assert found[n].item() == pytest.approx(expected, rel=1e-10)
    product = (single_i[:, :, None] + single_j[:, None, :]).flatten(1)
    torch.testing.assert_close(product_divergence(single_i, single_j, product), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("pair_only", [False, True])
def test_the_pairwise_masked_language_model_is_evaluated(pair_only: bool) -> None:
    """The real model has the interface; without training Table 2 is near chance."""
    encoder = TransformerShape(layers=1, width=16, heads=2, hidden=32).build()
    model = PMLM(pair_only=pair_only).build(encoder)
    metrics = evaluate_pairs(model, [masked_batch([4, 2], 12, 0)]).metrics
    assert abs(metrics["table2/L_mlm"] - math.log(20)) < 1.0 and abs(metrics["table2/L_pmlm"] - math.log(400)) < 1.0
