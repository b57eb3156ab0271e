"""Pre-train a masked language model: the baseline of He et al. 2021, on the models and with the budgets of its pairwise sibling.

The presets ``tape_...`` are the models that TAPE trained so (Rao et al. 2019), ``small_resnet`` is one for a laptop.
"""

from dataclasses import replace

from pretrain_pmlm import PRESETS as PAIRWISE

from raypro.core.encoders.resnet import TAPE_RESNET, ResNetShape
from raypro.core.encoders.transformer import TAPE_TRANSFORMER
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.presets import demo_corpus, fresh_name
from raypro.settings import Batches, Budget, Workers


def experiment(preset: str) -> Experiment:
    """Return the preset of the pairwise model with the plain objective."""
    pairwise = PAIRWISE[preset]()
    return replace(pairwise, name=pairwise.name.replace("pmlm", "mlm"), objective=MLM())


def small_resnet() -> Experiment:
    """A residual convolutional network on a laptop, or on two cores."""
    return replace(experiment("small"), name=fresh_name("mlm-small-resnet"), encoder=ResNetShape(layers=4, width=128, dropout=0.0))


def tape_transformer() -> Experiment:
    """The Transformer of TAPE's paper, 38 M parameters; rate, batches and steps are ours. Its later package has another, of 91 M."""
    return Experiment(
        name=fresh_name("tape-transformer"),
        corpus=demo_corpus(),
        objective=MLM(),
        encoder=TAPE_TRANSFORMER,
        optimizer=Adam(learning_rate=1e-4, beta2=0.999, weight_decay=0.01, warmup_steps=10_000),
        batches=Batches(token_budget=64 * 514),
        budget=Budget(steps=500_000),
        workers=Workers(count=4, cpus=4, gpus=1),
        precision="bf16",
    )


def tape_resnet() -> Experiment:
    """TAPE's ResNet, 47 M parameters."""
    return replace(tape_transformer(), name=fresh_name("tape-resnet"), encoder=TAPE_RESNET)


PRESETS = {name: (lambda name=name: experiment(name)) for name in PAIRWISE}
PRESETS |= {"small_resnet": small_resnet, "tape_transformer": tape_transformer, "tape_resnet": tape_resnet}

if __name__ == "__main__":
    pretrain_main(PRESETS)
