"""Objectives of several players: whose turn a step is, whose weights it changes, and what a resumed run goes on with."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from raypro.config import InputError
from raypro.core.batch import Batch
from raypro.core.loop import TrainState, train_step
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.objective import Player, Quantity, players_of
from raypro.core.optimizer import Adam
from tests.small import batch_of, random_sequences

SEQUENCES = random_sequences(6, 5, 20)
ADAM = Adam(learning_rate=0.01, warmup_steps=0, decay="constant")


class Rivals(nn.Module):
    """Two numbers a token; the one player wants their sum of products to be small, the other wants it large."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(30, 3), nn.Embedding(30, 3)


@dataclass(frozen=True)
class Tokens:
    tokens: Tensor
    counts: dict[str, int] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Tokens":
        return self


@dataclass(frozen=True)
class Rivalry:
    players: tuple[Player, ...] = (
        Player("left", ("left",), steps=2),
        Player("right", ("right",), steps=3, sign=-1.0, adam=replace(ADAM, learning_rate=0.05)),
    )
    quantities: tuple[Quantity, ...] = (Quantity("product", "tokens", 1.0),)
    judged_by: str = "product"

    def build(self, encoder: Any) -> Rivals:
        return Rivals()

    def prepare(self, batch: Batch) -> Tokens:
        return Tokens(batch.tokens, {"tokens": batch.filled if len(batch.rows) else 0})

    def sums(self, model: Rivals, prepared: Tokens) -> Tensor:
        mask = (prepared.tokens > 4).to(model.left.weight.dtype)
        return ((model.left(prepared.tokens) * model.right(prepared.tokens)).sum(dim=-1) * mask).sum()[None]


def new_state() -> TrainState:
    torch.manual_seed(4)
    return TrainState(Rivalry(), Rivals().double(), ADAM)


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in state.model.state_dict().items()}


def test_most_objectives_have_one_player_that_owns_the_model() -> None:
    assert players_of(MLM()) == (Player("model"),)


def test_players_take_turns_and_change_their_own_weights_alone() -> None:
    state, turns, products = new_state(), [], []
    for _ in range(10):
        before = weights(state)
        turns.append(state.playing.player.name)
        train_step(state, [batch_of(*SEQUENCES)])
        changed = [name for name, weight in weights(state).items() if not torch.equal(weight, before[name])]
        assert changed == [f"{turns[-1]}.weight"]
        assert [name for name, p in state.model.named_parameters() if p.requires_grad] == changed
        products.append(state.take_metrics()["product"])
    assert turns == ["left", "left", "right", "right", "right"] * 2
    assert products[2] < products[1] < products[0]  # each is the product before its step: down while left plays,
    assert products[2] < products[3] < products[4] < products[5]  # up while right does


def test_each_player_has_its_own_learning_rate() -> None:
    state, rates = new_state(), []
    for _ in range(5):
        rates.append(state.learning_rate)
        assert state.learning_rates == {"left/learning_rate": 0.01, "right/learning_rate": 0.05}  # whoever plays
        train_step(state, [batch_of(*SEQUENCES)])
    assert rates == [0.01, 0.01, 0.05, 0.05, 0.05]


def test_each_players_gradient_norm_is_a_mean_over_its_own_steps() -> None:
    together, apart = new_state(), new_state()
    norms: dict[str, list[float]] = {}
    for _ in range(5):
        train_step(together, [batch_of(*SEQUENCES)])
        train_step(apart, [batch_of(*SEQUENCES)])
        for name, norm in apart.take_metrics().items():
            if name.endswith("gradient_norm"):
                norms.setdefault(name, []).append(norm)
    assert {name: len(each) for name, each in norms.items()} == {"left/gradient_norm": 2, "right/gradient_norm": 3}
    means = together.take_metrics()
    assert {name: means[name] for name in norms} == pytest.approx({name: sum(each) / len(each) for name, each in norms.items()})
    assert abs(means["left/gradient_norm"] / means["right/gradient_norm"] - 1) > 0.05 and "gradient_norm" not in means


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_resumed_in_the_middle_of_either_turn_is_the_run_itself(stop: int) -> None:
    straight, first, second = new_state(), new_state(), new_state()
    for _ in range(9):
        train_step(straight, [batch_of(*SEQUENCES)])
    for _ in range(stop):
        train_step(first, [batch_of(*SEQUENCES)])
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for _ in range(stop, 9):
        train_step(second, [batch_of(*SEQUENCES)])
    for name, weight in weights(straight).items():
        assert torch.equal(weight, weights(second)[name]), name


def test_the_state_of_other_players_is_refused() -> None:
    torch.manual_seed(4)
    single = TrainState(replace(Rivalry(), players=(Player("model"),)), Rivals().double(), ADAM)
    with pytest.raises(InputError, match="other optimizers"):
        single.load_state_dict(new_state().state_dict())


def _worker(rank: int, size: int, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=size)
    state, changed = new_state(), []
    for _ in range(5):
        before = weights(state)
        train_step(state, [batch_of(*SEQUENCES[rank::size])])
        changed.append([name for name, weight in weights(state).items() if not torch.equal(weight, before[name])])
    if rank == 0:
        torch.save({"changed": changed, "weights": state.model.state_dict()}, out)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_take_the_turns_of_one(tmp_path) -> None:
    mp.spawn(_worker, (2, str(tmp_path / "rendezvous"), str(tmp_path / "out")), nprocs=2)
    two = torch.load(tmp_path / "out", weights_only=True)
    assert two["changed"] == [["left.weight"]] * 2 + [["right.weight"]] * 3
    one = new_state()
    for _ in range(5):
        train_step(one, [batch_of(*SEQUENCES)])
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, two["weights"][name], rtol=1e-9, atol=1e-12)
