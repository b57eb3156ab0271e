"""The adversarial objective: its loss is that of plain loops, its masking keeps the budget, its players leave each other alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from raypro.core.alphabet import CLS, PAD, SEP, STANDARD, TOKEN_TO_CLASS
from raypro.core.batch import Batch
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.loop import TrainState, evaluate, train_step
from raypro.core.noiser import GRUNoiserShape, TransformerNoiserShape
from raypro.core.noising import inclusion, mixed_inputs, noised_tokens
from raypro.core.objectives.adversarial import Adversarial, Noised
from raypro.core.optimizer import Adam
from raypro.core.reference.adversarial_loss import adversarial_loss
from raypro.core.subset import hard_subset, relaxed_subset
from tests.small import TINY, batch_of, random_sequences

ADAM = Adam(learning_rate=1e-3, warmup_steps=0, decay="constant")
GRU = GRUNoiserShape(embedding=8, width=8, layers=2)
SMALL = Adversarial(noiser=GRU, noiser_optimizer=ADAM, noiser_steps=2, encoder_steps=3, adversarial_rate=0.2, random_rate=0.1)
REWEIGHTED = replace(SMALL, reweight=True, random_rate=0.0)
OBJECTIVES = {
    "gru": SMALL,
    "transformer": replace(SMALL, noiser=TransformerNoiserShape(layers=1, width=16, heads=2, hidden=32)),
    "threshold": replace(SMALL, choice="threshold"),
    "reweight": REWEIGHTED,
}
SEQUENCES = [*random_sequences(5, 5, 20), "ACDEFXBZKLMNPQ", "XXBZ", "AC"]


def new_state(objective: Adversarial, dtype: torch.dtype = torch.float32, dropout: float = 0.0, bf16: bool = False) -> TrainState:
    torch.manual_seed(3)
    model = objective.build(replace(TINY, dropout=dropout).build()).to(dtype)
    with torch.no_grad():
        model.noiser.scores.weight.normal_(std=1.0)  # so that it has preferences
    return TrainState(objective, model, ADAM, seed=5, total_steps=40, bf16=bf16)


def batches_of(step: int, split: int = 1) -> list[Batch]:
    """The batch of a step, in ``split`` parts."""
    batches = [batch_of(*SEQUENCES[i::split]) for i in range(split)]
    return [Batch(b.tokens, b.keys + 1000 * step, b.rows) for b in batches]


def steps_of(state: TrainState, steps: range, split: int = 1) -> list[float]:
    found = []
    for step in steps:
        train_step(state, batches_of(step, split))
        found.append(state.take_metrics()["loss"])
    return found


def choice_of(state: TrainState, prepared: Noised) -> tuple[Tensor, Tensor]:
    """What the noiser takes [B, T], and the options [B, T] that it shows."""
    with torch.no_grad():
        s, u = state.model.noiser(prepared.tokens)
        p = relaxed_subset(s, prepared.which, prepared.candidates, prepared.k, state.objective.temperature)
        taken = hard_subset(p, prepared.k, prepared.candidates)
        return taken, (u + prepared.how_of(taken)).argmax(dim=-1)


def only(state: TrainState, player: str) -> list[Tensor]:
    """Let one player's parameters ask for gradients; return them."""
    for other in state.players:
        for parameter in other.parameters:
            parameter.requires_grad_(other.player.name == player)
    return next(other.parameters for other in state.players if other.player.name == player)


@pytest.mark.parametrize("player", ["noiser", "encoder"])
@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_loss_and_gradients_are_those_of_plain_loops(name: str, player: str) -> None:
    state = new_state(OBJECTIVES[name], torch.float64)
    model, objective, prepared = state.model, state.objective, state.objective.prepare(batches_of(0)[0])
    parameters = only(state, player)
    ours = objective.sums(model, prepared)[0]
    expected, masked = torch.zeros((), dtype=torch.float64), 0
    for row, tokens in enumerate(prepared.tokens):
        length, k = int((tokens != PAD).sum()), int(prepared.k[row])
        at_random = prepared.at_random[row].nonzero().flatten().tolist()
        inputs = prepared.inputs[row, :length]
        loss, taken, shown = adversarial_loss(
            model.noiser,
            lambda tokens, x: model.token_logits(model.encoder(tokens, x)),
            tokens[:length],
            inputs,
            at_random,
            k,
            prepared.which[row, :length].double(),
            prepared.how[row].double(),
            objective.temperature,
        )
        expected, masked = expected + loss, masked + len(taken) + len(at_random)
        ours_taken, ours_shown = choice_of(state, prepared)
        assert ours_taken[row].nonzero().flatten().tolist() == taken and ours_shown[row, taken].tolist() == shown
    assert masked == prepared.counts["masked"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters), strict=True):
        assert other.abs().max() > 1e-9 or not other.any()
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("shape", [TINY, ConvolutionShape(layers=2, width=16, dropout=0.0)])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_encoder_sees_the_same_by_tokens_and_by_hard_mixtures(shape: TransformerShape | ConvolutionShape, bf16: bool) -> None:
    state = new_state(SMALL)
    prepared, encoder = SMALL.prepare(batches_of(0)[0]), shape.build()
    taken, shown = choice_of(state, prepared)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        mixed = mixed_inputs(prepared.inputs, taken.float(), torch.nn.functional.one_hot(shown, 22).float())
        by_tokens, by_mixtures = encoder(noised_tokens(prepared.inputs, taken, shown)), encoder(prepared.tokens, mixed)
    assert taken.any() and torch.equal(by_tokens, by_mixtures)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_players_have_the_same_loss(name: str) -> None:
    state = new_state(OBJECTIVES[name], torch.float64)
    prepared, sums = state.objective.prepare(batches_of(0)[0]), []
    for player in ("noiser", "encoder"):
        only(state, player)
        sums.append(state.objective.sums(state.model, prepared).detach())
    torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-10)


def test_every_row_has_its_budget_and_only_standard_residues_are_masked_once() -> None:
    state = new_state(SMALL)
    for step in range(20):
        prepared = SMALL.prepare(batches_of(step)[0])
        taken, _ = choice_of(state, prepared)
        residues = (torch.from_numpy(TOKEN_TO_CLASS)[prepared.tokens] >= 0).sum(dim=1)
        assert taken.sum(dim=1).tolist() == [int(0.2 * n + 0.5) for n in residues.tolist()]
        assert not (taken & prepared.at_random).any()
        assert (torch.from_numpy(TOKEN_TO_CLASS)[prepared.tokens[taken | prepared.at_random]] >= 0).all()
        for token in (CLS, SEP, PAD):
            assert torch.equal(prepared.inputs == token, prepared.tokens == token)


def test_the_figures_say_what_was_taken() -> None:
    state, prepared = new_state(SMALL), SMALL.prepare(batches_of(0)[0])
    taken, shown = choice_of(state, prepared)
    means, k = evaluate(state, batches_of(0)), int(prepared.k.sum())
    ways = [int((shown[taken] == 0).sum()), int((shown[taken] == 1).sum()), int((shown[taken] > 1).sum())]
    assert [means[f"noiser/{way}"] for way in ("mask", "keep", "replace")] == pytest.approx([way / k for way in ways])
    for number, letter in enumerate(STANDARD):
        assert means[f"noiser_chosen/{letter}"] == pytest.approx(int((prepared.classes[taken] == number).sum()) / k)
        share = (prepared.classes[prepared.candidates] == number).sum() / prepared.candidates.sum()
        assert means[f"noiser_candidates/{letter}"] == pytest.approx(float(share))
    places = [0] * 10
    for row, column in taken.nonzero().tolist():
        residues = int((prepared.tokens[row] != PAD).sum()) - 2
        places[(column - 1) * 10 // residues] += 1
    assert [means[f"noiser_place/{place}"] for place in range(10)] == pytest.approx([n / k for n in places])
    both = prepared.counts
    assert means["noiser/masked_of_budget"] == 1.0
    together = both["random"] * means["loss_random"] + both["adversarial"] * means["loss_adversarial"]
    assert together / both["masked"] == pytest.approx(means["loss_mlm"], rel=1e-5)


def test_neighbours_and_padding_change_nothing_of_what_is_masked() -> None:
    state = new_state(SMALL, torch.float64)
    together = SMALL.prepare(batch_of(*SEQUENCES, "M" * 90))
    taken, shown = choice_of(state, together)
    for row, sequence in enumerate(SEQUENCES):
        alone = SMALL.prepare(batch_of(sequence))
        t = len(sequence) + 2
        taken_alone, shown_alone = choice_of(state, alone)
        assert torch.equal(alone.inputs[0], together.inputs[row, :t])
        assert torch.equal(taken_alone[0], taken[row, :t]) and not taken[row, t:].any()
        assert torch.equal(shown_alone[0][taken_alone[0]], shown[row][taken[row]])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_and_fillers_change_nothing(name: str) -> None:
    once, twice = new_state(OBJECTIVES[name], torch.float64), new_state(OBJECTIVES[name], torch.float64)
    assert steps_of(once, range(6)) == pytest.approx(steps_of(twice, range(6), split=2), abs=1e-9)
    for state, split in ((once, 1), (twice, 2)):
        train_step(state, [*batches_of(6, split), *([Batch.filler()] if split == 2 else [])])
    for one, other in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_without_a_residue_changes_nothing(name: str) -> None:
    """A filler alone, and sequences of unknown residues; weight decay aside, which is not the batch's."""
    state = new_state(OBJECTIVES[name])
    before = {n: w.clone() for n, w in state.model.state_dict().items()}
    for batch in [Batch.filler(), batch_of("XX", "B")] * 3:
        train_step(state, [batch])
    assert state.take_metrics()["loss"] == 0.0
    assert all(torch.equal(weight, before[name]) for name, weight in state.model.state_dict().items())


def changed_parts(state: TrainState, batches: list[Batch]) -> set[str]:
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    train_step(state, batches)
    return {name.split(".")[0] for name, weight in state.model.state_dict().items() if not torch.equal(weight, before[name])}


TURNS = [{"noiser"}] * 2 + [{"encoder", "token_head"}] * 3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_player_leaves_the_others_weights_as_they_are_to_the_bit(name: str) -> None:
    state = new_state(OBJECTIVES[name])
    assert [changed_parts(state, batches_of(step)) for step in range(10)] == TURNS * 2


def _worker(rank: int, size: int, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=size)
    state = new_state(SMALL, torch.float64)
    changed = [changed_parts(state, [batches_of(step, size)[rank]]) for step in range(5)]
    if rank == 0:
        torch.save({"changed": [sorted(parts) for parts in changed], "weights": state.model.state_dict()}, out)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_take_the_turns_of_one(tmp_path: Path) -> None:
    mp.spawn(_worker, (2, str(tmp_path / "rendezvous"), str(tmp_path / "out")), nprocs=2)
    two, one = torch.load(tmp_path / "out", weights_only=True), new_state(SMALL, torch.float64)
    assert two["changed"] == [sorted(parts) for parts in TURNS]
    steps_of(one, range(5))
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(weight, two["weights"][name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("stop", [1, 3, 6, 9])
def test_a_run_resumed_in_the_middle_of_either_turn_is_the_run_itself(stop: int) -> None:
    straight, first, second = (new_state(SMALL, dropout=0.2) for _ in range(3))
    expected = steps_of(straight, range(10))
    steps_of(first, range(stop))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    torch.rand(17)  # whatever was drawn in between
    assert steps_of(second, range(stop, 10)) == expected[stop:]
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_keeps_weights_in_float32_and_the_losses_near_theirs(checkpointing: bool) -> None:
    shape = replace(TINY, activation_checkpointing=checkpointing)
    torch.manual_seed(3)
    state = TrainState(SMALL, SMALL.build(shape.build()), ADAM, seed=5, bf16=True)
    torch.manual_seed(3)
    exact = TrainState(SMALL, SMALL.build(TINY.build()), ADAM, seed=5)
    assert steps_of(state, range(5)) == pytest.approx(steps_of(exact, range(5)), rel=0.03)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_the_noiser_comes_to_prefer_what_cannot_be_known() -> None:
    """Twelve of 24 positions are always the same residue, the others any."""
    rng, fast = np.random.default_rng(1), Adam(learning_rate=5e-3, beta2=0.999, warmup_steps=0, decay="constant")
    known = rng.permutation(24) < 12
    residues = rng.choice(list(STANDARD), 24)

    def batch(step: int) -> Batch:
        drawn = np.where(known, residues, rng.choice(list(STANDARD), (24, 24)))
        plain = batch_of(*("".join(row) for row in drawn))
        return Batch(plain.tokens, plain.keys + 7919 * step, plain.rows)

    objective = Adversarial(noiser=GRUNoiserShape(32, 32, 1), noiser_optimizer=fast)
    torch.manual_seed(1)
    state = TrainState(objective, objective.build(replace(TINY, width=32, hidden=64).build()), fast, seed=1)
    share = {}
    for step in range(100):
        train_step(state, [batch(step)])
        if step in (0, 99):
            prepared = objective.prepare(batch(step))
            with torch.no_grad():
                pi = inclusion(state.model.noiser(prepared.tokens)[0], prepared.candidates, prepared.k)[:, 1:-1]
            share[step] = float(pi[:, ~known].sum() / pi.sum())
    metrics = state.take_metrics()
    assert share[0] == pytest.approx(0.5, abs=0.08)
    assert share[99] > 0.75
    assert metrics["loss_adversarial"] > metrics["loss_random"]
