"""Synthetic families: what is planted is there, strongly, and the corpus is what the manifest says."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.data.corpus import MANIFEST, Corpus, write_manifest
from raypro.data.synthetic import Family, build_synthetic, planted_contacts, read_contacts, residue_couplings, sample_potts
from raypro.evaluate.contacts import apc, contact_precision


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return the default corpus."""
    return build_synthetic(tmp_path_factory.mktemp("synthetic") / "corpus")


def columns(corpus: Corpus, split: str, *names: str) -> list[list]:
    """Return columns of a split as lists."""
    table = corpus.read(corpus.row_groups(split), names)
    return [table[name].to_pylist() for name in names]


def mutual_information(classes: np.ndarray) -> np.ndarray:
    """Return the mutual information [L, L] between the columns of sequences given as classes [N, L]."""
    one_hot = np.eye(20)[classes]
    joint = np.einsum("nia,njb->ijab", one_hot, one_hot, optimize=True) / len(classes)
    single = one_hot.mean(axis=0)
    independent = single[:, None, :, None] * single[None, :, None, :]
    terms = joint * np.log(np.where(joint > 0, joint, 1.0) / np.where(joint > 0, independent, 1.0))
    return terms.sum(axis=(2, 3))


def test_contacts_are_visible_in_the_sequences_at_once(corpus: Corpus) -> None:
    """Mutual information of the columns finds the planted contacts of every family, trained on or held out."""
    by_family: dict[str, list[str]] = {}
    for split in ("train", "test"):
        for family, sequence in zip(*columns(corpus, split, "family", "sequence"), strict=True):
            by_family.setdefault(family, []).append(sequence)
    truth = read_contacts(corpus)
    assert set(by_family) == set(truth) and len(truth) == 5
    for family, sequences in by_family.items():
        classes = np.array([[STANDARD.index(a) for a in sequence] for sequence in sequences[:1500]])
        metrics = contact_precision(apc(mutual_information(classes)), truth[family])
        assert metrics["contacts/P_at_L5_all"] == 1.0, family
        assert metrics["contacts/random_precision_all"] < 0.05


def test_folds_are_protein_like(corpus: Corpus) -> None:
    """Some 15 contacts, most of them at separations of 6 or more, each on a helix or in a ladder; every family has its own."""
    maps = list(read_contacts(corpus).values())
    assert len({m.tobytes() for m in maps}) == len(maps)
    for truth in maps:
        np.testing.assert_array_equal(truth, truth.T)
        i, j = np.nonzero(np.triu(truth))
        assert 12 <= len(i) <= 18
        assert (j - i >= 6).sum() * 2 > len(i)
        contacts = set(zip(i.tolist(), j.tolist(), strict=True))
        for a, b in contacts:
            parallel, antiparallel = {(a - 1, b - 1), (a + 1, b + 1)}, {(a - 1, b + 1), (a + 1, b - 1)}
            assert contacts & (parallel | antiparallel), (a, b)


@pytest.mark.parametrize("length", [16, 17, 24, 31, 40, 64, 100, 333])
def test_folds_fit_their_chain(length: int) -> None:
    """Contacts of any length lie on the chain, 0 <= i < j < length, none twice."""
    for seed in range(20):
        contacts = planted_contacts(length, np.random.default_rng(seed))
        assert (contacts[:, 0] >= 0).all() and (contacts[:, 1] < length).all()
        assert (contacts[:, 1] - contacts[:, 0] >= 3).all()
        assert len({tuple(c) for c in contacts.tolist()}) == len(contacts) >= length // 4


def test_couplings_are_symmetric_and_balanced() -> None:
    """Equal row sums of exp(J): a coupling prefers no residue."""
    couplings = residue_couplings(3.0, np.random.default_rng(1)).astype(np.float64)
    np.testing.assert_array_equal(couplings, couplings.T)
    np.testing.assert_allclose(np.exp(couplings).mean(axis=1), 1.0, rtol=1e-4)


def test_gibbs_sampling_reaches_the_exact_distribution() -> None:
    """Three sites in a row, small enough to be enumerated: site and pair frequencies are the Potts model's, within 5 standard errors."""
    rng = np.random.default_rng(3)
    fields = rng.normal(0.0, 1.0, (3, 20)).astype(np.float32)
    couplings = residue_couplings(2.0, rng)
    family = Family("toy", np.array([[0, 1], [1, 2]]), fields)
    sequences = 40_000
    classes = sample_potts(family, couplings, sequences, rng, sweeps=30)
    energy = fields[0][:, None, None] + fields[1][:, None] + fields[2] + couplings[:, :, None] + couplings[None, :, :]
    exact = np.exp(energy.astype(np.float64))
    exact /= exact.sum()
    found = np.bincount(classes @ np.array([400, 20, 1]), minlength=8000).reshape(20, 20, 20) / sequences
    for axis in (0, 1, 2):
        expected = exact.sum(axis=axis)
        error = np.sqrt(expected * (1 - expected) / sequences)
        assert (np.abs(found.sum(axis=axis) - expected) < 5 * error + 2 / sequences).all()


def test_splits(corpus: Corpus) -> None:
    """The held-out family is the test split; 5 % of the others validate; each sequence is in one place; rows are shuffled."""
    corpus.check()
    (train_families, train), (valid_families, valid) = (columns(corpus, s, "family", "sequence") for s in ("train", "valid"))
    (test_families,) = columns(corpus, "test", "family")
    assert set(test_families) == {"synthetic-04"}
    assert set(train_families) == set(valid_families) == {f"synthetic-{k:02d}" for k in range(4)}
    assert len(train) + len(valid) == 16_000 and len(test_families) == 4000
    assert 0.04 < len(valid) / 16_000 < 0.06
    assert not set(train) & set(valid)
    assert all(len(set(train_families[start : start + 256])) == 4 for start in range(0, len(train) - 256, 256))


def test_contacts_file_is_as_the_manifest_says(corpus: Corpus) -> None:
    """Columns, and 0-based i < j; a changed file is found out."""
    table = pq.read_table(corpus.path / corpus.manifest.contacts)
    assert table.column_names == ["family", "length", "contact_i", "contact_j"]
    for row in table.to_pylist():
        assert row["length"] == 32
        assert all(0 <= i < j < 32 for i, j in zip(row["contact_i"], row["contact_j"], strict=True))


def test_same_seed_same_data(tmp_path: Path) -> None:
    """Equal arguments give equal checksums; another seed does not."""
    small = {"families": 2, "sequences": 50, "length": 24}
    first, again, other = (build_synthetic(tmp_path / name, seed=seed, **small) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first.manifest.checksum == again.manifest.checksum != other.manifest.checksum


def test_existing_folders_are_left_alone(tmp_path: Path) -> None:
    """A corpus is replaced only where that is asked for, a folder with anything else never; a failed build leaves nothing."""
    small = {"families": 1, "held_out": 0, "sequences": 20}
    out = tmp_path / "corpus"
    build_synthetic(out, **small)
    with pytest.raises(InputError, match="already"):
        build_synthetic(out, seed=1, **small)
    replaced = build_synthetic(out, seed=1, overwrite=True, **small)
    assert '"seed": 1' in replaced.manifest.options and replaced.rows("test") == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no corpus"):
        build_synthetic(tmp_path / "other", overwrite=True, **small)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "other"]


def test_two_synthetic_builds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is refused and harms nothing."""
    small = {"families": 1, "held_out": 0, "sequences": 20}

    def meanwhile(*arguments: object) -> None:
        with pytest.raises(InputError, match="another build is writing it"):
            build_synthetic(tmp_path / "corpus", **small)
        write_manifest(*arguments)

    monkeypatch.setattr("raypro.data.synthetic.write_manifest", meanwhile)
    build_synthetic(tmp_path / "corpus", **small).check()


def test_unfinished_build_is_not_a_corpus_and_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that dies before its manifest leaves no corpus; the next one succeeds."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    small = {"families": 1, "sequences": 20}
    with monkeypatch.context() as patch:
        patch.setattr("raypro.data.synthetic.write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            build_synthetic(tmp_path / "corpus", **small)
    assert not list(tmp_path.rglob(MANIFEST)) and not (tmp_path / "corpus").exists()
    build_synthetic(tmp_path / "corpus", **small).check()
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    ("field", "value"), [("families", 0), ("length", 8), ("length", 5000), ("sequences", 0), ("held_out", -1), ("row_group_rows", 0)]
)
def test_impossible_numbers_are_named(tmp_path: Path, field: str, value: int) -> None:
    """One line that names the field."""
    with pytest.raises(InputError, match=f"^{field}: "):
        build_synthetic(tmp_path / "corpus", **{field: value})


def test_more_families_than_folds(tmp_path: Path) -> None:
    """Sixteen residues have few folds."""
    with pytest.raises(InputError, match="different folds"):
        build_synthetic(tmp_path / "corpus", length=16, families=200, sequences=1)
