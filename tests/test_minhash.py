"""Near duplicates by MinHash, against the sets of k-mers themselves."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from raypro.data import minhash
from raypro.data.minhash import Near, Sketches
from tests.small import mutated, random_sequences


def as_array(sequences: Sequence[str]) -> pa.BinaryArray:
    return pa.array([s.encode() for s in sequences], pa.binary())


def kmers(sequence: str, k: int) -> set[str]:
    return {sequence[i : i + k] for i in range(len(sequence) - k + 1) if not set(sequence[i : i + k]) & set("BXZ")}


def containments(queries: Sequence[str], others: Sequence[str], near: Near) -> dict[tuple[int, int], float]:
    """Return the exact containment of each query in each other sequence, where it is enough."""
    found, sets = {}, [kmers(other, near.k) for other in others]
    for q, query in enumerate(queries):
        its = kmers(query, near.k)
        for r, other in enumerate(sets):
            share = len(its & other) / max(len(its), 1)
            if len(its) >= near.fewest and share >= near.threshold:
                found[r, q] = share
    return found


def matched(queries: Sequence[str], others: Sequence[str], near: Near) -> dict[tuple[int, int], float]:
    matches = Sketches.of(as_array(queries), near).matches(as_array(others))
    return dict(zip(zip(matches.rows.tolist(), matches.owners.tolist(), strict=True), matches.containment.tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 3, 6, 7, 12])
def test_a_large_sketch_measures_containment_exactly(k: int) -> None:
    rng = np.random.default_rng(k)
    queries = random_sequences(12, 1, 60, seed=1) + ["ACDACDACDACDACDACDACD", "XXXXXXXXXXXXXXXXXXXXXXXX", "ACDEFGXHIKLMNPQRSTVWYB"]
    others = [mutated(q, len(q) // 8, rng) for q in queries] + [queries[0] + queries[1], "XXXXXXXXXXXXXXXXXXXXXXXX"] + queries[::-1]
    near = Near(k=k, sketch=1000, threshold=0.1, fewest=3)
    assert len(containments(queries, others, near)) > 20
    assert matched(queries, others, near) == pytest.approx(containments(queries, others, near))


def test_estimates_are_within_the_stated_error() -> None:
    rng = np.random.default_rng(0)
    queries = random_sequences(150, 300, 500)
    others = [mutated(q, len(q) // 12, rng) for q in queries]
    near = Near(sketch=64, threshold=0.2)
    exact, found = containments(queries, others, near), matched(queries, others, near)
    assert set(found) == set(exact) and len(found) == 150
    bounds = {pair: np.sqrt(c * (1 - c) / 64) for pair, c in exact.items()}
    scaled = np.array([(found[pair] - exact[pair]) / bounds[pair] for pair in found])
    assert abs(scaled.mean()) < 4 / np.sqrt(150) and 0.6 < scaled.std() < 1.15 and abs(scaled).max() < 4.5


def test_planted_duplicates_of_90_percent_identity_are_found_and_strangers_are_not() -> None:
    rng = np.random.default_rng(1)
    queries = random_sequences(200, 50, 400)
    others = random_sequences(400, 50, 400, seed=2) + [mutated(q, len(q) // 10, rng) for q in queries] + [q[::-1] for q in queries]
    assert set(matched(queries, others, Near())) == {(400 + q, q) for q in range(200)}


@pytest.mark.parametrize("length", [50, 77, 120])
def test_the_threshold_keeps_its_promise_in_the_worst_case(length: int) -> None:
    (query,) = random_sequences(1, length, length, seed=length)
    other = list(query)
    for at in range(5, length, 10)[: length // 10] if length != 77 else range(6, 76, 10):
        other[at] = "W" if other[at] != "W" else "A"
    assert sum(a != b for a, b in zip(query, other, strict=True)) == length // 10
    assert matched([query], ["".join(other)], Near()) == {(0, 0): pytest.approx(containments([query], ["".join(other)], Near())[0, 0])}


def test_a_domain_in_a_long_protein_is_found_however_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, proteins = random_sequences(5, 60, 90), random_sequences(40, 200, 300, seed=5)
    proteins[7] = proteins[7][:100] + queries[2] + proteins[7][100:]
    proteins[9] += queries[4] + queries[2]
    at_once = matched(queries, proteins, Near())
    assert at_once == {(7, 2): 1, (9, 2): 1, (9, 4): 1}
    monkeypatch.setattr(minhash, "_BLOCK_RESIDUES", 250)
    monkeypatch.setattr(minhash, "_PAIRS", 3)
    assert matched(queries, proteins, Near()) == at_once


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert matched([], random_sequences(3, 20, 30), Near()) == {} and matched(random_sequences(3, 20, 30), [], Near()) == {}
    assert matched(["ACDE"], ["ACDE", "A"], Near()) == {}  # shorter than a k-mer
