"""A sweep's books, its halving, its proposals and its report say what is true."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raypro.config import InputError
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.optimizer import Adam
from raypro.proposals import Proposals
from raypro.settings import Budget
from raypro.space import ASHA, Grid, Optuna, Random, Space
from raypro.sweep import Demand, Halving, Result, Sweep
from raypro.sweep_report import (
    lost_to_starting,
    markdown,
    over_seeds,
    ranking_rows,
    ranking_table,
    rows_of_tests,
    spared,
    table_of_tests,
    write_csv,
)
from tests.small import tiny_experiment, tiny_fine_tuning

BASE = tiny_fine_tuning(Path("data"))
AXES = {"batches.size": (16, 32), "optimizer.learning_rate": (1e-3, 1e-2, 1e-1)}


def sweep_of(space: Space, name: str = "sweep") -> Sweep:
    return Sweep.begin(name, space, "checksum", Demand(1.0, 0.0), "space.py")


def test_the_books_give_back_what_was_written(raypro_home: Path) -> None:
    sweep = sweep_of(Space(BASE, AXES, Random(4)))
    sweep.save()
    trial = sweep.trials[2]
    trial.begin("checksum")
    result = Result("finished", "", 0.5, 7, {"valid/spearman": 0.5}, 3.0, 20, 1.0, 2.0, 3.0, {"test": {"spearman": 0.4}})
    trial.end(result)
    again = Sweep.open("sweep")
    assert again == replace(sweep, space=again.space) and again.space.to_plain() == sweep.space.to_plain()
    assert [t.result for t in again.trials] == [None, None, result, None]
    assert [t.begun for t in again.trials] == [False, False, True, False]
    assert again.trials[2].experiment == trial.experiment and trial.experiment.name == "sweep.trial_0002"
    with pytest.raises(InputError, match="--name sweep: that sweep exists"):
        sweep_of(Space(BASE, AXES))
    with pytest.raises(InputError, match="--resume other: no such sweep in .*/sweeps; known: sweep$"):
        Sweep.open("other")
    (sweep.path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="sweep.json: damaged"):
        Sweep.open("sweep")


def test_seeds_are_fresh_ones_with_the_best_values(raypro_home: Path) -> None:
    sweep = sweep_of(Space(replace(BASE, seed=5), AXES, seeds=2))
    trials = sweep.seed_trials(sweep.trials[3])
    assert [(t.name, t.experiment.seed, t.experiment.batches.size, t.experiment.optimizer.learning_rate) for t in trials] == [
        ("seed_0", 6, 32, 1e-3),
        ("seed_1", 7, 32, 1e-3),
    ]


def test_low_is_good_where_a_loss_chooses(raypro_home: Path) -> None:
    sweep = sweep_of(Space(tiny_experiment(Path("corpus")), {"optimizer.learning_rate": (1e-3, 1e-2, 1e-1)}))
    sweep.path.mkdir(parents=True)
    for trial, result in zip(sweep.trials, (Result("finished", score=2.0), Result("failed"), Result("finished", score=1.0)), strict=True):
        trial.begin("checksum")
        trial.end(result)
    assert [trial.name for trial, _ in sweep.ranked(sweep.trials)] == ["trial_0002", "trial_0000", "trial_0001"]


def test_trials_are_ranked_by_the_mean_of_their_ranks_where_one_figure_should_not_decide(raypro_home: Path) -> None:
    """By loss and accuracy alone the first three are equal: families decide. One that lacks a figure is behind them, a failed one last."""
    criteria = (("loss", "min"), ("accuracy", "max"), ("families", "max"))
    axes = {"optimizer.learning_rate": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    sweep = sweep_of(Space(tiny_experiment(Path("corpus")), axes, criteria=criteria))
    assert Space.from_plain(sweep.space.to_plain()) == sweep.space
    sweep.path.mkdir(parents=True)
    figures = [(3.0, 0.9, 0.2), (2.0, 0.8, 0.7), (1.0, 0.7, 0.5)]
    results = [Result("finished", score=f[0], step=5, metrics=dict(zip(("loss", "accuracy", "families"), f, strict=True))) for f in figures]
    results += [Result("finished", score=0.1, step=5, metrics={"loss": 0.1, "accuracy": 1.0}), Result("failed")]
    for trial, result in zip(sweep.trials, results, strict=True):
        trial.begin("checksum")
        trial.end(result)
    ranked = sweep.ranked(sweep.trials)
    assert [trial.name for trial, _ in ranked] == [f"trial_000{number}" for number in (1, 2, 0, 3, 4)]
    assert [row["mean rank"] for row in ranking_rows(sweep, ranked)] == pytest.approx([7 / 3, 8 / 3, 3, math.inf, math.inf])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(ranking_table(sweep, ranked))
    said = " ".join(console.export_text().split())
    assert (
        "mean rank by loss (lower is better), accuracy (higher is better), families (higher is better)" in said
        and "2.3333" in said
        and "inf" in said
    )
    assert "mean of its ranks by loss, accuracy, families" in markdown(sweep, ranked, [], {})


@pytest.mark.parametrize(
    ("criteria", "search", "message"),
    [
        ((("loss", "low"),), Grid(), "criteria: .* is not a metric's name with min or max"),
        ((("loss",),), Grid(), "criteria: .* is not a metric's name with min or max"),
        ((("loss", "min"),), Optuna(3), "criteria: Optuna proposes by one figure"),
    ],
)
def test_criteria_that_cannot_be_are_refused(criteria: Any, search: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Space(BASE, AXES, search, criteria=criteria)


def test_trials_are_compared_at_growing_numbers_of_validations() -> None:
    assert [n for n in range(1, 40) if ASHA(9).compares_at(n)] == [1, 3, 9, 27]
    assert [n for n in range(1, 40) if ASHA(9, first=2, factor=4).compares_at(n)] == [2, 8, 32]


def test_one_in_three_goes_on() -> None:
    rule = ASHA(9, factor=3)
    assert rule.goes_on(0.1, [])  # the first one: nothing to compare with
    assert not rule.goes_on(0.1, [0.2]) and rule.goes_on(0.3, [0.2])
    earlier = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert rule.goes_on(0.45, earlier) and not rule.goes_on(0.35, earlier)  # the best two of six


@pytest.mark.parametrize("sign", [1, -1])
def test_the_halving_answers_all_workers_alike_and_knows_what_was_before(sign: int) -> None:
    halving = Halving(ASHA(9, factor=2), sign, {"a": {10: sign * 0.5, 20: sign * 0.6}})
    assert not halving.goes_on("b", 5, sign * 0.4)  # the first validation of each is compared, at whatever step it was
    assert not halving.goes_on("b", 5, sign * 0.4)
    assert halving.goes_on("c", 7, sign * 0.7) and halving.goes_on("c", 14, sign * 0.7)
    assert halving.reported["c"] == {7: sign * 0.7, 14: sign * 0.7}
    assert not halving.goes_on("d", 7, float("nan"))
    assert halving.goes_on("a", 30, sign * 0.1)  # its third: 1, 2, 4, ... are compared


def test_proposals_are_new_each_time_and_learn() -> None:
    pytest.importorskip("optuna")
    given: list[tuple[int, ...]] = []
    proposals = Proposals(Optuna(12), (3, 4), 1, [])
    for _ in range(12):
        given.append(proposals.ask(given))
        proposals.tell(given[-1], float(given[-1][0]))
    assert sorted(given) == Grid().choices((3, 4))
    later = Proposals(Optuna(30, seed=3), (20, 2), -1, [((place, 0), float(place)) for place in range(14)] + [((15, 0), None)])
    asked = [later.ask([(place, 0) for place in range(14)]) for _ in range(3)]
    assert all(len(choice) == 2 and choice not in [(place, 0) for place in range(14)] for choice in asked)


def test_the_ranking_shows_what_the_books_hold(raypro_home: Path, tmp_path: Path) -> None:
    sweep = sweep_of(Space(replace(BASE, budget=Budget(epochs=10)), AXES))
    sweep.path.mkdir(parents=True)
    results = [
        Result("finished", "", 0.5, 10, {"valid/spearman": 0.5, "valid/mse": 1.0}, 10.0, 10, 0.0, 1.0, 5.0),
        Result("stopped", "", 0.7, 4, {"valid/spearman": 0.7, "valid/mse": 0.5}, 4.0, 10, 0.0, 1.0, 3.0),
        Result("failed", "not finite", used=0.0, allowed=10, started=1.0, ended=2.0),
    ]
    for trial, result in zip(sweep.trials, results, strict=False):
        trial.begin("checksum")
        trial.end(result)
    ranked = sweep.ranked(sweep.trials)
    rows = ranking_rows(sweep, ranked)
    assert [(row["rank"], row["trial"], row["status"], row["reason"]) for row in rows] == [
        (1, "trial_0001", "stopped", ""),
        (2, "trial_0000", "finished", ""),
        (None, "trial_0002", "failed", "not finite"),
    ]
    assert spared(ranked) == pytest.approx(1 - 14 / 20)  # the failed one does not count
    with write_csv(tmp_path / "ranking.csv", rows).open() as file:
        read = list(csv.DictReader(file))
    assert [row["optimizer.learning_rate"] for row in read] == ["0.01", "0.001", "0.1"] and read[0]["valid/mse"] == "0.5"
    assert ranking_table(sweep, ranked).row_count == 3
    assert "best valid/spearman 0.7000: batches.size=16, optimizer.learning_rate=0.01" in markdown(sweep, ranked, [], {})


def seed_runs(*values: float | None) -> Any:
    """Return runs with several seeds: of each what it reached on test, None of one that failed; 0.1 more on validation."""
    return [
        (None, Result("failed", "not finite"))
        if value is None
        else (None, Result("finished", metrics={"valid/spearman": value + 0.1, "valid/loss": 9.0}, test={"test": {"spearman": value}}))
        for value in values
    ]


def test_results_are_a_mean_and_the_deviation_of_a_sample_on_test_and_on_validation() -> None:
    runs, baselines = seed_runs(0.5, 0.6, 0.7), {"ridge": {"test": {"spearman": 0.4}, "valid": {"spearman": 0.45}}}
    spreads = over_seeds(runs)
    assert {split: list(metrics) for split, metrics in spreads.items()} == {"valid": ["spearman"], "test": ["spearman"]}
    spread = spreads["test"]["spearman"]
    assert (spread.mean, spread.deviation, spread.runs) == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert str(spread) == "0.600 ± 0.100" and str(spreads["valid"]["spearman"]) == "0.700 ± 0.100"
    rows = rows_of_tests(runs, baselines)
    assert [(row["split"], row["ridge"], row["failed"]) for row in rows] == [("valid", 0.45, ""), ("test", 0.4, "")]
    assert str(over_seeds(seed_runs(0.5))["test"]["spearman"]) == "0.500 (one run)"
    untested = [(None, Result("finished", metrics={"valid/spearman": 0.5, "valid/loss": 1.0}))]
    assert list(over_seeds(untested)["valid"]) == ["spearman", "loss"]  # type: ignore[arg-type]


def test_runs_with_other_seeds_that_failed_are_said(raypro_home: Path) -> None:
    sweep, runs = sweep_of(Space(BASE, AXES)), seed_runs(0.5, 0.6, None)
    said = "1 of 3 runs failed: not finite"
    assert {row["failed"] for row in rows_of_tests(runs, {})} == {said} and rows_of_tests(runs, {})[1]["runs"] == 2
    table = table_of_tests("spearman", runs, {})
    assert table.title == f"The best combination, 2 runs with fresh seeds; {said}" and table.row_count == 2
    ranked = [(sweep.trials[0], Result("finished", score=0.5))]
    assert f"{said}." in markdown(sweep, ranked, runs, {})
    assert "failed" not in markdown(sweep, ranked, seed_runs(0.5), {})


def test_what_starting_costs_is_the_time_that_places_wait_for_first_steps() -> None:
    results = [
        Result("finished", started=4.0, first_step=5.0, ended=15.0),  # five seconds until the first process is there
        Result("finished", started=4.0, first_step=5.0, ended=25.0),
        Result("finished", started=16.0, first_step=17.0, ended=27.0),  # in the first place, which was free for two
        Result("failed", started=26.0, ended=26.5),
    ]
    assert lost_to_starting(results, 2, launched=0.0) == pytest.approx(12 / (12 + 40))
    dead = Result("failed", "its process died", started=2.0, first_step=3.0, ended=90.0)
    alive = Result("finished", started=91.0, first_step=92.0, ended=100.0)
    assert lost_to_starting([dead, alive], 1, launched=0.0) == pytest.approx(5 / 100)  # what the dead one trained is no waiting
    assert lost_to_starting(results[3:], 2, launched=0.0) is None


def test_trials_with_one_frozen_encoder_share_its_vectors() -> None:
    from raypro.cluster.trial import data_key

    frozen = replace(BASE, frozen=True, start="checkpoint")
    assert data_key(BASE) == data_key(replace(BASE, seed=1, optimizer=Adam(learning_rate=1.0)))
    assert data_key(frozen) == data_key(replace(frozen, seed=1)) != data_key(BASE)
    assert data_key(replace(frozen, start=None)) != data_key(replace(frozen, start=None, seed=1))  # its random weights are the seed's
    assert data_key(replace(frozen, start=None, encoder=OneHotShape())) != data_key(frozen)
