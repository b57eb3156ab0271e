"""Fine-tuning in this process: steps, resuming, frozen encoders, where the encoder starts from."""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raypro.audit import audit, read_uses
from raypro.config import InputError, RunFailed
from raypro.core import checkpoint
from raypro.core.distributed import first_worker_first
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.loop import TrainState, train_step
from raypro.core.objectives.pmlm import PMLM
from raypro.data.labelled import LabelledData
from raypro.data.labelled_source import Embedded, LabelledSource
from raypro.experiment import FineTuning, experiment_of
from raypro.finetuning import FineTuned, Finetuning, initial_model, labelled_steps, resolved
from raypro.settings import Budget, Validation
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.training import train
from tests.small import TINY, hydrophobic_share, tiny_fine_tuning

MEAN = Regression(pooling="mean", hidden=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hydrophobic_share(tmp_path_factory.mktemp("labelled") / "data", {"train": 100, "valid": 40, "test": 40}).path


def run(experiment: FineTuning, folder: Path, resume: Path | None = None) -> TrainState:
    folder.mkdir(exist_ok=True)
    experiment = resolved(experiment, LabelledData.open(experiment.data))
    return train(Finetuning.load(experiment), folder, lambda metrics, path: None, resume)


def steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))


def test_it_learns_what_can_be_learned(data: Path, tmp_path: Path) -> None:
    encoder = ConvolutionShape(layers=1, width=32, dropout=0.0)
    state = run(tiny_fine_tuning(data, task=MEAN, encoder=encoder, budget=Budget(epochs=20)), tmp_path / "run")
    assert -state.best > 0.9


def test_each_epoch_ends_with_a_validation_and_uses_each_sequence_once(data: Path, tmp_path: Path) -> None:
    experiment = tiny_fine_tuning(data)
    state = run(experiment, tmp_path / "run")
    assert state.step == 3 * 7  # 100 sequences, 16 a step
    assert [int(path.name[5:]) for path in steps(tmp_path / "run")] == [7, 14, 21]
    epochs = audit(labelled_steps(experiment), read_uses(tmp_path / "run"))
    assert [(e.rows, e.whole, e.wrong) for e in epochs] == [(100, 7, [])] * 3


@pytest.mark.parametrize("stop", [5, 7, 10])
def test_resuming_anywhere_gives_the_weights_of_an_undisturbed_run(data: Path, tmp_path: Path, stop: int) -> None:
    dropping = replace(TINY, dropout=0.1)
    experiment = tiny_fine_tuning(data, encoder=dropping, validation=Validation(every=stop, sequences=None), budget=Budget(epochs=2))
    whole = run(experiment, tmp_path / "whole")
    broken = shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    resumed = run(experiment, broken, broken / f"step_{stop:08d}")
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert read_uses(broken) == read_uses(tmp_path / "whole")


def test_a_step_is_the_same_whatever_it_is_cut_into_and_however_many_workers_share_it(data: Path) -> None:
    examples = LabelledData.open(data).read("train")
    options = {"seed": 3, "size": 16, "epochs": 1}
    whole = list(LabelledSource(Embedded(examples), token_budget=10_000, **options))
    cut = list(LabelledSource(Embedded(examples), token_budget=64, **options))
    two = [list(LabelledSource(Embedded(examples), token_budget=64, rank=r, workers=2, **options)) for r in (0, 1)]
    for number, step in enumerate(whole):
        rows = sorted(step[0].rows.tolist())
        assert sorted(row for batch in cut[number] for row in batch.rows.tolist()) == rows
        assert sorted(row for worker in two for batch in worker[number] for row in batch.rows.tolist()) == rows
        assert all(batch.tokens.numel() <= 64 for batch in cut[number])
    gradients = []
    for batches in (whole[0], cut[0]):
        job = Finetuning(resolved(tiny_fine_tuning(data), LabelledData.open(data)), {"train": Embedded(examples)})
        state = job.state(torch.device("cpu"))
        train_step(state, batches)
        gradients.append(state.players[0].gradients.flat)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_sequence_longer_than_the_budget_goes_alone_and_whole(data: Path) -> None:
    examples = LabelledData.open(data).read("train")
    batches = Embedded(examples).batches(np.arange(len(examples)), token_budget=1)
    assert [len(rows) for rows, _ in batches] == [1] * len(examples)
    assert all(batch.tokens.shape[1] == examples.lengths[rows[0]] + 2 for rows, batch in batches)


def test_a_frozen_encoder_gives_the_predictions_that_it_gives_afresh_and_does_not_change(
    data: Path, tmp_path: Path, raypro_home: Path
) -> None:
    experiment = tiny_fine_tuning(data, task=MEAN, frozen=True)
    before = initial_model(resolved(experiment, LabelledData.open(data))).encoder.state_dict()
    state = run(experiment, tmp_path / "run")
    assert state.step == 21
    tuned = FineTuned.load(steps(tmp_path / "run")[-1])
    for name, weight in tuned.model.encoder.state_dict().items():
        assert torch.equal(weight, before[name])
    examples = LabelledData.open(data).read("valid")
    predicted = tuned.predict(Embedded(examples).batches(np.arange(len(examples)), 256))
    score = tuned.experiment.task.score([predicted[row] for row in range(len(examples))], examples.labels)
    assert score["spearman"] == pytest.approx(tuned.metrics["valid/spearman"], abs=1e-6)


def test_a_frozen_encoders_vectors_are_computed_once(data: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = resolved(tiny_fine_tuning(data, frozen=True), LabelledData.open(data))
    first = Finetuning.load(experiment)
    monkeypatch.setattr("raypro.embeddings._compute", lambda *_: pytest.fail("computed again"))
    second = Finetuning.load(experiment)
    assert np.array_equal(first.splits["train"].vectors, second.splits["train"].vectors)  # type: ignore[arg-type]


def test_what_a_killed_embedding_left_is_removed_and_what_another_writes_is_not(data: Path, raypro_home: Path) -> None:
    experiment = resolved(tiny_fine_tuning(data, frozen=True), LabelledData.open(data))
    Finetuning.load(experiment)
    (vectors,) = (raypro_home / "embeddings").glob("*/train.npy")
    vectors.unlink()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    left_by = [f"{here}.{ended.pid}", f"{here}.1", f"other.{ended.pid}", f"{here}.domain.{ended.pid}", f"{here}.{2**22 + 1}"]
    dead, *others = (vectors.with_name(f".train.npy.{writer}") for writer in left_by)
    for left in (dead, *others):
        left.touch()
        os.utime(left, (0, 0))
    others[-1].touch()  # no such process here, but written to just now: a container's of this machine's name
    Finetuning.load(experiment)
    assert vectors.is_file() and not dead.exists() and all(left.exists() for left in others)


def test_a_part_of_the_validation_sequences_is_a_draw_that_all_runs_share(data: Path) -> None:
    def rows(sequences: int | None, seed: int = 0) -> list[int]:
        experiment = tiny_fine_tuning(data, seed=seed, validation=Validation(sequences=sequences))
        return sorted(int(row) for taken, _ in Finetuning.load(experiment).held_out for row in taken)

    everything = list(range(len(LabelledData.open(data).read("valid"))))
    assert rows(None) == rows(len(everything)) == rows(4096) == everything
    some = rows(5)
    assert len(set(some)) == 5 and some != everything[:5] and some == rows(5, seed=7)


def _first_or_second(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    store.set(f"started {rank}", "")
    store.wait(["started 0", "started 1"])  # so that both meet within their short patience
    dist.init_process_group("gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=2, timeout=timedelta(seconds=3))
    with first_worker_first(), Path(folder, "log").open("a") as log:
        time.sleep(4.0 if rank == 0 else 0.0)
        log.write(f"{rank}\n")
    error = RunFailed if rank else OSError
    with pytest.raises(error, match="the first worker failed" if rank else "disk full"), first_worker_first():
        assert rank == 0, "the others begin nothing"
        raise OSError("disk full")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_first_worker_may_take_longer_than_the_others_patience_in_other_meetings(tmp_path: Path) -> None:
    mp.spawn(_first_or_second, (str(tmp_path),), nprocs=2)
    assert (tmp_path / "log").read_text().split() == ["0", "1"]


def test_one_hot_is_an_encoder_without_weights(data: Path, tmp_path: Path, raypro_home: Path) -> None:
    state = run(tiny_fine_tuning(data, task=MEAN, encoder=OneHotShape(), frozen=True, budget=Budget(epochs=20)), tmp_path / "run")
    assert -state.best > 0.9  # a share of residues is linear in their one-hot mean
    with pytest.raises(InputError, match="--frozen"):
        tiny_fine_tuning(data, encoder=OneHotShape())


def pretrained(folder: Path, shape: object = TINY) -> Path:
    torch.manual_seed(5)
    model = PMLM().build(TINY.build())
    checkpoint.save(folder / "step_00000001", model, {"encoder": {"kind": "TransformerShape"}}, 1, {})
    return folder / "step_00000001"


def test_fine_tuning_starts_from_the_checkpoints_encoder_and_pair_layer(tmp_path: Path) -> None:
    start = pretrained(tmp_path)
    weights = checkpoint.load(start).weights
    model = initial_model(FineTuning("x", "data", Contacts(pair_layer=True), TINY, start=str(start)))
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(weight, weights[f"encoder.{name}"])
    assert torch.equal(model.head.pair_layer.weight, weights["pair_head.first.weight"])


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the experiment's"):
        initial_model(FineTuning("x", "data", Contacts(), replace(TINY, width=32), start=str(pretrained(tmp_path))))


def test_labels_of_another_kind_are_refused(data: Path) -> None:
    with pytest.raises(InputError, match="Contacts learns contacts labels"):
        resolved(tiny_fine_tuning(data, task=Contacts()), LabelledData.open(data))


def test_an_experiment_survives_being_saved(data: Path) -> None:
    experiment = resolved(tiny_fine_tuning(data), LabelledData.open(data))
    assert experiment_of(experiment.to_plain()) == experiment
    assert experiment.task.center == pytest.approx(0.4, abs=0.05)


def test_a_pretraining_checkpoint_does_not_predict(tmp_path: Path) -> None:
    path = pretrained(tmp_path)
    with pytest.raises(InputError):
        FineTuned.load(path)
