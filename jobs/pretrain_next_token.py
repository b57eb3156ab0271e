"""Pre-train a recurrent network to predict the next residue. Without arguments: a small one, on the demonstration corpus.

Presets are UniRep (Alley et al. 2019), TAPE's LSTM (Rao et al. 2019) and the language model of Bepler and Berger 2019.
"""

from dataclasses import replace

from raypro.core.encoders.lstm import BEPLER, TAPE_LSTM, LSTMShape
from raypro.core.encoders.mlstm import UNIREP
from raypro.core.objectives.next_token import NextToken
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.presets import demo_corpus, fresh_name
from raypro.settings import Batches, Budget, Tracking, Validation, Workers


def demo() -> Experiment:
    """Minutes on two cores: an LSTM that reads the synthetic families from both ends."""
    return Experiment(
        name=fresh_name("next-token-demo"),
        corpus=demo_corpus(),
        objective=NextToken(),
        encoder=LSTMShape(layers=2, units=64, embedding=32, dropout=0.0),
        optimizer=Adam(learning_rate=3e-3, warmup_steps=100),
        batches=Batches(token_budget=32 * 34, max_length=32),
        budget=Budget(steps=2000),
        validation=Validation(every=500, sequences=1024),
        workers=Workers(count=2),
        tracking=Tracking(every=50),
    )


def small() -> Experiment:
    """A laptop, or two cores: natural proteins, cropped to 256 residues."""
    return replace(
        demo(),
        name=fresh_name("next-token-small"),
        encoder=LSTMShape(layers=2, units=256, embedding=64),
        optimizer=Adam(learning_rate=1e-3, warmup_steps=500),
        batches=Batches(token_budget=16 * 258, max_length=256),
        budget=Budget(steps=10_000, minutes=30),
        validation=Validation(every=1000, sequences=2048),
    )


def tape_lstm() -> Experiment:
    """TAPE's LSTM, 43 M parameters, its two directions predicting together as in its public code; rate and steps are ours."""
    return Experiment(
        name=fresh_name("tape-lstm"),
        corpus=demo_corpus(),
        objective=NextToken(directions="together"),
        encoder=TAPE_LSTM,
        optimizer=Adam(learning_rate=1e-4, beta2=0.999, weight_decay=0.01, warmup_steps=10_000),
        batches=Batches(token_budget=64 * 514),
        budget=Budget(steps=500_000),
        workers=Workers(count=4, cpus=4, gpus=1),
        precision="bf16",
    )


def unirep() -> Experiment:
    """UniRep, 18 M parameters: batches of 256, over four workers; rate and steps are ours."""
    return replace(
        tape_lstm(),
        name=fresh_name("unirep"),
        objective=NextToken(),
        encoder=UNIREP,
        batches=Batches(token_budget=64 * 514, sequences=64),
    )


def bepler() -> Experiment:
    """The language model of Bepler and Berger, 13 M parameters: batches of 32, 1e-3 throughout, ten epochs, as in their public code."""
    return replace(
        tape_lstm(),
        name=fresh_name("bepler"),
        encoder=BEPLER,
        optimizer=Adam(learning_rate=1e-3, beta2=0.999, warmup_steps=0, decay="constant"),
        batches=Batches(token_budget=32 * 514, sequences=32),
        budget=Budget(epochs=10),
        workers=Workers(count=1, cpus=4, gpus=1),
    )


PRESETS = {"demo": demo, "small": small, "tape_lstm": tape_lstm, "unirep": unirep, "bepler": bepler}

if __name__ == "__main__":
    pretrain_main(PRESETS)
