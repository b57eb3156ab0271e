"""Contrastive predictive coding against plain loops, hand-worked masks, one worker and two, and what it learns."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raypro.core.alphabet import PAD, STANDARD
from raypro.core.batch import Batch
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.loop import TrainState, evaluate, train_step
from raypro.core.objectives import info_nce
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.core.reference.cpc import loop_info_nce, loop_info_nce_of_the_papers_code, loop_vectors
from raypro.core.residues import residue_mask
from tests.small import batch_of, random_sequences

SHAPE = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4))  # patches of 6
OBJECTIVE = CPC(patch_length=6, max_length=80)  # sequences from 36 residues
SEQUENCES = random_sequences(9, 20, 100, seed=3)
ADAM = Adam(learning_rate=1e-3, warmup_steps=5)


def new_model(objective=OBJECTIVE):
    torch.manual_seed(0)
    return objective.build(SHAPE.build()).double()


def plain_vectors(model, objective, batch):
    """z, c and whole patches of the sequences that are long enough, by loops over patches."""
    mask = residue_mask(batch.tokens)
    whole = mask.sum(dim=1).clamp(max=objective.max_length) // objective.patch_length
    kept = whole * objective.patch_length >= objective.min_length
    residues = batch.tokens.masked_fill(~mask, PAD)[kept, 1 : 1 + int(whole.max()) * objective.patch_length]
    return *loop_vectors(model.encoder, residues, objective.patch_length), whole[kept].tolist()


def named(objective, sums):
    return {quantity.name: value for quantity, value in zip(objective.quantities, sums, strict=True)}


def assert_same_gradients(one, other, model):
    for mine, theirs in zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in (one, other)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=[1, 300, 2**18])
def chunk(request, monkeypatch):
    """Chunks of one t, of some and of all."""
    monkeypatch.setitem(info_nce.LOGITS, "cpu", request.param)


@pytest.mark.parametrize("change", [{}, {"steps_ahead": 1}, {"t_min": 0, "steps_ahead": 3}], ids=str)
def test_loss_metrics_and_gradients_equal_plain_loops(change, chunk):
    objective = replace(OBJECTIVE, **change)
    model, batch = new_model(), batch_of(*SEQUENCES)
    prepared = objective.prepare(batch)
    ours = named(objective, objective.sums(model, prepared))
    z, c, whole = plain_vectors(model, objective, batch)
    plain = loop_info_nce(z, c, whole, objective.steps_ahead, objective.t_min)
    assert prepared.counts["samples"] == plain["terms"][0] and prepared.counts["terms"] == plain["terms"].sum()
    assert len(set(whole)) > 2
    assert ours["loss_cpc"].item() == pytest.approx(plain["loss"].sum().item(), rel=1e-12)
    assert ours["accuracy_cpc"] == plain["correct"].sum()
    for k in range(objective.steps_ahead):
        assert ours[f"accuracy_cpc_k{k + 1}"] == plain["correct"][k]
        assert ours[f"bound_cpc_k{k + 1}"].item() == pytest.approx((plain["log_n"][k] - plain["loss"][k]).item(), abs=1e-10)
    assert_same_gradients(ours["loss_cpc"], plain["loss"].sum(), model)


def test_the_papers_code_has_padding_as_samples_and_equals_its_loops(chunk):
    objective = replace(OBJECTIVE, reduction="paper-code")
    model, batch = new_model(), batch_of(*SEQUENCES)
    prepared = objective.prepare(batch)
    ours = named(objective, objective.sums(model, prepared) / prepared.counts["terms"])
    z, c, whole = plain_vectors(model, objective, batch)
    loss, accuracy = loop_info_nce_of_the_papers_code(z, c, whole)
    assert ours["loss_cpc"].item() == pytest.approx(loss.item(), rel=1e-12)
    assert ours["accuracy_cpc"].item() == pytest.approx(accuracy.item(), abs=1e-12)
    assert_same_gradients(ours["loss_cpc"], loss, model)
    assert ours["chance_cpc"].item() * objective.steps_ahead == pytest.approx(1 / len(whole))


def test_both_reductions_are_one_where_all_sequences_are_of_one_length():
    model, batch = new_model(), batch_of(*random_sequences(5, 50, 50))
    valid, paper = (o.sums(model, o.prepare(batch)) for o in (OBJECTIVE, replace(OBJECTIVE, reduction="paper-code")))
    torch.testing.assert_close(valid, paper)


def test_terms_of_mixed_lengths_worked_by_hand():
    """Patches: 9, 7, 6 and 5 (too short); K = 4, t from 1. Samples at t: 3 at 1, 2 at 2; then the longest is alone."""
    batch = batch_of("A" * 39, "C" * 59, "D" * 31, "E" * 45)
    prepared = OBJECTIVE.prepare(batch)
    assert prepared.sizes == (3, 3, 3, 3, 3, 3, 2, 1, 1)
    assert prepared.candidates == (3, 3, 2, 1, 1) and prepared.rows == (0, 3, 2, 0, 0)
    assert prepared.counts == {"terms": 4 * 5, "samples": 5, "sequences": 4} and prepared.too_short == 1
    first, last = prepared.patches[:3, 0].tolist(), prepared.patches[-1, 0].item()
    assert first == [batch.tokens[1, 1], batch.tokens[3, 1], batch.tokens[0, 1]] and last == batch.tokens[1, 1]
    assert (prepared.patches != PAD).all()
    sums = named(OBJECTIVE, OBJECTIVE.sums(new_model(), prepared))
    assert sums["chance_cpc"].item() == pytest.approx(3 / 3 + 2 / 2) and sums["too_short"] == 1

    paper = replace(OBJECTIVE, reduction="paper-code").prepare(batch)
    assert paper.sizes == (3,) * 9 and paper.candidates == (3,) * 5 and paper.rows == (0, 3, 3, 3, 3)
    assert paper.weights == pytest.approx((0, 3 / 3, 2 / 3, 1 / 3, 1 / 3)) and paper.counts["samples"] == 3 + 2 + 1 + 1


@pytest.mark.parametrize(("residues", "samples"), [(65, 0), (66, 2), (76, 2), (77, 4), (550, 90), (5000, 90)])
def test_the_papers_lengths(residues, samples):
    """Two sequences of 66 residues have one t each; of 550, cut or not, 45."""
    prepared = CPC().prepare(batch_of("A" * residues, "C" * residues))
    assert prepared.counts["samples"] == samples and prepared.too_short == (2 if residues < 66 else 0)


def test_what_stands_beyond_the_cut_and_in_a_remainder_changes_nothing():
    model, one = new_model(), ["ACDEFGHIKL" * 8, "WYVTSRQPNM" * 8]
    sums = [OBJECTIVE.sums(model, OBJECTIVE.prepare(batch_of(*(s + tail for s in one)))) for tail in ("", "W", "KLMNP" * 9)]
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_equal_logits_are_right_as_often_as_chance():
    model = new_model()
    with torch.no_grad():
        model.encoder.patch_encoder.norms[-1].weight.zero_()  # z and so every logit is 0
        model.encoder.patch_encoder.norms[-1].bias.zero_()
    prepared = OBJECTIVE.prepare(batch_of(*SEQUENCES))
    sums = named(OBJECTIVE, OBJECTIVE.sums(model, prepared))
    assert sums["accuracy_cpc_k2"].item() == pytest.approx(sums["chance_cpc"].item())
    assert sums["bound_cpc_k2"].item() == pytest.approx(0, abs=1e-12)


def test_large_logits_stay_finite():
    z, c = (1000 * torch.randn(6, 3, 4, dtype=torch.float64) for _ in range(2))
    terms = info_nce.Terms((0, 3), torch.tensor([[3, 3]]), (1.0, 1.0))
    z.requires_grad_()
    loss, _, _ = info_nce.info_nce(z, c[:2], terms, 4)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite() and loss > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("reduction", ["valid", "paper-code"])
def test_batches_without_terms_give_zeros_that_are_connected(reduction):
    objective = replace(OBJECTIVE, reduction=reduction)
    for batch, short in ((Batch.filler(), 0), (batch_of("A" * 20, "C" * 35), 2), (batch_of("A" * 70), 0)):
        model = new_model()
        prepared = objective.prepare(batch)
        sums = objective.sums(model, prepared)
        sums[0].backward()
        assert prepared.counts["terms"] == 0 and not sums[:-1].any() and sums[-1] == short
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def new_state(objective=OBJECTIVE, **changes):
    return TrainState(objective, new_model(objective), ADAM, seed=5, **changes)


def test_a_filler_changes_no_step():
    plain, filled = new_state(), new_state()
    train_step(plain, [batch_of(*SEQUENCES)])
    train_step(filled, [batch_of(*SEQUENCES), Batch.filler()])
    for one, other in zip(plain.model.parameters(), filled.model.parameters(), strict=True):
        assert torch.equal(one, other)


def parts(step, size):
    """Sequences of one length, so that halves have the samples at t that the whole has."""
    sequences = random_sequences(4 * size, 60, 60, seed=step)
    return [batch_of(*sequences[i::size]) for i in range(size)]


def _worker(rank, size, rendezvous, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=size)
    results = {}
    for gather in (False, True):
        state = new_state(replace(OBJECTIVE, gather=gather))
        steps = [parts(step, size)[rank] for step in range(2)]
        uneven = [batch_of(*random_sequences(5, 40, 70, seed=8)), batch_of(*random_sequences(2, 74, 80, seed=9))]
        fillers = [batch_of(*SEQUENCES), Batch.filler()]
        losses = []
        for batch in (*steps, uneven[rank], fillers[rank]):
            train_step(state, [batch])
            losses.append(state.take_metrics()["loss"])
        # Different numbers of batches, as validation has them: whoever gathered here would wait for ever.
        valid = evaluate(state, parts(7, 2)[: rank + 1])["loss"]
        results[gather] = {"losses": losses, "valid": valid, "weights": state.model.state_dict()}
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(_worker, (2, str(folder / "rendezvous"), str(folder / "out")), nprocs=2)
    return torch.load(folder / "out", weights_only=True)


def union_loss(model, batches):
    """The loss of two workers that gather, from plain loops over all samples: terms are those of a worker with two samples at t."""
    vectors = [plain_vectors(model, OBJECTIVE, batch) for batch in batches]
    loss, terms = 0.0, 0
    for worker, (z, _, whole) in enumerate(vectors):
        for t in range(1, max(whole) - 4):
            mine = [i for i, length in enumerate(whole) if t + 4 < length]
            if len(mine) < 2:
                continue
            order = [worker, 1 - worker]
            candidates = torch.cat(
                [vectors[w][1][[i for i, n in enumerate(vectors[w][2]) if t + 4 < n], t] for w in order if max(vectors[w][2]) > t]
            )
            for k in range(1, 5):
                loss = loss - (z[mine, t + k] @ candidates.T).log_softmax(dim=1).diagonal().sum()
                terms += len(mine)
    return loss / terms


@pytest.mark.slow
@pytest.mark.parametrize("gather", [False, True])
def test_two_workers_take_the_steps_of_plain_loops(two_workers, gather):
    """Without gathering each worker's samples are contrasted among themselves; with it among those of both, gradients too."""
    state = new_state()
    uneven = [batch_of(*random_sequences(5, 40, 70, seed=8)), batch_of(*random_sequences(2, 74, 80, seed=9))]
    losses = []
    for batches in (parts(0, 2), parts(1, 2), uneven, [batch_of(*SEQUENCES)]):
        if gather and len(batches) == 2:
            loss = union_loss(state.model, batches)
        else:
            prepared = [OBJECTIVE.prepare(batch) for batch in batches]
            loss = sum(OBJECTIVE.sums(state.model, p)[0] for p in prepared) / sum(p.counts["terms"] for p in prepared)
        state.playing.gradients.zero()
        loss.backward()
        state.playing.gradients.clip(ADAM.clip_norm)
        for group in state.playing.optimizer.param_groups:
            group["lr"] = state.learning_rate
        state.playing.optimizer.step()
        state.step += 1
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(two_workers[gather]["losses"], abs=1e-9)
    for name, weight in state.model.state_dict().items():
        torch.testing.assert_close(weight, two_workers[gather]["weights"][name], rtol=1e-7, atol=1e-9)
    batches = [*parts(7, 2)[:1], *parts(7, 2)]
    assert two_workers[gather]["valid"] == pytest.approx(evaluate(state, batches)["loss"], rel=1e-6)


def test_bf16_is_close_to_float32():
    model = OBJECTIVE.build(SHAPE.build())
    prepared = OBJECTIVE.prepare(batch_of(*SEQUENCES))
    exact = OBJECTIVE.sums(model, prepared)
    with torch.autocast("cpu", torch.bfloat16):
        rough = OBJECTIVE.sums(model, prepared)
    assert rough.dtype == torch.float32 and rough[0] != exact[0]
    assert rough[0].item() == pytest.approx(exact[0].item(), rel=0.01)


def test_families_are_told_apart_within_seconds():
    """Proteins that each repeat a motif of their own: what comes next is known from the context, and 1 / N is soon left behind."""
    objective, families = CPC(max_length=132), 16
    shape = CPCProtShape(embedding=16, filters=(32, 32, 32))
    torch.manual_seed(1)
    state = TrainState(objective, objective.build(shape.build()), Adam(learning_rate=3e-3, warmup_steps=10, decay="constant"))
    generator = torch.Generator().manual_seed(2)
    for step in range(70):
        motifs = torch.randint(20, (families, 11), generator=generator)
        train_step(state, [batch_of(*("".join(STANDARD[i] for i in motif) * 12 for motif in motifs))])
        if step == 59:
            state.take_metrics()
    metrics = state.take_metrics()
    assert metrics["chance_cpc"] == pytest.approx(1 / families)
    assert metrics["accuracy_cpc"] > 0.6 and metrics["loss"] < math.log(families) / 2
    for k in range(1, 5):
        assert metrics[f"bound_cpc_k{k}"] == pytest.approx(math.log(families) - metrics["loss"], abs=0.5)
