"""The family task: which proteins are drawn, and whose neighbour is nearest."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raypro.config import InputError
from raypro.data.corpus import SCHEMA, Corpus, Manifest, write_manifest
from raypro.data.records import Limits
from raypro.data.statistics import Statistics
from raypro.data.writer import write_split
from raypro.evaluate.families import Grouped, draw_families, read_families
from raypro.evaluate.probes import nearest_neighbour
from tests.small import random_sequences, write_corpus


def grouped(sizes: dict[str, int], copies: int = 0) -> Grouped:
    """Families of given sizes, of distinct sequences, then ``copies`` of the first sequence, all in a shuffled order."""
    families = [family for family, size in sizes.items() for _ in range(size)]
    sequences = random_sequences(len(families), 30, 40)
    families, sequences = families + families[:1] * copies, sequences + sequences[:1] * copies
    order = np.random.default_rng(0).permutation(len(families))
    return Grouped([f"p{i}" for i in order], [sequences[i] for i in order], [families[i] for i in order])


def test_the_nearest_neighbour_by_hand() -> None:
    """On a line, known at 0 and 3 (family 0), 10 and 14 (family 1): 1, 6, 7 and 100 go to 0, 3, 10 and 14."""
    train, labels = np.array([[0.0], [3.0], [10.0], [14.0]]), np.array([0, 0, 1, 1])
    queries, true = np.array([[1.0], [6.0], [7.0], [100.0]]), np.array([0, 1, 1, 1])
    found = nearest_neighbour(train, labels, queries)
    assert found.tolist() == [0, 0, 1, 1] and (found == true).mean() == 0.75


def test_the_nearest_neighbour_in_plain_loops() -> None:
    rng = np.random.default_rng(0)
    scales = [1, 30, 0.01, 5]
    train, queries, labels = rng.normal(size=(30, 4)) * scales, rng.normal(size=(20, 4)) * scales, rng.integers(0, 5, 30)

    def nearest_by(scales: np.ndarray) -> list[int]:
        found = []
        for query in queries:
            distances = [sum(((q - a) / s) ** 2 for q, a, s in zip(query, known, scales, strict=True)) for known in train]
            found.append(labels[distances.index(min(distances))])
        return found

    expected = nearest_by(train.std(axis=0))
    assert nearest_neighbour(train, labels, queries).tolist() == expected != nearest_by(np.ones(4))


def test_the_largest_families_give_equally_many_on_either_side() -> None:
    proteins = grouped({"a": 12, "b": 30, "c": 11, "d": 9, "e": 20})
    draw = draw_families(proteins, most=3, members=10)
    assert draw.families == ("b", "e", "a") and (len(draw.train), len(draw.test)) == (21, 9)
    for rows, each in ((draw.train, 7), (draw.test, 3)):
        assert np.bincount(draw.labels[rows]).tolist() == [each] * 3
        assert [proteins.families[row] for row in rows] == [draw.families[number] for number in draw.labels[rows]]
    assert not set(draw.train) & set(draw.test) and (draw.labels >= 0).sum() == 30
    assert draw.said == "the 3 largest families, 10 sequences each: 7 known, 3 asked for"


def test_a_draw_is_its_seeds() -> None:
    proteins = grouped({"a": 40, "b": 30})
    one, again, other = (draw_families(proteins, members=20, seed=seed) for seed in (1, 1, 2))
    assert one.train.tolist() == again.train.tolist() and one.test.tolist() == again.test.tolist() != other.test.tolist()


def test_fewer_families_than_asked_for_are_said() -> None:
    said = draw_families(grouped({"a": 40, "b": 30, "c": 3}), members=20).said
    assert said.startswith("the 2 largest families (no more have 20 distinct sequences), 20 sequences each: 14 known, 6 asked for")


def test_a_copy_never_answers_for_the_other() -> None:
    proteins = grouped({"a": 8, "b": 8}, copies=40)
    draw = draw_families(proteins, members=8)
    used = [proteins.sequences[row] for row in (*draw.train, *draw.test)]
    assert len(set(used)) == len(used) == 16
    with pytest.raises(InputError, match="0 of 2 families have so many distinct sequences; give --members 8 or fewer"):
        draw_families(proteins, members=9)


def test_one_family_is_not_enough() -> None:
    with pytest.raises(InputError, match="give data of more families"):
        draw_families(grouped({"a": 50}), members=10)
    with pytest.raises(InputError, match="--families and --members"):
        draw_families(grouped({"a": 50}), members=1)


def write_table(path: Path, header: str, rows: list[str]) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_is_read_by_family_or_superfamily(tmp_path: Path) -> None:
    """What has no family, is too short or no protein is left out."""
    rows = ["p\ta.1\ta\tACDEF", "q\t\tb\tWWWW", "r\ta.2\ta\tAC", "s\ta.3\ta\tAC-D", "t\ta.4\ta\tmkvl"]
    path = write_table(tmp_path / "families.tsv.gz", "id\tfamily\tsuperfamily\tsequence", rows)
    by_family = read_families(path, limits=Limits(min_length=3))
    assert by_family == Grouped(["p", "t"], ["ACDEF", "MKVL"], ["a.1", "a.4"])
    assert read_families(path, "clan").families == ["a", "b", "a", "a"]


def test_a_corpus_is_read_over_all_its_splits(tmp_path: Path) -> None:
    files = []
    for split, family in (("train", "x"), ("test", "y")):
        columns = {"id": [split, "n"], "sequence": ["ACDEF", "GGG"], "length": [5, 3], "family": [family, None]}
        table = pa.table({**columns, "clan": [None] * 2, "taxon": [None] * 2}, schema=SCHEMA)
        files += write_split(tmp_path, split, [table], 16, statistics=Statistics())
    write_manifest(tmp_path, Manifest(1, "", 16, tuple(files), "", (), "{}", "{}", "{}", "{}"))
    assert read_families(Corpus.open(tmp_path).path) == Grouped(["train", "test"], ["ACDEF"] * 2, ["x", "y"])


def test_what_holds_no_families_is_one_line(tmp_path: Path) -> None:
    table = write_table(tmp_path / "plain.tsv.gz", "id\tsequence", ["p\tACDEF"])
    corpus = write_corpus(tmp_path / "corpus", {"train": ["ACDEF"], "valid": [], "test": []}).path
    for path in (table, corpus):
        with pytest.raises(InputError, match="no protein in it has a family; give a table with a column 'family'"):
            read_families(path)
    with pytest.raises(InputError, match="--family-column famly.*family"):
        read_families(table, "famly")
    with pytest.raises(InputError, match="no such file"):
        read_families(tmp_path / "nothing.tsv")


def test_scop_has_ten_families_of_120(shared_data: Path) -> None:
    draw = draw_families(read_families(shared_data / "scop_families.tsv.gz"))
    assert len(draw.families) <= 10 and "no more have 120 distinct sequences" in draw.said
    assert (np.bincount(draw.labels[draw.test]) == 36).all() and (np.bincount(draw.labels[draw.train]) == 84).all()
