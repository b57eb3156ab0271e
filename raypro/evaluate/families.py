"""The contacts that a pair head implies for whole families, scored against the truth: the mean map over some of their sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raypro.core.alphabet import CLS, SEP, encode
from raypro.data.corpus import Corpus
from raypro.data.synthetic import read_contacts
from raypro.evaluate.alignment import Alignment, ColumnContacts, average_over_columns
from raypro.evaluate.contacts import contact_precision
from raypro.evaluate.pairs import PairModel, implied_contacts


@dataclass(frozen=True)
class FamilySample:
    """Sequences of one family with known contacts. C columns: the alignment's, or the residues where sequences have no gaps."""

    name: str
    sequences: tuple[str, ...]
    """Residues [L] of each sequence, without gaps."""
    columns: tuple[NDArray[np.int64], ...]
    """Column [L] of each residue of each sequence, 0-based."""
    truth: ColumnContacts


@dataclass(frozen=True)
class FamilyMap:
    """The implied contact map of one family, and how good it is."""

    name: str
    scores: NDArray[np.float64]
    """[C, C] mean over sequences; NaN for pairs of columns that no sequence has."""
    contacts: NDArray[np.bool_]
    """[C, C] true contacts."""
    metrics: dict[str, float]
    """Of :func:`raypro.evaluate.contacts.contact_precision`."""


def corpus_families(corpus: Corpus, split: str, sequences: int) -> list[FamilySample]:
    """Return the first ``sequences`` sequences in a split of each family whose contacts the corpus knows, families by name."""
    truth = read_contacts(corpus)
    chosen: dict[str, list[str]] = {}
    for group in corpus.row_groups(split) if truth else ():
        table = corpus.read([group], ["family", "sequence"])
        for family, sequence in zip(table["family"].to_pylist(), table["sequence"].to_pylist(), strict=True):
            members = chosen.setdefault(family, [])
            if family in truth and len(sequence) == len(truth[family]) and len(members) < sequences:
                members.append(sequence)
    samples = []
    for name in sorted(name for name, members in chosen.items() if members):
        contacts, members = truth[name], tuple(chosen[name])
        everything = ColumnContacts(contacts, np.ones_like(contacts))
        samples.append(FamilySample(name, members, (np.arange(len(contacts)),) * len(members), everything))
    return samples


def aligned_family(name: str, alignment: Alignment, truth: ColumnContacts, sequences: int, seed: int = 0) -> FamilySample:
    """Return ``sequences`` random rows of an alignment (all, where it has fewer) without their gaps; the same for the same seed."""
    count = min(sequences, len(alignment.rows))
    rows = np.sort(np.random.default_rng(seed).choice(len(alignment.rows), count, replace=False)).tolist()
    return FamilySample(name, tuple(alignment.sequence(r) for r in rows), tuple(alignment.columns(r) for r in rows), truth)


def map_families(
    model: PairModel, families: Sequence[FamilySample], *, batch_tokens: int = 16_384, progress: bool = True
) -> list[FamilyMap]:
    """Return the implied contact map of each family, the mean over its sequences, scored.

    Args:
        model: has a pair head.
        families: what to map; the cost is the sum over sequences of L (L - 1) / 2 encoder passes.
        batch_tokens: tokens of one encoder pass.
        progress: show a progress bar.
    """
    tokens = [torch.tensor([CLS, *encode(sequence).tolist(), SEP]) for family in families for sequence in family.sequences]
    maps = iter(implied_contacts(model, tokens, batch_tokens=batch_tokens, progress=progress))
    results = []
    for family in families:
        own = [next(maps) for _ in family.sequences]
        scores = average_over_columns(own, family.columns, len(family.truth.contacts))
        metrics = contact_precision(scores, family.truth.contacts, scored=family.truth.scored)
        results.append(FamilyMap(family.name, scores, family.truth.contacts, metrics))
    return results
