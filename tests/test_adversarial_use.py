"""What a person meets of the adversarial objective: what is refused, what is warned of, and what its figures mean."""

import importlib
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import Tensor

from raypro.cluster.train import require_corpus
from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.loop import TrainState, evaluate
from raypro.core.noiser import GRUNoiserShape
from raypro.core.noising import importance, inclusion, relative_entropy
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.objective import players_of
from raypro.core.optimizer import Adam
from raypro.core.subset import gumbel, relaxed_subset, threshold_subset
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.outbox import FOLDER
from raypro.settings import Batches
from raypro.training import WARNING, Hooks
from tests.small import TINY, batch_of, random_sequences, tiny_experiment, write_corpus
from tests.test_adversarial import SMALL, batches_of, new_state

ROOT = Path(__file__).resolve().parent.parent
SCORES = torch.tensor([[2.0, 0.0, -1.0, 0.5, 1.0, -2.0]], dtype=torch.float64)
CANDIDATES = torch.tensor([[True, True, True, True, True, False]])


def taken_at_random(s: Tensor, k: int, draws: int) -> Tensor:
    """Whether each position [draws, n] is among the k highest of s [1, n] and Gumbel noise."""
    noise = gumbel(torch.rand(draws, s.shape[1], dtype=torch.float64))
    return (s + noise).argsort(dim=1, descending=True).argsort(dim=1) < k


@pytest.mark.parametrize(("n", "k", "tolerance"), [(5, 1, 0.08), (5, 2, 0.1), (50, 10, 0.025)])
def test_inclusion_is_about_how_often_each_residue_is_taken(n: int, k: int, tolerance: float) -> None:
    s = torch.cat([torch.randn(1, n, dtype=torch.float64), torch.full((1, 1), 99.0)], dim=1)
    candidates = torch.arange(n + 1)[None] < n
    pi = inclusion(s, candidates, torch.tensor([k]))[0]
    assert pi[n] == 0.0 and float(pi.sum()) == pytest.approx(k, rel=1e-4)
    assert (pi[:n] - taken_at_random(s[:, :n], k, 20_000).double().mean(dim=0)).abs().max() < tolerance
    assert torch.allclose(inclusion(0 * s, candidates, torch.tensor([k]))[0, :n], torch.full((n,), k / n, dtype=torch.float64))


def test_inclusion_of_what_is_certain_and_of_nothing() -> None:
    s, everywhere = torch.tensor([[50.0, 50.0, 0.0, 0.0]] * 3), torch.ones(3, 4, dtype=torch.bool)
    everywhere[2] = False
    pi = inclusion(s, everywhere, torch.tensor([2, 4, 0]))
    assert pi.tolist() == [pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-5), pytest.approx([1.0] * 4, abs=1e-5), [0.0] * 4]


@pytest.mark.parametrize("above", [30.0, 300.0, 5000.0])
def test_inclusion_sums_to_k_however_far_scores_are_apart(above: float) -> None:
    s, k = torch.zeros(3, 40), torch.tensor([5, 5, 39])
    s[0, :3], s[1, :30], s[1, 30:] = above, above, -above
    pi = inclusion(s, torch.ones(3, 40, dtype=torch.bool), k)
    assert pi.sum(dim=1).tolist() == pytest.approx(k.tolist(), rel=1e-3)
    assert pi[0].tolist() == pytest.approx([1.0] * 3 + [2 / 37] * 37, rel=1e-3)
    assert pi[1].tolist() == pytest.approx([1 / 6] * 30 + [0.0] * 10, rel=1e-3)


def test_importance_makes_a_sum_over_those_taken_an_estimate_of_the_uniform_one() -> None:
    k, losses = torch.tensor([2]), torch.tensor([3.0, 1.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    weights = importance(inclusion(SCORES, CANDIDATES, k), CANDIDATES, k, 1e9)[0, :5]
    taken = taken_at_random(SCORES[:, :5], 2, 20_000).double()
    uniform, plain, weighed = 2 / 5 * float(losses.sum()), float((taken @ losses).mean()), float((taken @ (weights * losses)).mean())
    assert abs(plain - uniform) > 0.8
    assert abs(weighed - uniform) < 0.2
    capped = importance(inclusion(SCORES, CANDIDATES, k), CANDIDATES, k, 1.5)
    assert float(capped.max()) == 1.5


def test_the_entropy_is_1_for_a_uniform_choice_and_0_where_always_the_same_are_taken() -> None:
    candidates = torch.ones(4, 8, dtype=torch.bool)
    pi = torch.zeros(4, 8, dtype=torch.float64)
    pi[0], pi[1, :2], pi[2], pi[3, :4] = 0.25, 1.0, 1.0, 0.5
    found = relative_entropy(pi, candidates, torch.tensor([2, 2, 8, 2]))
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.tolist() == pytest.approx([1.0, 0.0, 1.0, 4 * math.log(2) / (8 * quarter)])


def test_a_noiser_that_always_takes_the_same_has_no_entropy_however_many_it_takes() -> None:
    s, everywhere = torch.zeros(1, 20), torch.ones(1, 20, dtype=torch.bool)
    s[0, :5] = 40.0
    pi = inclusion(s, everywhere, torch.tensor([5]))
    assert float(relative_entropy(pi, everywhere, torch.tensor([5]))) < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "objective.temperature: 0.0 must be above 0"),
        ({"temperature": -1.0}, "objective.temperature"),
        ({"adversarial_rate": 0.0}, "objective.adversarial_rate: 0.0 is not in"),
        ({"adversarial_rate": 0.7, "random_rate": 0.4}, "sum beyond 1"),
        ({"random_rate": -0.1}, "must not be negative"),
        ({"mask_share": 0.9, "random_share": 0.2}, "mask_share and random_share"),
        ({"reweight": True}, "add --objective.random-rate 0"),
        ({"reweight": True, "random_rate": 0.0, "choice": "threshold"}, "leave --objective.choice top"),
        ({"weight_cap": 0.0}, "objective.weight_cap"),
        ({"weight_cap": math.nan}, "objective.weight_cap: nan is no finite number"),
        ({"temperature": math.inf}, "objective.temperature: inf is no finite number"),
        ({"noiser_steps": 0}, "objective.noiser_steps: 0 must be 1 or more"),
        ({"encoder_steps": 0}, "objective.encoder_steps"),
    ],
)
def test_impossible_fields_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Adversarial(**changes)


def test_an_encoder_without_a_gradient_for_what_it_sees_is_refused() -> None:
    with pytest.raises(InputError, match="encoder: CPCProt has no gradient for what it sees"):
        Adversarial().build(CPCProtShape(embedding=4, filters=(4, 4), kernels=(2, 2)).build())


def test_short_sequences_are_refused_before_the_cluster_is_asked(
    raypro_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))
    write_corpus(tmp_path / "short", {"train": random_sequences(20, 12, 20), "valid": [*random_sequences(5, 8, 20), "ACDE"]})
    with pytest.raises(SystemExit) as exit_:
        pretrain_main(importlib.import_module("pretrain_adversarial").PRESETS, ["--corpus", str(tmp_path / "short")])
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.count("\n") == 1
    assert "(4 residues) rounds to none; build the corpus with --min-length 5" in said
    assert not (raypro_home / "runs").exists()


def test_sequences_that_are_cropped_too_short_are_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "long", {"train": random_sequences(20, 12, 20), "valid": random_sequences(5, 12, 20)})
    batches = Batches(token_budget=256, max_length=4, window_row_groups=2)
    with pytest.raises(InputError, match=r"\(4 residues\) rounds to none; .* crop at --batches.max-length 5 or more"):
        require_corpus(tiny_experiment(tmp_path / "long", objective=Adversarial(), batches=batches))
    require_corpus(tiny_experiment(tmp_path / "long", objective=Adversarial(), batches=replace(batches, max_length=5)))


@pytest.mark.parametrize("random_rate", [0.0, 0.1])
def test_a_sequence_with_too_few_standard_residues_for_the_budget_changes_no_other(random_rate: float) -> None:
    objective = Adversarial(noiser=GRUNoiserShape(8, 8, 1), random_rate=random_rate)
    torch.manual_seed(0)
    state = TrainState(objective, objective.build(TINY.build()).double(), Adam(1e-3, warmup_steps=0))
    prepared = objective.prepare(batch_of("XXXXXXXXAC", "ACDEFGHIKL"))
    assert prepared.k.tolist() == [0, 1]
    alone, beside = evaluate(state, [batch_of("ACDEFGHIKL")]), evaluate(state, [batch_of("XXXXXXXXAC", "ACDEFGHIKL")])
    about = [name for name in alone if name.startswith("noiser") or name == "loss_adversarial"]
    about = [name for name in about if not name.startswith("noiser_candidates")]  # its residues could be taken all the same
    assert [beside[name] for name in about] == pytest.approx([alone[name] for name in about])
    assert random_rate or beside["loss_random"] == pytest.approx(alone["loss_random"])


def test_the_baseline_masks_as_much_at_random() -> None:
    assert Adversarial(adversarial_rate=0.15, random_rate=0.1, mask_share=0.7).random_masking() == MLM(0.25, 0.7, 0.1)


def test_the_best_checkpoint_is_that_of_the_loss_that_no_noiser_moves() -> None:
    experiment = tiny_experiment(Path("corpus"), objective=Adversarial())
    reweighted = replace(experiment, objective=Adversarial(reweight=True, random_rate=0.0))
    assert experiment.selected_by == reweighted.selected_by == ("valid/loss_random", "min")
    assert Experiment.from_plain(reweighted.to_plain()) == reweighted


def test_the_threshold_misses_the_budget_and_the_figures_are_over_what_it_takes() -> None:
    objective = replace(SMALL, choice="threshold", temperature=0.5)
    state, prepared = new_state(objective), objective.prepare(batches_of(0)[0])
    with torch.no_grad():
        s, _ = state.model.noiser(prepared.tokens)
        p = relaxed_subset(s, prepared.which, prepared.candidates, prepared.k, 0.5)
        chosen = threshold_subset(p, prepared.candidates)
        taken, random, k = int(chosen.sum()), int(prepared.at_random.sum()), int(prepared.k.sum())
        sums = objective.sums(state.model, prepared)
    means = evaluate(state, batches_of(0, 2))
    assert 0 < taken < k
    assert means["noiser/masked_of_budget"] == pytest.approx(taken / k)
    assert means["loss_mlm"] == pytest.approx(float(sums[0]) / (random + taken), rel=1e-5)
    assert means["loss_adversarial"] == pytest.approx(float(sums[2]) / taken, rel=1e-5)
    assert means["loss_random"] == pytest.approx(float(sums[3]) / random, rel=1e-5)
    for group, names in (("noiser", ("mask", "keep", "replace")), ("noiser_chosen", STANDARD), ("noiser_place", range(10))):
        assert sum(means[f"{group}/{name}"] for name in names) == pytest.approx(1.0)


@pytest.mark.parametrize("choice", ["top", "threshold"])
def test_a_noiser_with_one_way_of_masking_left_is_seen_with_either_choice(choice: Literal["top", "threshold"]) -> None:
    objective = Adversarial(noiser=GRUNoiserShape(8, 8, 1), choice=choice)
    torch.manual_seed(0)
    state = TrainState(objective, objective.build(TINY.build()), Adam(1e-3, warmup_steps=0))
    batch = batch_of(*random_sequences(20, 60, 80))
    assert objective.warnings(evaluate(state, [batch])) == ()
    with torch.no_grad():
        state.model.noiser.scores.bias[1] = 60.0  # of MASK
    means = evaluate(state, [batch])
    assert objective.warnings(means) == ("the noiser has one way of masking left: mask",)
    assert choice == "top" or means["noiser/masked_of_budget"] < 0.9


def test_every_weight_has_one_player() -> None:
    objective = Adversarial(noiser=GRUNoiserShape(8, 8, 1))
    model = objective.build(tiny_experiment(Path("corpus")).encoder.build())
    owned = [set(map(id, model.get_submodule(part).parameters())) for player in players_of(objective) for part in player.parts]
    assert not any(one & other for one, other in itertools.combinations(owned, 2))
    assert set().union(*owned) == set(map(id, model.parameters()))


WELL = {"noiser/entropy": 0.6, "noiser/masked_of_budget": 1.0, "noiser/mask": 0.5, "noiser/keep": 0.2, "noiser/replace": 0.3}
COLLAPSED = {
    "entropy": {**WELL, "noiser/entropy": 0.01},
    "option": {**WELL, "noiser/mask": 0.0, "noiser/keep": 0.0, "noiser/replace": 1.0},
    "given up": {**WELL, "noiser/mask": 0.6, "noiser/keep": 0.4, "noiser/replace": 0.0},
    "nothing": {name: value if name == "noiser/entropy" else 0.0 for name, value in WELL.items()},
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("entropy", "the same residues"),
        ("option", "one way of masking left: replace"),
        ("given up", "given up a way of masking: replace"),
        ("nothing", "masks nothing"),
    ],
)
def test_a_collapsed_noiser_is_warned_of_after_so_many_steps_and_not_before(name: str, message: str, tmp_path: Path) -> None:
    objective = Adversarial(warn_after=30)
    job = SimpleNamespace(experiment=tiny_experiment(tmp_path, objective=objective))
    state = SimpleNamespace(objective=objective, step=0, wrong_since={}, warnings={})
    hooks = Hooks(job, tmp_path, None, None, state)

    def watch(means: dict[str, float], steps: range) -> list[str]:
        for state.step in steps:
            hooks.watch(state, means)
        records = map(json.loads, (tmp_path / FOLDER / "outbox-worker.jsonl").read_text().splitlines())
        return [record["values"][WARNING] for record in records]

    assert watch(COLLAPSED[name], range(10, 30, 10)) == []
    assert watch(WELL, range(30, 40, 10)) == []  # it recovers: the count begins anew
    assert watch(COLLAPSED[name], range(40, 60, 10)) == []
    warnings = watch(COLLAPSED[name], range(60, 200, 10))
    assert len(warnings) == 1 and message in warnings[0] and warnings[0].endswith("(for 30 steps, at step 60)")
    other = COLLAPSED["entropy" if name != "entropy" else "option"]
    assert len(watch(COLLAPSED[name], range(200, 240, 10))) == 1  # of the same no more
    assert len(watch(other, range(240, 260, 10))) == 1
    said = watch(other, range(260, 300, 10))[1]  # of another as soon as it has lasted, beside the first
    assert said.startswith(f"{warnings[0]}; ") and said.endswith("(for 30 steps, at step 260)")


def test_of_two_faults_each_is_counted_and_both_are_said(tmp_path: Path) -> None:
    objective = Adversarial(warn_after=30)
    state = SimpleNamespace(objective=objective, step=0, wrong_since={}, warnings={})
    hooks = Hooks(SimpleNamespace(experiment=tiny_experiment(tmp_path, objective=objective)), tmp_path, None, None, state)
    for state.step in range(10, 100, 10):
        means = COLLAPSED["option"] if state.step > 10 else WELL
        hooks.watch(state, {**means, "noiser/entropy": 0.01} if 40 < state.step < 90 else means)
    records = map(json.loads, (tmp_path / FOLDER / "outbox-worker.jsonl").read_text().splitlines())
    first, both = [record["values"][WARNING] for record in records]
    assert first == "the noiser has one way of masking left: replace (for 30 steps, at step 40)"
    entropy = "the noiser has no entropy left: it takes the same residues whatever the noise (for 30 steps, at step 70)"
    assert both == f"{first}; {entropy}"
    nothing = {**COLLAPSED["nothing"], "noiser/entropy": 0.0}
    assert [warning.split(":")[0] for warning in objective.warnings(nothing)] == [
        "the noiser has no entropy left",
        "the noiser masks nothing",
    ]
