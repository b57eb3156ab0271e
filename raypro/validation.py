"""What a checkpoint has learned, on held-out data and against chance: Table 2, Figure 3 and the label-free contact map."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.alphabet import CLS, SEP, STANDARD, encode
from raypro.core.distributed import best_device
from raypro.core.loop import TrainState, evaluate
from raypro.core.masking import Masked
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MaskedLanguageModel
from raypro.core.objectives.next_token import NextToken
from raypro.data.corpus import Corpus
from raypro.data.synthetic import read_contacts
from raypro.evaluate import plots
from raypro.evaluate.alignment import Alignment, ColumnContacts, average_over_columns
from raypro.evaluate.contacts import average_metrics, contact_precision
from raypro.evaluate.pairs import KL_EDGES, evaluate_pairs, implied_contacts
from raypro.experiment import Experiment
from raypro.pretraining import validation_batches


@dataclass(frozen=True)
class Model:
    """A trained model with the experiment that made it."""

    module: MaskedLanguageModel
    experiment: Experiment
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Findings:
    """Metrics by name, and the pictures that show them."""

    metrics: dict[str, float]
    pictures: tuple[Path, ...]


def load_model(path: str | Path) -> Model:
    """Load a checkpoint's model, in evaluation mode, on the GPU where there is one, else on the CPU.

    Raises:
        InputError: there is no usable checkpoint, or only an encoder in it.
    """
    loaded = checkpoint.load(path)
    experiment = Experiment.from_plain(loaded.experiment)
    if all(name.startswith("encoder.") for name in loaded.weights) and not isinstance(experiment.objective, CPC):
        raise InputError(f"{path}: an encoder alone, without a head to validate; embed, evaluate and finetune take it")
    module = experiment.objective.build(experiment.encoder.build())
    checkpoint.load_weights(module, loaded)
    return Model(module.eval().to(best_device()), experiment, loaded.step, loaded.metrics)


def unigram_floor(corpus: Corpus) -> float:
    """Return the cross entropy, nats per standard residue, of the validation split under the training split's residue frequencies.

    It is what a model reaches that knows how frequent each amino acid is, and nothing of the context.
    """
    counts = json.loads(corpus.manifest.residue_counts)
    train, valid = (np.array([counts[split].get(letter, 0) for letter in STANDARD], dtype=float) for split in ("train", "valid"))
    return float(-(valid / valid.sum()) @ np.log((train + 1) / (train + 1).sum()))


def validate_model(model: Model, corpus: Corpus, out: Path, sequences: int = 32, progress: bool = True) -> Findings:
    """Measure a model on a corpus and draw what it found.

    Args:
        model: any with a token head, a pair head or both.
        corpus: its validation split gives Table 2 and Figure 3; where families have known contacts, contact maps are scored.
        out: folder of the pictures.
        sequences: sequences of each family that its contact map is averaged over; 0: no maps.
        progress: show a progress bar.

    Returns:
        ``table2/...`` (see :meth:`raypro.evaluate.pairs.PairSums.report`), ``chance/perplexity``, and, where contacts are known,
        means over families: ``contacts/P_at_...`` of those trained on, ``contacts_unseen/P_at_...`` of those of the test split.
        Of a contrastive model ``contrast/...``: its objective's quantities. Of next-token modelling ``next_token/perplexity``,
        ``next_token/accuracy`` and ``chance/perplexity``.

    Raises:
        InputError: the corpus has no validation split, or the number of sequences is negative.
    """
    experiment = replace(model.experiment, corpus=str(corpus.path))
    if sequences < 0:
        raise InputError(f"sequences: {sequences} of each family must be 1 or more, or 0 for no contact maps")
    if not corpus.rows("valid"):
        raise InputError(f"{corpus.path}: no sequence in its valid split, which is what is measured; build the corpus with one")
    out.mkdir(parents=True, exist_ok=True)
    if not (model.module.has_token_head or model.module.has_pair_head):
        state = TrainState(experiment.objective, model.module, experiment.optimizer, device=next(model.module.parameters()).device)
        means = evaluate(state, validation_batches(experiment))
        if isinstance(experiment.objective, NextToken):
            perplexities = {"next_token/perplexity": np.exp(means["loss_next"]), "chance/perplexity": np.exp(unigram_floor(corpus))}
            return Findings({"next_token/accuracy": means["accuracy_next"], **{name: float(p) for name, p in perplexities.items()}}, ())
        return Findings({f"contrast/{name}": value for name, value in means.items()}, ())
    report = evaluate_pairs(model.module, _masked(experiment))
    metrics = {**report.metrics, "chance/perplexity": float(np.exp(unigram_floor(corpus)))}
    pictures = []
    if report.kl_counts is not None:
        figure = plots.divergence_histogram(report.kl_counts, KL_EDGES, report.metrics["table2/KL_mean"])
        pictures.append(plots.save(figure, out / "figure3_divergence.png"))
    if model.module.has_pair_head and corpus.manifest.contacts and sequences:
        truth = read_contacts(corpus)
        for split, group in (("valid", "contacts"), ("test", "contacts_unseen")):
            scored = []
            for family, members in sorted(_members(corpus, split, sequences).items()):
                scores = average_maps(model, members, progress=progress)
                scored.append(contact_precision(scores, truth[family]))
                name = f"{family} (held out)" if split == "test" else family
                pictures.append(plots.save(plots.contact_map(scores, truth[family], name, scored[-1]), out / f"contacts_{family}.png"))
            metrics |= {name.replace("contacts", group): value for name, value in average_metrics(scored).items()}
    return Findings(metrics, tuple(pictures))


def validate_alignment(
    model: Model,
    alignment: Alignment,
    contacts: ColumnContacts,
    name: str,
    out: Path,
    sequences: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Findings:
    """Score the label-free contact map of an aligned family and draw it; see :func:`alignment_map`.

    Raises:
        InputError: the model has no pair head.
    """
    if sequences < 1:
        raise InputError(f"sequences: {sequences} of the family must be 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    scores = alignment_map(model, alignment, sequences, seed, progress)
    metrics = contact_precision(scores, contacts.contacts, scored=contacts.scored)
    picture = plots.save(plots.contact_map(scores, contacts.contacts, name, metrics), out / f"contacts_{name}.png")
    return Findings(metrics, (picture,))


def alignment_map(model: Model, alignment: Alignment, sequences: int = 32, seed: int = 0, progress: bool = True) -> NDArray[np.float64]:
    """Return the contact map [C, C] that the pair head implies, averaged over sequences drawn at random without replacement.

    Raises:
        InputError: the model has no pair head.
    """
    drawn = np.random.default_rng(seed).permutation(len(alignment.ids))[:sequences]
    members = [alignment.sequence(row) for row in drawn]
    return average_maps(model, members, [alignment.columns(row) for row in drawn], alignment.width, progress)


def average_maps(
    model: Model,
    members: Sequence[str],
    columns: Sequence[NDArray[np.int64]] | None = None,
    width: int | None = None,
    progress: bool = True,
) -> NDArray[np.float64]:
    """Return the contact map [C, C] that the pair head implies, averaged over a family's sequences.

    Without ``columns`` the sequences are taken as aligned as they are: residue i of each is column i.
    """
    if not model.module.has_pair_head:
        raise InputError("the model has no pair head, so it implies no contact map; train one with jobs/pretrain_pmlm.py")
    tokens = [torch.from_numpy(np.concatenate([[CLS], encode(member), [SEP]])) for member in members]
    maps = implied_contacts(model.module, tokens, progress=progress)
    columns = columns if columns is not None else [np.arange(len(member)) for member in members]
    return average_over_columns(maps, columns, width or max(map(len, members)))


def _masked(experiment: Experiment) -> Iterator[Masked]:
    objective = experiment.objective
    if isinstance(objective, Adversarial):
        objective = objective.random_masking()
    for batch in validation_batches(experiment):
        yield objective.prepare(batch).masked


def _members(corpus: Corpus, split: str, most: int) -> dict[str, list[str]]:
    """Return up to ``most`` sequences of each family of a split: the first ones, since rows are shuffled."""
    members: dict[str, list[str]] = {}
    for group in corpus.row_groups(split):
        table = corpus.read([group], ["family", "sequence"])
        for family, sequence in zip(table["family"].to_pylist(), table["sequence"].to_pylist(), strict=True):
            if family is not None and len(members.setdefault(family, [])) < most:
                members[family].append(sequence)
    return members
