import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.core.batch import Batch
from raypro.core.loop import TrainState, evaluate, fit, train_step
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.pmlm import PMLM
from raypro.core.optimizer import Adam
from tests.small import TINY, batch_of, random_sequences

OBJECTIVES = {"mlm": MLM(), "pmlm": PMLM(), "pmlm_pair_only": PMLM(pair_only=True)}
ADAM = Adam(learning_rate=1e-3, warmup_steps=5)
SEQUENCES = random_sequences(8, 12, 30)

GOLDEN = {
    "mlm": [
        3.0338,
        3.1012,
        3.0205,
        3.0484,
        3.0749,
        3.0083,
        3.0119,
        3.01,
        3.0344,
        2.9673,
        3.1072,
        3.0166,
        3.0574,
        2.935,
        3.0239,
        3.0079,
        2.9359,
        3.0015,
        2.9364,
        3.0045,
    ],
    "pmlm": [
        9.0431,
        9.1319,
        9.0415,
        9.0758,
        9.1225,
        9.014,
        9.0477,
        8.992,
        9.0859,
        9.0286,
        9.1237,
        9.0464,
        9.0717,
        8.9468,
        9.0563,
        9.0105,
        8.9563,
        9.0048,
        8.8962,
        9.0271,
    ],
}
"""Losses of twenty steps: a change needs a reason, said in the commit that makes it."""


def new_state(objective: MLM | PMLM, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> TrainState:
    torch.manual_seed(3)
    model = objective.build(replace(TINY, dropout=dropout).build()).to(dtype)
    return TrainState(objective, model, ADAM, seed=5, total_steps=40)


def step_batches(step: int, split: int = 1) -> list[Batch]:
    """The batch of a step, in ``split`` parts: its keys change with the step and stay with their sequences."""
    parts = [SEQUENCES[i::split] for i in range(split)]
    batches = [batch_of(*part) for part in parts]
    return [Batch(b.tokens, b.keys + 1000 * step, b.rows) for b in batches]


def losses(state: TrainState, steps: range, split: int = 1) -> list[float]:
    found = []
    for step in steps:
        train_step(state, step_batches(step, split))
        found.append(state.take_metrics()["loss"])
    return found


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(name: str) -> None:
    found = losses(new_state(OBJECTIVES[name]), range(20))
    assert found == pytest.approx(GOLDEN[name], abs=2e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_changes_nothing(name: str) -> None:
    once, twice = new_state(OBJECTIVES[name], dtype=torch.float64), new_state(OBJECTIVES[name], dtype=torch.float64)
    assert losses(once, range(4)) == pytest.approx(losses(twice, range(4), split=2), abs=1e-9)
    for one, other in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_fillers_change_nothing(name: str) -> None:
    plain, filled = new_state(OBJECTIVES[name]), new_state(OBJECTIVES[name])
    train_step(plain, step_batches(0))
    train_step(filled, [*step_batches(0), Batch.filler()])
    for one, other in zip(plain.model.parameters(), filled.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ten_steps_are_five_a_restore_and_five(name: str) -> None:
    straight = new_state(OBJECTIVES[name], dropout=0.2)
    expected = losses(straight, range(10))
    first = new_state(OBJECTIVES[name], dropout=0.2)
    losses(first, range(5))
    second = new_state(OBJECTIVES[name], dropout=0.2)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    torch.rand(17)  # whatever was drawn in between
    assert second.learning_rate == first.learning_rate
    assert losses(second, range(5, 10)) == expected[5:]
    for one, other in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def _worker(rank: int, size: int, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=size)
    state = new_state(PMLM(), dtype=torch.float64)
    found = []
    for step in range(4):
        train_step(state, [step_batches(step, size)[rank]])
        found.append(state.take_metrics()["loss"])
    if rank == 0:
        torch.save({"losses": found, "weights": state.model.state_dict()}, out)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_take_the_steps_of_one(tmp_path) -> None:
    mp.spawn(_worker, (2, str(tmp_path / "rendezvous"), str(tmp_path / "out")), nprocs=2)
    two = torch.load(tmp_path / "out", weights_only=True)
    one = new_state(PMLM(), dtype=torch.float64)
    assert losses(one, range(4)) == pytest.approx(two["losses"], abs=1e-9)
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(weight, two["weights"][name], rtol=1e-7, atol=1e-9)


def test_fit_ends_when_a_hook_says_so_and_every_hook_is_called() -> None:
    state, seen = new_state(MLM()), []
    fit(state, (step_batches(s) for s in range(100)), [lambda s: s.step == 3, lambda s: seen.append(s.step)])
    assert seen == [1, 2, 3]


def test_a_loss_that_is_not_finite_ends_training_with_advice() -> None:
    state = new_state(MLM())
    with torch.no_grad():
        next(state.model.parameters())[5:].fill_(float("nan"))
    train_step(state, step_batches(0))
    with pytest.raises(FloatingPointError, match="not finite at step 1.*lower optimizer.learning_rate"):
        state.take_metrics()


def test_bf16_keeps_weights_in_float32_and_learns() -> None:
    torch.manual_seed(3)
    state = TrainState(PMLM(), PMLM().build(TINY.build()), ADAM, seed=5, bf16=True)
    found = losses(state, range(3))
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert found == pytest.approx(losses(new_state(PMLM()), range(3)), rel=0.02)


def test_evaluation_has_no_dropout_and_weighs_batches_by_their_terms() -> None:
    state = new_state(PMLM(), dropout=0.5)
    whole = evaluate(state, step_batches(0))
    assert evaluate(state, step_batches(0, split=3)) == pytest.approx(whole, rel=1e-5)
    assert whole["loss"] == pytest.approx(whole["loss_mlm"] + whole["loss_pmlm"], rel=1e-6)


def test_learning_rate_rises_then_falls_linearly() -> None:
    adam = Adam(learning_rate=1.0, warmup_steps=10)
    rates = [adam.rate_at(step, 110) for step in (0, 4, 9, 10, 60, 109, 110, 200)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.01, 0.0, 0.0])
    assert replace(adam, decay="constant").rate_at(500, 110) == 1.0
    assert replace(adam, decay_steps=60).rate_at(35, 110) == pytest.approx(0.5)
    assert adam.rate_at(500, None) == 1.0
    falling = replace(adam, warmup_steps=0, decay="exponential", decay_steps=10, decay_factor=0.5)
    assert [falling.rate_at(step, None, 7) for step in (0, 9, 10, 25)] == [1.0, 1.0, 0.5, 0.25]
    by_epoch = replace(falling, decay_steps=None, warmup_steps=4)
    assert [by_epoch.rate_at(*at) for at in ((0, None, 0), (3, None, 0), (4, None, 0), (99, 50, 1), (100, None, 3))] == [
        0.25,
        1,
        1,
        0.5,
        0.125,
    ]


def test_gradients_are_clipped_to_a_norm_or_not_at_all() -> None:
    steps = {}
    for norm in (None, 1e9, 0.1):
        state = new_state(MLM())
        state.playing.adam = replace(ADAM, clip_norm=norm)
        train_step(state, step_batches(0))
        assert state.take_metrics()["gradient_norm"] > 0.1
        steps[norm] = float(torch.linalg.vector_norm(state.playing.gradients.flat))
    assert steps[None] == steps[1e9] > 0.2 and steps[0.1] == pytest.approx(0.1, rel=1e-4)


def test_a_validation_of_nothing_is_no_perfect_one() -> None:
    with pytest.raises(InputError, match="validation: no term of loss_mlm in its sequences: too few, or too short"):
        evaluate(new_state(MLM()), [Batch.filler()])


def test_epochs_go_on_in_a_resumed_run_and_an_older_ones_begin_anew() -> None:
    state, resumed = new_state(MLM()), new_state(MLM())
    state.epochs = 3
    resumed.load_state_dict(state.state_dict())
    assert resumed.epochs == 3
    resumed.load_state_dict({name: value for name, value in state.state_dict().items() if name != "epochs"})
    assert resumed.epochs == 0


def test_impossible_rates_are_refused() -> None:
    for change in ({"learning_rate": 0.0}, {"beta1": 1.0}, {"warmup_steps": -1}, {"clip_norm": 0.0}, {"decay_steps": -5}):
        with pytest.raises(InputError, match=f"optimizer.*{next(iter(change))}"):
            Adam(**change)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_beats_the_unigram_floor(name: str) -> None:
    """Proteins of one repeated residue each: the context tells every residue, the frequencies tell nothing."""
    objective = OBJECTIVES[name]
    floors = {q.name: math.log(20) * (2 if q.name == "loss_pmlm" else 1) for q in objective.quantities if q.weight}
    model = objective.build(replace(TINY, width=32, hidden=64).build())
    state = TrainState(objective, model, Adam(learning_rate=1e-2, warmup_steps=10), seed=1)
    for step in range(80):
        batch = batch_of(*(letter * 14 for letter in STANDARD))
        train_step(state, [Batch(batch.tokens, batch.keys + 7919 * step, batch.rows)])
        if step == 70:
            state.take_metrics()
    metrics = state.take_metrics()
    assert all(metrics[loss] < floor / 2 for loss, floor in floors.items())
