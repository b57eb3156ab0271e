"""Pre-train CPCProt (Lu et al. 2020) by contrastive predictive coding. Without arguments: a tiny one, on the demonstration corpus."""

from dataclasses import replace

from raypro.core.encoders.cpcprot import CPCPROT, GRU_LARGE, LSTM, CPCProtShape
from raypro.core.objectives.cpc import CPC
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.presets import demo_corpus, fresh_name
from raypro.settings import Batches, Budget, Tracking, Validation, Workers

ADAM = Adam(learning_rate=1e-4, beta2=0.999, warmup_steps=0, decay="constant", clip_norm=None)
"""The paper's, by which its models are trained but for their rate; the authors' configurations clip no gradient."""
LENGTH = 550
"""Residues that a sequence is cut to (section 3.2)."""


def demo() -> Experiment:
    """Minutes on two cores: patches of four residues, since the demonstration's proteins have 32."""
    return Experiment(
        name=fresh_name("cpcprot-demo"),
        corpus=demo_corpus(),
        objective=CPC(steps_ahead=2, t_min=1, max_length=32, patch_length=4),
        encoder=CPCProtShape(embedding=16, filters=(32, 64), kernels=(2, 3)),
        optimizer=replace(ADAM, learning_rate=1e-3),
        batches=Batches(token_budget=64 * 34, max_length=32, sequences=64),
        budget=Budget(steps=1500),
        validation=Validation(every=500, sequences=1024, batch=64),
        workers=Workers(count=2),
        tracking=Tracking(every=50),
    )


def cpcprot() -> Experiment:
    """CPCProt, 1.7 M parameters: batches of 64, 1e-4 throughout, 19 epochs at most."""
    return Experiment(
        name=fresh_name("cpcprot"),
        corpus=demo_corpus(),
        objective=CPC(),
        encoder=CPCPROT,
        optimizer=ADAM,
        batches=Batches(token_budget=64 * (LENGTH + 2), max_length=LENGTH, sequences=64),
        budget=Budget(epochs=19),
        validation=Validation(every=None, sequences=8192, batch=512, patience=5),
    )


def gru_large() -> Experiment:
    """CPCProt GRU large, 8.4 M parameters: batches of 1,024, 100 epochs at most (the authors' model_configs/gru_large.json)."""
    batches = Batches(token_budget=1024 * (LENGTH + 2), max_length=LENGTH, sequences=1024)
    return replace(cpcprot(), name=fresh_name("cpcprot-gru-large"), encoder=GRU_LARGE, batches=batches, budget=Budget(epochs=100))


def lstm() -> Experiment:
    """CPCProt LSTM, 71 M parameters: the rate falls to 0.85 of itself each epoch; 100 epochs at most (model_configs/lstm.json)."""
    rate = replace(ADAM, learning_rate=1e-3, decay="exponential", decay_factor=0.85)
    return replace(gru_large(), name=fresh_name("cpcprot-lstm"), encoder=LSTM, optimizer=rate)


PRESETS = {"demo": demo, "cpcprot": cpcprot, "gru_large": gru_large, "lstm": lstm}

if __name__ == "__main__":
    pretrain_main(PRESETS)
