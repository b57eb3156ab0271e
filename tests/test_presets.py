"""Where fine-tuning begins: every encoder that a published model has is there without pre-training, in the same shape."""

import importlib
from pathlib import Path

import pytest
import torch

from raypro.arguments import parse
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.objectives.mlm import MLM
from raypro.experiment import FineTuning
from raypro.finetuning import initial_model
from raypro.presets import SCRATCH, fine_tuning
from raypro.tasks.tape import TASKS
from tests.small import TINY, tiny_experiment

JOBS = Path(__file__).resolve().parent.parent / "jobs"
PUBLISHED = {
    "pretrain_mlm": ("tape_transformer", "tape_resnet"),
    "pretrain_next_token": ("tape_lstm", "unirep", "bepler"),
    "pretrain_cpcprot": ("cpcprot",),
}


@pytest.mark.parametrize("job", PUBLISHED)
def test_an_encoder_without_pre_training_has_the_shape_of_the_preset_that_it_is_judged_beside(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(JOBS))
    presets = importlib.import_module(job).PRESETS
    for name in PUBLISHED[job]:
        assert fine_tuning("stability", name, "data").encoder == presets[name]().encoder


def test_contrastive_presets_train_as_their_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Adam without clipping; the LSTM's rate falls each epoch; the authors' budgets."""
    monkeypatch.syspath_prepend(str(JOBS))
    presets = {name: preset() for name, preset in importlib.import_module("pretrain_cpcprot").PRESETS.items()}
    assert {experiment.optimizer.clip_norm for experiment in presets.values()} == {None}
    assert [presets[name].budget.epochs for name in ("cpcprot", "gru_large", "lstm")] == [19, 100, 100]
    rates = [[presets[name].optimizer.rate_at(10**6, None, epochs) for epochs in (0, 1, 2)] for name in ("cpcprot", "gru_large", "lstm")]
    assert rates[0] == rates[1] == [1e-4] * 3 and rates[2] == pytest.approx([1e-3, 0.85e-3, 0.7225e-3])


@pytest.mark.parametrize("encoder", SCRATCH)
def test_every_task_can_be_learned_from_random_weights(encoder: str) -> None:
    for task in TASKS:
        experiment = fine_tuning(task, encoder, "data")
        assert experiment.start is None and experiment.frozen == isinstance(experiment.encoder, OneHotShape)
        assert FineTuning.to_plain(experiment)["encoder"] and encoder in experiment.name
    with torch.device("meta"):
        assert experiment.encoder.build().width > 0


def test_a_checkpoint_without_its_start_is_its_shape_with_random_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MLM().build(TINY.build())
    checkpoint.save(tmp_path / "step", model, tiny_experiment(tmp_path).to_plain(), step=0, metrics={})
    pretrained = fine_tuning("stability", str(tmp_path / "step"), "data")
    scratch = parse(FineTuning, ["--start", "None"], default=pretrained)
    assert scratch.encoder == pretrained.encoder == TINY and scratch.start is None
    for name, same in (("pretrained", True), ("scratch", False)):
        built = initial_model({"pretrained": pretrained, "scratch": scratch}[name])
        assert torch.equal(built.encoder.embedding.weight, model.encoder.embedding.weight) == same


def test_a_name_that_is_both_random_weights_and_a_checkpoint_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "convolution").mkdir()  # of something else
    assert fine_tuning("stability", "convolution", "data").start is None
    checkpoint.save(tmp_path / "cpcprot", MLM().build(TINY.build()), tiny_experiment(tmp_path).to_plain(), step=0, metrics={})
    with pytest.raises(InputError, match=r"^--encoder cpcprot: both random weights and a .* here; write \./cpcprot for the folder$"):
        fine_tuning("stability", "cpcprot", "data")
    assert fine_tuning("stability", "./cpcprot", "data").start == str(tmp_path / "cpcprot")


def test_what_is_neither_names_what_there_is() -> None:
    with pytest.raises(InputError, match=r"^--encoder tape_resnett: neither .* convolution, .*tape_resnet, .*cpcprot"):
        fine_tuning("stability", "tape_resnett", "data")
