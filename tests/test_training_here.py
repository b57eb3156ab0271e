"""What a training worker does, in this process: budgets, patience, checkpoints, resuming."""

import itertools
import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.train import Checkpoint

from raypro.audit import audit, planned, read_uses
from raypro.cluster import train as driver
from raypro.cluster.group import fit_on_workers
from raypro.cluster.resources import Node
from raypro.cluster.train import require_corpus
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.loop import TrainState
from raypro.core.noiser import GRUNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.data.corpus import Corpus
from raypro.delivery import sole_delivery
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import read_records
from raypro.pretraining import Pretraining, data_plan
from raypro.settings import Budget, Tracking, Validation
from raypro.validation import load_model, validate_model
from tests.small import random_sequences, tiny_experiment, train_here, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "corpus"
    write_corpus(folder, {"train": random_sequences(200, 10, 60), "valid": random_sequences(40, 10, 60, seed=1)})
    return folder


def test_an_epoch_uses_each_sequence_once_and_ends_with_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(epochs=2), validation=Validation(every=1000))
    state = train_here(experiment, tmp_path / "run")
    assert (tmp_path / "run" / f"step_{state.step:08d}" / "model.safetensors").is_file()
    epochs = audit(planned(data_plan(experiment)), read_uses(tmp_path / "run"))
    assert [(e.rows, e.whole == e.windows, e.wrong) for e in epochs] == [(200, True, [])] * 2


def test_a_step_budget_is_kept_to_the_step(corpus: Path, tmp_path: Path) -> None:
    assert train_here(tiny_experiment(corpus, budget=Budget(steps=7, epochs=50)), tmp_path / "run").step == 7


def test_a_time_budget_ends_at_the_next_logging(corpus: Path, tmp_path: Path) -> None:
    assert train_here(tiny_experiment(corpus, budget=Budget(minutes=1e-6)), tmp_path / "run").step == 2


@pytest.mark.parametrize("objective", [MLM(), Adversarial(GRUNoiserShape(4, 4, 1), noiser_steps=2, encoder_steps=1)])
def test_a_budget_of_residues_ends_at_the_step_that_reaches_it(objective: MLM | Adversarial, corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, objective=objective, tracking=Tracking(every=50))
    plan = data_plan(experiment)
    lengths = np.concatenate([plan.corpus.read(groups, ["length"])["length"].to_numpy() for groups in plan.windows])
    batches = [packed for task in plan.start(0, 1).hand(0) for packed in plan.read(task)][:12]
    cropped = [int(np.minimum(lengths[packed.rows], 40).sum()) for packed in batches]
    reached = np.cumsum([n if isinstance(objective, MLM) or step % 3 == 2 else 0 for step, n in enumerate(cropped)]).tolist()
    for asked, steps in ((reached[8], 9), (reached[8] - 1, 9), (reached[8] + 1, 10 if isinstance(objective, MLM) else 12)):
        state = train_here(replace(experiment, budget=Budget(residues=asked)), tmp_path / f"residues{asked}")
        assert (state.step, state.residues) == (steps, reached[steps - 1])
    records = [r for r, _ in read_records(tmp_path / f"residues{reached[8]}" / "tracking" / "outbox-worker.jsonl", 0)]
    assert [r["values"]["train/residues"] for r in records if "train/residues" in r.get("values", {})][-1] == reached[8]


def test_a_budget_of_residues_is_kept_when_a_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(residues=2500))
    whole = train_here(experiment, tmp_path / "whole")
    assert whole.step > 9 and whole.residues >= 2500
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = train_here(experiment, broken, broken / "step_00000004")
    assert (resumed.step, resumed.residues) == (whole.step, whole.residues)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert train_here(experiment, broken, max(broken.glob("step_*"))).step == whole.step


def test_minutes_before_a_checkpoint_count_when_a_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    train_here(tiny_experiment(corpus, budget=Budget(steps=4)), tmp_path / "run")
    spent = checkpoint.load_training(tmp_path / "run" / "step_00000004")["seconds"]
    over = tiny_experiment(corpus, budget=Budget(minutes=0.9 * spent / 60))
    assert train_here(over, tmp_path / "run", tmp_path / "run" / "step_00000004").step == 4


def test_patience_ends_a_run_that_no_longer_improves(corpus: Path, tmp_path: Path) -> None:
    frozen = tiny_experiment(corpus, budget=Budget(steps=1000), validation=Validation(every=2, patience=3))
    state = train_here(replace(frozen, optimizer=replace(frozen.optimizer, learning_rate=1e-30)), tmp_path / "run")
    assert (state.step, state.stale) == (8, 3)  # the first validation is the best, three more are no better


GAME = Adversarial(GRUNoiserShape(4, 4, 1), noiser_steps=3, encoder_steps=3)


@pytest.mark.parametrize(("objective", "stop"), [(MLM(), 4), (MLM(), 8), (MLM(), 12), (GAME, 4), (GAME, 8)])
def test_resuming_anywhere_gives_the_weights_of_an_undisturbed_run(
    corpus: Path, tmp_path: Path, objective: MLM | Adversarial, stop: int
) -> None:
    encoder = replace(tiny_experiment(corpus).encoder, dropout=0.1)
    experiment = tiny_experiment(corpus, objective=objective, budget=Budget(steps=16), encoder=encoder)
    whole = train_here(experiment, tmp_path / "whole")
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = train_here(experiment, broken, broken / f"step_{stop:08d}")
    assert resumed.step == whole.step and resumed.playing.player == whole.playing.player
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(whole.players, resumed.players, strict=True):
        moments = [list(each.optimizer.state.values()) for each in (one, other)]
        assert all(torch.equal(a[name], b[name]) for a, b in zip(*moments, strict=True) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert read_uses(broken) == read_uses(tmp_path / "whole")


def test_what_lies_beyond_the_checkpoint_is_forgotten_at_resuming(corpus: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(corpus, budget=Budget(steps=12))
    folder = tmp_path / "run"
    train_here(experiment, folder)
    (folder / ".step_00000016.123").mkdir()
    train_here(replace(experiment, budget=Budget(steps=8)), folder, folder / "step_00000004")
    assert sorted(path.name for path in folder.glob("*step_*")) == ["step_00000004", "step_00000008"]
    assert sorted(path.name.split(".")[0] for path in (folder / "record").iterdir()) == ["step_00000004", "step_00000008"]


def test_speeds_are_those_of_the_steps_whatever_validation_takes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks when it is looked at, and a validation of a million ticks."""
    ticks = itertools.count()
    lost = [0]
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks) + lost[0]))
    for module in ("raypro.core.loop", "raypro.core.meter", "raypro.training"):
        monkeypatch.setattr(f"{module}.time", clock)
    judge = Pretraining.judge

    def slow(self: Pretraining, state: TrainState) -> dict[str, float]:
        lost[0] += 1_000_000
        return judge(self, state)

    monkeypatch.setattr(Pretraining, "judge", slow)
    train_here(tiny_experiment(corpus), tmp_path / "run")
    records = [record for record, _ in read_records(tmp_path / "run" / "tracking" / "outbox-worker.jsonl", 0)]
    points = {r["step"]: r["values"] for r in records if r["kind"] == "metrics" and "speed/steps_per_second" in r["values"]}
    assert list(points) == [2, 4, 6, 8]  # validated after steps 4 and 8
    assert all(0.1 < point["speed/steps_per_second"] < 1 and point["speed/waiting_for_data"] > 0.1 for point in points.values())
    assert points[6]["train/minutes"] > 1_000_000 / 60  # the budget's minutes are those of the clock on the wall
    for point in points.values():
        assert 0 < point["speed/residues_per_second"] < point["speed/tokens_per_second"]


def test_what_cannot_be_measured_is_refused(corpus: Path, tmp_path: Path) -> None:
    train_here(tiny_experiment(corpus, budget=Budget(steps=2)), tmp_path / "run")
    model = load_model(tmp_path / "run" / "step_00000002")
    unsplit = write_corpus(tmp_path / "unsplit", {"train": random_sequences(8, 10, 20)})
    with pytest.raises(InputError, match="unsplit: no sequence in its valid split"):
        validate_model(model, unsplit, tmp_path / "out")
    damaged = write_corpus(tmp_path / "damaged", {"train": random_sequences(8, 10, 20), "valid": random_sequences(8, 10, 20)})
    with pytest.raises(InputError, match="sequences: -1 of each family"):
        validate_model(model, damaged, tmp_path / "out", sequences=-1)
    file = damaged.path / "valid-00000.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="valid-00000.parquet"):
        validate_model(model, damaged, tmp_path / "out")


def test_of_a_large_corpus_what_each_file_ends_with_is_looked_at(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    monkeypatch.setattr("raypro.cluster.train.CHECKED_BYTES", 0)
    require_corpus(tiny_experiment(copy))
    file = copy / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="train-00000.parquet"):
        require_corpus(tiny_experiment(copy))


def test_validation_compares_between_seeds_and_steps(corpus: Path, tmp_path: Path) -> None:
    still = tiny_experiment(corpus, budget=Budget(steps=8))
    still = replace(still, optimizer=replace(still.optimizer, learning_rate=1e-30))
    train_here(still, tmp_path / "run")
    losses = {checkpoint.load(path).metrics["valid/loss"] for path in (tmp_path / "run").glob("step_*")}
    assert len(losses) == 1


def test_the_resumed_steps_of_a_game_lie_within_either_turn(corpus: Path) -> None:
    state = TrainState(GAME, GAME.build(tiny_experiment(corpus).encoder.build()), Adam())
    turns = []
    for state.step in (3, 4, 5, 7, 8):
        turns.append(state.playing.player.name)
    assert turns == ["encoder"] * 3 + ["noiser"] * 2


def test_a_warning_is_counted_through_restarts_and_given_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adversarial, "warnings", lambda self, means: ("all the same",))
    experiment = tiny_experiment(corpus, objective=replace(GAME, warn_after=10), tracking=Tracking(every=1))
    folder = tmp_path / "run"

    def warnings() -> list[str]:
        records = [record for record, _ in read_records(folder / "tracking" / "outbox-worker.jsonl", 0)]
        return [record["values"]["warning"] for record in records if record["kind"] == "tags" and "warning" in record["values"]]

    train_here(replace(experiment, budget=Budget(steps=8)), folder)
    assert warnings() == []
    train_here(replace(experiment, budget=Budget(steps=12)), folder, folder / "step_00000008")
    assert warnings() == ["all the same (for 10 steps, at step 10)"]
    train_here(replace(experiment, budget=Budget(steps=30)), folder, folder / "step_00000012")
    assert len(warnings()) == 1


def test_each_player_has_a_rate_and_a_gradient_norm_in_the_logs(corpus: Path, tmp_path: Path) -> None:
    game = replace(GAME, noiser_optimizer=replace(GAME.noiser_optimizer, learning_rate=0.02))
    train_here(tiny_experiment(corpus, objective=game, tracking=Tracking(every=1), budget=Budget(steps=6)), tmp_path / "run")
    points = [
        record["values"] for record, _ in read_records(tmp_path / "run" / "tracking" / "outbox-worker.jsonl", 0) if "values" in record
    ]
    points = [point for point in points if "train/loss" in point]
    assert [point["train_noiser/learning_rate"] for point in points] == [0.02] * 6
    assert all(point["train/learning_rate"] <= 1e-3 for point in points)  # the encoder's, whoever plays
    assert ["train/gradient_norm" in point for point in points] == [False] * 3 + [True] * 3
    assert ["train_noiser/gradient_norm" in point for point in points] == [True] * 3 + [False] * 3


def test_what_is_logged(corpus: Path, tmp_path: Path) -> None:
    train_here(tiny_experiment(corpus), tmp_path / "run")
    records = [record for record, _ in read_records(tmp_path / "run" / "tracking" / "outbox-worker.jsonl", 0)]
    points = [record for record in records if record["kind"] == "metrics"]
    names = {name for point in points for name in point["values"]}
    assert {"train/loss", "train/learning_rate", "train/epoch", "speed/tokens_per_second", "speed/padding_waste", "valid/loss"} <= names
    assert [point["step"] for point in points if "train/loss" in point["values"]] == [2, 4, 6, 8]


def test_a_run_whose_driver_lives_is_left_as_it_is(corpus: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ray_session", lambda **options: nullcontext())
    monkeypatch.setattr(driver, "alive_nodes", lambda: [Node("", "here", 2, 0)])
    monkeypatch.setattr(driver, "fit_on_workers", lambda *arguments: pytest.fail("it was started"))
    experiment, file = tiny_experiment(corpus), run_folder("tiny") / RUN_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"experiment": experiment.to_plain(), "data_checksum": Corpus.open(corpus).manifest.checksum}))
    before = file.read_text()
    with sole_delivery(file.parent), pytest.raises(InputError, match="another process drives this run now"):
        driver.pretrain(replace(experiment, budget=Budget(steps=20)), resume=True)
    assert file.read_text() == before


def test_a_run_that_an_older_raypro_judged_by_another_metric_goes_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, folder = tiny_experiment(corpus, budget=Budget(steps=4)), tmp_path / "run"
    state = train_here(experiment, folder)
    about = folder / "step_00000004" / "experiment.json"
    saved = json.loads(about.read_text())
    saved["metrics"] = {"valid/of_old": -1.0}
    about.write_text(json.dumps(saved))
    training = torch.load(about.with_name("training.pt"), weights_only=True)
    torch.save({**training, "best": -1.0, "stale": 3}, about.with_name("training.pt"))
    resumed = train_here(replace(experiment, budget=Budget(steps=8)), folder, about.parent)
    assert 0 < resumed.best < math.inf and resumed.stale == 0 and state.best > 0

    pairs = [(Checkpoint(str(folder / f"step_{step:08d}")), metrics) for step, metrics in ((4, saved["metrics"]), (8, {"valid/loss": 2.0}))]
    trainer = SimpleNamespace(fit=lambda: SimpleNamespace(best_checkpoints=pairs))
    monkeypatch.setattr("raypro.cluster.group.TorchTrainer", lambda *args, **kwargs: trainer)
    assert fit_on_workers(experiment, folder, 1.0).best == folder / "step_00000008"
