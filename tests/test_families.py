"""Families mapped as a whole: which sequences, at which columns, against which truth."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raypro.core.alphabet import CLS, SEP, encode
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.pmlm import PMLM
from raypro.data.corpus import Corpus
from raypro.data.synthetic import build_synthetic, read_contacts
from raypro.evaluate.alignment import Alignment, ColumnContacts, average_over_columns
from raypro.evaluate.contacts import contact_precision
from raypro.evaluate.families import aligned_family, corpus_families, map_families
from raypro.evaluate.pairs import implied_contacts


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return a small corpus with contacts."""
    folder: Path = tmp_path_factory.mktemp("families")
    return build_synthetic(folder / "corpus", families=2, length=16, sequences=300, row_group_rows=7)


def test_families_of_a_corpus(corpus: Corpus) -> None:
    """The first sequences of each family of the split, in the split's order, with the family's contacts."""
    samples = corpus_families(corpus, "valid", 4)
    assert [s.name for s in samples] == ["synthetic-00", "synthetic-01"]
    table = corpus.read(corpus.row_groups("valid"), ["family", "sequence"]).to_pylist()
    truth = read_contacts(corpus)
    for sample in samples:
        assert list(sample.sequences) == [row["sequence"] for row in table if row["family"] == sample.name][:4]
        np.testing.assert_array_equal(sample.truth.contacts, truth[sample.name])
        assert [c.tolist() for c in sample.columns] == [list(range(16))] * 4
    assert [s.name for s in corpus_families(corpus, "test", 1)] == ["synthetic-02"]


def test_families_are_mapped_as_their_sequences_are() -> None:
    """One aligned family with gaps and one without: the mean of single maps at their columns, each family scored by its own truth."""
    model = PMLM().build(TransformerShape(layers=1, width=16, heads=2, hidden=32).build())
    contacts = np.zeros((12, 12), dtype=bool)
    contacts[1, 9] = contacts[9, 1] = True
    scored = np.abs(np.subtract.outer(np.arange(12), np.arange(12))) >= 7
    alignment = Alignment(("a", "b"), ("ACDEFG-HIKLM", "-CDWYGVHI-LM"))
    families = [aligned_family(name, alignment, ColumnContacts(contacts, scored), rows) for name, rows in (("one", 9), ("two", 1))]
    assert families[0].sequences == ("ACDEFGHIKLM", "CDWYGVHILM") and len(families[1].sequences) == 1
    for family, found in zip(families, map_families(model, families, progress=False), strict=True):
        tokens = [torch.tensor([CLS, *encode(s).tolist(), SEP]) for s in family.sequences]
        expected = average_over_columns(implied_contacts(model, tokens, progress=False), family.columns, 12)
        np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-9)
        np.testing.assert_equal(found.metrics, contact_precision(found.scores, contacts, scored=scored))
        assert found.name == family.name and found.metrics["contacts/random_precision_all"] == 1 / 15
