"""Contrastive predictive coding as it is used: what a compiled run compiles, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raypro import pretraining
from raypro.cluster.train import require_corpus
from raypro.config import InputError
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.loop import train_step
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.pmlm import PMLM
from raypro.experiment import Experiment
from raypro.pretraining import Pretraining, fixed_batches, said_of_validation, validation_batches
from raypro.settings import Batches, Validation
from tests.small import TINY, batch_of, random_sequences, tiny_experiment, write_corpus

SHAPE = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4))  # patches of 6
OBJECTIVE = CPC(patch_length=6, max_length=80)  # sequences from 36 residues
SEQUENCES = random_sequences(9, 20, 100, seed=3)


@pytest.mark.parametrize(("objective", "encoder", "compiles"), [(OBJECTIVE, SHAPE, "layer_norm"), (PMLM(), TINY, "scaled_dot_product")])
def test_the_encoder_of_a_compiled_run_is_compiled_and_gives_the_same_step(objective, encoder, compiles, monkeypatch):
    graphs, compile_ = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=backend, **options))
    stepped = []
    for compiled in (False, True):
        experiment = tiny_experiment("nowhere", objective=objective, encoder=encoder, compile=compiled)
        state = Pretraining(experiment, reader_of=None).state(torch.device("cpu"))
        train_step(state, [batch_of(*SEQUENCES)])
        stepped.append(dict(state.model.named_parameters()))
        assert bool(graphs) == compiled
    assert any(compiles in graph.code for graph in graphs)
    for name, weight in stepped[0].items():
        torch.testing.assert_close(stepped[1][name], weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps_ahead": 0}, "objective.steps_ahead: 0"),
        ({"judged_ahead": 0}, "objective.judged_ahead: 0 must be 1 or more, or None"),
        ({"t_min": -1}, "objective.t_min: -1"),
        ({"patch_length": 0}, "objective.patch_length: 0"),
        ({"max_length": 65}, "objective.max_length: cut to 65 residues .* need 66"),
    ],
)
def test_impossible_objectives_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        CPC(**change)


VALID = [*random_sequences(30, 20, 35, seed=1), *random_sequences(50, 36, 70, seed=2)]  # 50 of 36 residues or more
VALID = [VALID[i] for i in torch.randperm(80, generator=torch.Generator().manual_seed(0)).tolist()]


def contrast_on(folder: Path, valid: list[str] = VALID, **validation: int | None) -> Experiment:
    """A run whose corpus has these validation sequences, in row groups of 16."""
    write_corpus(folder, {"train": random_sequences(40, 40, 60), "valid": valid})
    batches = Batches(token_budget=600, max_length=60, window_row_groups=2)
    return tiny_experiment(folder, objective=OBJECTIVE, encoder=SHAPE, batches=batches, validation=Validation(every=5, **validation))


def test_validation_batches_are_of_exactly_the_size_in_the_order_of_the_corpus(tmp_path, monkeypatch):
    """Over windows of 32 rows, of a budget of 600 tokens, which a batch of 12 exceeds: 4 batches of the first 48 long enough."""
    experiment = contrast_on(tmp_path / "c", sequences=None, batch=12)
    batches = list(validation_batches(experiment))
    long_enough = [row for row, sequence in enumerate(VALID) if len(sequence) >= 36]
    assert [row for batch in batches for row in batch.rows.tolist()] == long_enough[:48]
    assert [len(batch.rows) for batch in batches] == [12] * 4
    for batch in batches:
        assert OBJECTIVE.prepare(batch).too_short == 0
        for row, tokens in zip(batch.rows.tolist(), batch.tokens, strict=True):
            alone = batch_of(VALID[row]).tokens[0, 1:-1]
            crops = alone.unfold(0, min(60, len(alone)), 1).tolist()
            assert tokens[1 : 1 + min(60, len(alone))].tolist() in crops
    assert said_of_validation(experiment) == "4 x 12 sequences of 36 residues or more, 48 of 80 in the split"
    shares = []
    for worker in (0, 1, 2):
        monkeypatch.setattr(pretraining, "rank", lambda worker=worker: worker)
        monkeypatch.setattr(pretraining, "world_size", lambda: 3)
        shares.append([batch.rows.tolist() for batch in validation_batches(experiment)])
    assert [len(share) for share in shares] == [2, 1, 1]
    assert sorted(sum(shares, [])) == sorted(batch.rows.tolist() for batch in batches)


def test_fewer_validation_sequences_than_a_batch_are_one_batch_and_that_is_said(tmp_path):
    experiment = contrast_on(tmp_path / "c", sequences=None, batch=64)
    assert [len(rows) for rows in fixed_batches(experiment)] == [50]
    assert said_of_validation(experiment).endswith("50 of 80 in the split; validation.batch asks for 64 in each, more than there are")
    few = replace(experiment, validation=Validation(sequences=20, batch=8))
    assert [len(rows) for rows in fixed_batches(few)] == [8, 8]
    of_any_length = replace(experiment, objective=PMLM(), encoder=TINY)
    assert [len(rows) for rows in fixed_batches(of_any_length)] == [64]


def test_runs_of_different_k_are_judged_by_what_is_common_to_them(tmp_path):
    """By the nearest patch, in sequences of 18 residues or more: all figures as of an objective that looks no farther."""
    near = replace(OBJECTIVE, steps_ahead=1)
    found = []
    for objective in (near, replace(OBJECTIVE, judged_ahead=1)):
        experiment = replace(contrast_on(tmp_path / str(len(found)), sequences=None, batch=16), objective=objective)
        job = Pretraining(experiment, lambda plan: None)
        state = job.state(torch.device("cpu"))
        assert said_of_validation(experiment).startswith("5 x 16 sequences of 18 residues or more")
        found.append(job.judge(state))
        assert state.objective == objective  # training looks as far as before
    assert found[0] == found[1] and "accuracy_cpc_k2" not in found[1]


def test_a_contrast_without_two_sequences_is_refused_before_a_run(tmp_path):
    one_of_many = contrast_on(tmp_path / "one", [*random_sequences(20, 10, 30, seed=1), "ACDEFGHIKL" * 5], batch=16)
    with pytest.raises(InputError, match="one: 1 of the validation sequences have 36 residues or more, of which a contrast takes two"):
        require_corpus(one_of_many)
    experiment = contrast_on(tmp_path / "c", batch=16)
    require_corpus(experiment)
    for change, message in [
        ({"validation": Validation(batch=1)}, "validation.batch: 1 sequence has no other to be told apart from; give 2 or more"),
        ({"batches": replace(experiment.batches, sequences=1)}, "batches.sequences: 1 sequence has no other"),
        ({"validation": Validation(sequences=1)}, "c: 1 of the validation sequences"),
        (
            {"batches": replace(experiment.batches, token_budget=123)},
            "batches.token_budget: 123 may hold one sequence alone",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            require_corpus(replace(experiment, **change))


def test_a_run_that_was_saved_with_what_is_refused_now_can_be_read():
    old = tiny_experiment("nowhere", objective=OBJECTIVE, encoder=SHAPE, validation=Validation(batch=1)).to_plain()
    del old["objective"]["judged_ahead"]
    assert Experiment.from_plain(old).validation.batch == 1


def test_encoders_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="encoder: Transformer has no patches"):
        OBJECTIVE.build(TINY.build())
    with pytest.raises(InputError, match="objective.patch_length: 11, but the encoder's kernels .* span 6"):
        CPC().build(SHAPE.build())
