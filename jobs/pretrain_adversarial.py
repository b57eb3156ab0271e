"""Pre-train against a noiser that learns what to mask (McDermott et al. 2020). Without arguments: a tiny one, on the demonstration corpus.

Steps are those of both players: half of them are the encoder's. The noiser is a GRU, as in the paper, or, in the presets whose names
end in ``transformer``, attends.
"""

from dataclasses import replace

from raypro.core.encoders.transformer import TransformerShape
from raypro.core.noiser import GRUNoiserShape, TransformerNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.presets import demo_corpus, fresh_name
from raypro.settings import Batches, Budget, Tracking, Validation, Workers

ADAMW = Adam(learning_rate=1e-4, beta2=0.999, weight_decay=0.01, warmup_steps=0, decay="constant")
"""The paper's, for either player."""
STEPS = 200_000
"""Of the paper's recipe, which does not say how many."""


def demo() -> Experiment:
    """Minutes on two cores."""
    return Experiment(
        name=fresh_name("adversarial-demo"),
        corpus=demo_corpus(),
        objective=Adversarial(noiser=GRUNoiserShape(64, 64, 1), noiser_optimizer=replace(ADAMW, learning_rate=1e-3)),
        encoder=TransformerShape(layers=2, width=64, heads=4, hidden=256, dropout=0.0),
        optimizer=Adam(learning_rate=2e-3, warmup_steps=300, weight_decay=0.01),
        batches=Batches(token_budget=32 * 34, max_length=32, sequences=32),
        budget=Budget(steps=4000),
        validation=Validation(every=1000, sequences=1024),
        workers=Workers(count=2),
        tracking=Tracking(every=50),
    )


def small() -> Experiment:
    """A laptop, or two cores: natural proteins, cropped to 256 residues."""
    return replace(
        demo(),
        name=fresh_name("adversarial-small"),
        objective=Adversarial(noiser=GRUNoiserShape(128, 128, 1), noiser_optimizer=replace(ADAMW, learning_rate=1e-3)),
        encoder=TransformerShape(layers=4, width=128, heads=4, hidden=512, dropout=0.0),
        optimizer=Adam(learning_rate=1e-3, warmup_steps=500, weight_decay=0.01),
        batches=Batches(token_budget=16 * 258, max_length=256, sequences=32),
        budget=Budget(steps=6000, minutes=30),
        validation=Validation(every=1000, sequences=1024),
    )


def small_transformer() -> Experiment:
    """The same with a noiser that attends, of about as many parameters."""
    noiser = TransformerNoiserShape(layers=1, width=128, heads=4, hidden=128)
    return replace(small(), name=fresh_name("adversarial-small-transformer"), objective=replace(small().objective, noiser=noiser))


def paper() -> Experiment:
    """The paper's: TAPE's Transformer, 38 M parameters; batches of 128, and of 256 for the last fifth of the steps.

    Those are one worker's: for the same batch on N workers, divide ``batches.sequences`` and ``batches.token-budget`` by N.
    """
    return Experiment(
        name=fresh_name("adversarial-paper"),
        corpus=demo_corpus(),
        objective=Adversarial(),
        encoder=TransformerShape(layers=12, width=512, heads=8, hidden=2048, activation_checkpointing=True),
        optimizer=ADAMW,
        batches=Batches(token_budget=128 * 514, sequences=128, accumulation_changes=((0.8, 2),)),
        budget=Budget(steps=STEPS),
        workers=Workers(count=1, cpus=4, gpus=1),
        precision="bf16",
    )


def paper_transformer() -> Experiment:
    """The same with a noiser that attends, which its authors believed to be stronger and found unstable."""
    return replace(paper(), name=fresh_name("adversarial-paper-transformer"), objective=Adversarial(noiser=TransformerNoiserShape()))


def paper_random() -> Experiment:
    """Its baseline: as many residues masked at random, as many steps of the same encoder."""
    return replace(
        paper(),
        name=fresh_name("adversarial-paper-random"),
        objective=Adversarial().random_masking(),
        budget=Budget(steps=STEPS // 2),
    )


PRESETS = {
    "demo": demo,
    "small": small,
    "small_transformer": small_transformer,
    "paper": paper,
    "paper_transformer": paper_transformer,
    "paper_random": paper_random,
}

if __name__ == "__main__":
    pretrain_main(PRESETS)
