"""Pre-train the pairwise masked language model of He et al. 2021. Without arguments: a small one, on the demonstration corpus."""

from dataclasses import replace

from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.pmlm import PMLM
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.presets import demo_corpus, fresh_name
from raypro.settings import Batches, Budget, Tracking, Validation, Workers


def demo() -> Experiment:
    """Minutes on two cores: co-evolution learned from single sequences of synthetic families."""
    return Experiment(
        name=fresh_name("pmlm-demo"),
        corpus=demo_corpus(),
        objective=PMLM(),
        encoder=TransformerShape(layers=2, width=64, heads=4, hidden=256, dropout=0.0),
        optimizer=Adam(learning_rate=2e-3, warmup_steps=300),
        batches=Batches(token_budget=16 * 34, max_length=32, window_row_groups=4),
        budget=Budget(steps=4000),
        validation=Validation(every=1000, sequences=1024),
        workers=Workers(count=2),
        tracking=Tracking(every=50),
    )


def small() -> Experiment:
    """A laptop, or two cores: families of short domains."""
    return replace(
        demo(),
        name=fresh_name("pmlm-small"),
        encoder=TransformerShape(layers=4, width=128, heads=4, hidden=512, dropout=0.0),
        optimizer=Adam(learning_rate=1e-3, warmup_steps=500),
        batches=Batches(token_budget=1024, max_length=256, window_row_groups=4),
        budget=Budget(steps=10_000, minutes=15),
        validation=Validation(every=500, sequences=2048),
    )


def base() -> Experiment:
    """The paper's base model, 87 M parameters; a GPU a worker."""
    return Experiment(
        name=fresh_name("pmlm-base"),
        corpus=demo_corpus(),
        objective=PMLM(),
        budget=Budget(steps=500_000),
        workers=Workers(count=8, cpus=4, gpus=1),
        precision="bf16",
    )


def large() -> Experiment:
    """The paper's large model: 34 layers of the base's shape, 243 M parameters."""
    return replace(
        base(),
        name=fresh_name("pmlm-large"),
        encoder=TransformerShape(layers=34),
        optimizer=Adam(learning_rate=1e-4),
        batches=Batches(max_length=1024),
    )


def xl() -> Experiment:
    """The paper's xl model, 713 M parameters."""
    return replace(large(), name=fresh_name("pmlm-xl"), encoder=TransformerShape(layers=36, width=1280, heads=20, hidden=5120))


PRESETS = {"demo": demo, "small": small, "base": base, "large": large, "xl": xl}

if __name__ == "__main__":
    pretrain_main(PRESETS)
