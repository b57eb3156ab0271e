"""Contrastive predictive coding as it is used: what a compiled run compiles, and what is refused."""

import pytest
import torch

from raypro.config import InputError
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.loop import train_step
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.pmlm import PMLM
from raypro.pretraining import Pretraining
from tests.small import TINY, batch_of, random_sequences, tiny_experiment

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
        ({"t_min": -1}, "objective.t_min: -1"),
        ({"patch_length": 0}, "objective.patch_length: 0"),
        ({"max_length": 65}, "objective.max_length: cut to 65 residues .* need 66"),
    ],
)
def test_impossible_objectives_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        CPC(**change)


def test_encoders_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="encoder: Transformer has no patches"):
        OBJECTIVE.build(TINY.build())
    with pytest.raises(InputError, match="objective.patch_length: 11, but the encoder's kernels .* span 6"):
        CPC().build(SHAPE.build())
