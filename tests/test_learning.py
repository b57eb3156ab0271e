"""Every encoder learns: on families drawn from planted Potts models it beats residue frequencies, on sequences held out."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import entr

from raypro.core.alphabet import STANDARD
from raypro.core.batch import Batch
from raypro.core.encoders.amplify import AmplifyShape
from raypro.core.encoders.convolution import ConvolutionShape
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.lstm import LSTMShape
from raypro.core.encoders.mlstm import MultiplicativeLSTMShape
from raypro.core.encoders.resnet import ResNetShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.loop import TrainState, train_step
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.objectives.next_token import NextToken
from raypro.core.optimizer import Adam
from raypro.data.synthetic import Family, planted_contacts, residue_couplings, sample_potts
from raypro.experiment import Encoder, Objective
from tests.small import batch_of

LENGTH = 16
SMALL = {"layers": 2, "width": 32, "heads": 4, "hidden": 64}
BOTH_WAYS = LSTMShape(layers=2, units=24, embedding=12)
LEARNERS: dict[str, tuple[Objective, Encoder | str]] = {
    "transformer": (MLM(), TransformerShape(**SMALL)),
    "transformer, rotary": (MLM(), TransformerShape(**SMALL, positions="rotary")),
    "transformer, post-norm, learned positions": (MLM(), TransformerShape(**SMALL, positions="learned", longest=LENGTH, norm="post")),
    "amplify": (MLM(), AmplifyShape(**SMALL)),
    "esm2 of Hugging Face": (MLM(), "esm2"),
    "convolution": (MLM(), ConvolutionShape(layers=2, width=32, kernel=5)),
    "resnet": (MLM(), ResNetShape(layers=3, width=32)),
    "lstm, masked": (MLM(), BOTH_WAYS),
    "multiplicative, masked": (MLM(), MultiplicativeLSTMShape(units=32, embedding=8)),
    "lstm": (NextToken(), BOTH_WAYS),
    "lstm, together": (NextToken(directions="together"), BOTH_WAYS),
    "lstm, tied": (NextToken(), LSTMShape(layers=2, units=24, embedding=12, tied=True)),
    "multiplicative": (NextToken(), MultiplicativeLSTMShape(units=32, embedding=8)),
    "cpcprot": (CPC(patch_length=4, steps_ahead=2), CPCProtShape(embedding=8, filters=(32,), kernels=(4,))),
}


@cache
def families() -> tuple[Batch, Batch, float]:
    """Return sequences to train on, others of the same eight families, and the entropy of a residue by all their frequencies, in nats.

    Each family prefers residues of its own at all of its sites, and its contacts couple them: so the context tells much in few steps.
    """
    rng = np.random.default_rng(0)
    couplings, preferences = residue_couplings(1.0, rng), rng.normal(0.0, 6.0, (8, 1, 20)).astype(np.float32)
    members = [Family(str(k), planted_contacts(LENGTH, rng), np.tile(fields, (LENGTH, 1))) for k, fields in enumerate(preferences)]
    drawn = np.stack([sample_potts(member, couplings, 9, rng, sweeps=5) for member in members])  # [family, sequence, site]
    shares = np.bincount(drawn.ravel(), minlength=20) / drawn.size
    parts = [["".join(STANDARD[c] for c in row) for row in part.reshape(-1, LENGTH)] for part in np.split(drawn, [6], axis=1)]
    return batch_of(*parts[0]), batch_of(*parts[1]), float(entr(shares).sum())


@pytest.mark.parametrize("name", LEARNERS)
def test_each_encoder_beats_the_residue_frequencies_on_sequences_held_out(name: str, tmp_path: Path) -> None:
    objective, encoder = LEARNERS[name]
    if isinstance(encoder, str):
        pytest.importorskip("transformers")
        from raypro.hugging_face import read_hugging_face
        from tests.hugging_face_models import save

        encoder = read_hugging_face(save(tmp_path / encoder, encoder))[0]
    train, held_out, frequencies = families()
    torch.manual_seed(0)
    state = TrainState(objective, objective.build(encoder.build()), Adam(learning_rate=1e-2, warmup_steps=5), seed=1)
    for step in range(30):
        train_step(state, [Batch(train.tokens, train.keys + 7919 * step, train.rows)])
    prepared = objective.prepare(held_out)
    with torch.inference_mode():
        total = objective.sums(state.model.eval(), prepared)[0].item()
    loss = total / next(iter(prepared.counts.values()))
    # A patch ahead is told from those of all sequences.
    assert loss < (math.log(len(held_out.tokens)) - 0.3 if isinstance(objective, CPC) else 0.7 * frequencies)
