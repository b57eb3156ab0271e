"""What a corpus and evaluation sets have in common: identical sequences exactly, near duplicates against sets of k-mers."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from small import random_sequences, tiny_experiment, tiny_fine_tuning, write_corpus, write_labelled

from raypro.cli import main
from raypro.cluster.corpus import on_ray, show_command
from raypro.cluster.overlap import overlap_command
from raypro.config import InputError, to_plain
from raypro.core import checkpoint
from raypro.core.alphabet import STANDARD
from raypro.data import minhash, overlap
from raypro.data.build import BuildOptions, build
from raypro.data.corpus import Corpus
from raypro.data.evaluation_sets import read_evaluation_sets
from raypro.data.labelled import LabelledData
from raypro.data.leakage import IDENTICAL, NEAR, Targets
from raypro.data.minhash import Near, Sketches
from raypro.data.mmseqs import MMseqs
from raypro.data.overlap import record, scan_all
from raypro.scoring import known_overlaps


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


def mutated(sequence: str, substitutions: int, rng: np.random.Generator) -> str:
    letters = list(sequence)
    for at in rng.choice(len(letters), substitutions, replace=False):
        letters[at] = rng.choice([c for c in STANDARD if c != letters[at]])
    return "".join(letters)


def labelled(folder: Path, **splits: Sequence[str]) -> LabelledData:
    return write_labelled(folder, "regression", {name: {"sequence": list(s), "label": [0.5] * len(s)} for name, s in splits.items()})


def pairs_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


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


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A corpus and a task in a folder: what is in common is written down in the first test that uses it."""
    rng = np.random.default_rng(3)
    a, b, c, d, e, f = random_sequences(6, 80, 80, seed=11)
    strangers = random_sequences(60, 60, 120, seed=12)
    write_corpus(
        tmp_path / "corpus", {"train": [*strangers[:40], a, b, mutated(c, 8, rng)], "valid": [*strangers[40:], a, mutated(d, 6, rng)]}
    )
    labelled(tmp_path / "fold", train=[b, e], valid=[c, f], test=[a, a, f, d, mutated(b, 8, rng)])
    return tmp_path


def test_counts_are_of_the_rows_of_the_evaluation_set(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Corpus.open(world / "corpus").manifest
    overlap_command(world / "corpus", (world / "fold",))
    after = Corpus.open(world / "corpus").manifest
    assert after.checksum == before.checksum and replace(after, overlaps=()) == before
    found = {o.split: (o.task, o.rows, o.identical, o.near, json.loads(o.by_corpus_split)) for o in after.overlaps}
    none = {"identical": 0, "near": 0}
    assert found == {
        "valid": ("fold", 2, 0, 1, {"train": {"identical": 0, "near": 1}, "valid": none, "test": none}),
        "test": ("fold", 5, 2, 2, {"train": {"identical": 2, "near": 1}, "valid": {"identical": 2, "near": 1}, "test": none}),
    }
    listed = pairs_of(world / "corpus" / "overlap-fold.tsv")
    assert [(p["evaluation_split"], p["row"], p["id"], p["corpus_split"], p["corpus_id"]) for p in listed if p["kind"] == "identical"] == [
        ("test", "1", "test0", "train", "train40"),
        ("test", "2", "test1", "train", "train40"),
        ("test", "1", "test0", "valid", "valid20"),
        ("test", "2", "test1", "valid", "valid20"),
    ]
    near = {(p["evaluation_split"], p["id"], p["corpus_id"]) for p in listed if p["kind"] == "near"}
    assert near == {("valid", "valid0", "train42"), ("test", "test3", "valid21"), ("test", "test4", "train41")}
    assert all(0.33 <= float(p["similarity"]) <= 1 for p in listed)
    assert sorted(path.name for path in (world / "corpus").iterdir() if path.name.startswith(".")) == []
    capsys.readouterr()
    show_command(world / "corpus")
    said = capsys.readouterr().out
    assert "Evaluation sequences in the corpus" in said and "fold/test" in said and "2 + 1" in said


def test_a_new_measurement_replaces_its_task_and_keeps_the_others(world: Path) -> None:
    labelled(world / "other", test=random_sequences(3, 30, 30))
    for tasks, splits in (((world / "fold", world / "other"), ()), ((world / "fold",), ("train", "test"))):
        overlap_command(world / "corpus", tasks, splits=splits)
    found = [(o.task, o.split, o.identical) for o in Corpus.open(world / "corpus").manifest.overlaps]
    assert found == [("other", "test", 0), ("fold", "train", 1), ("fold", "test", 2)]


@pytest.mark.parametrize("tasks", [("missing",), ("corpus",), ("trained",), ("fold", "deeper/fold"), ()])
def test_a_wrong_task_is_one_clear_line(world: Path, tasks: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    labelled(world / "trained", train=["ACDEF"])
    labelled(world / "deeper" / "fold", test=["ACDEF"])
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "overlap", str(world / "corpus"), *(str(world / task) for task in tasks)])
    said = capsys.readouterr().err
    expected = {
        "missing": "no such folder of labelled data",
        "corpus": "holds no labelled data (a corpus?)",
        "trained": "no evaluation split: it has train",
        "fold": "two folders are called fold",
        "": "tasks",
    }
    assert ended.value.code == 2 and said.count("\n") == 1 and expected[tasks[0] if tasks else ""] in said
    assert not Corpus.open(world / "corpus").manifest.overlaps


@pytest.mark.parametrize("values", [{"k": 0}, {"k": 13}, {"sketch": 0}, {"threshold": 0.0}, {"threshold": 1.1}, {"fewest": 0}])
def test_values_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="near"):
        Near(**values)  # type: ignore[arg-type]


def test_a_failed_measurement_leaves_the_corpus_as_it_was(world: Path) -> None:
    corpus, (sets, _) = Corpus.open(world / "corpus"), read_evaluation_sets([world / "fold"])
    before = sorted((path.name, path.stat().st_mtime_ns) for path in corpus.path.iterdir())

    def broken() -> object:
        raise OSError(28, "No space left on device")
        yield

    with pytest.raises(InputError, match="No space left"):
        record(corpus, sets, broken(), "by nothing")  # type: ignore[arg-type]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in corpus.path.iterdir()) == before


@pytest.mark.cluster
def test_ray_finds_the_same(world: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CHUNK_ROWS", 16)
    corpus, (_, sequences) = Corpus.open(world / "corpus"), read_evaluation_sets([world / "fold"])
    targets = Targets.of(sequences, Near())
    here, there = list(scan_all(corpus, targets)), list(scan_all(corpus, targets, on_ray))
    assert len(here) > 3 and sum(len(found.ids) for found in here) > 3
    for ours, its in zip(here, there, strict=True):
        assert (ours.split, ours.ids, ours.targets.tolist()) == (its.split, its.ids, its.targets.tolist())


def as_fasta(folder: Path, corpus: Corpus) -> Path:
    """Write the sequences of a corpus as FASTA, in small letters with a stop, which building mends."""
    path = folder / "proteins.fasta"
    tables = [corpus.read(corpus.row_groups(split), ["id", "sequence"]) for split in ("train", "valid")]
    rows = [row for table in tables for row in table.to_pylist()]
    path.write_text("".join(f">{row['id']}\n{row['sequence'].lower()}*\n" for row in rows))
    return path


@pytest.mark.parametrize("near", [False, True])
def test_a_corpus_is_built_without_what_it_will_be_judged_by(world: Path, near: bool) -> None:
    fasta = as_fasta(world, Corpus.open(world / "corpus"))
    options = BuildOptions(exclude=(str(world / "fold"),), exclude_near=near)
    report = build([fasta], world / "clean", options)
    assert report.rejected == {IDENTICAL: 2, **({NEAR: 3} if near else {})}
    left = {row["id"]: row["cause"] for row in pairs_of(world / "clean" / "rejects.tsv")}
    assert left == {"train40": IDENTICAL, "valid20": IDENTICAL, **(dict.fromkeys(("train41", "train42", "valid21"), NEAR) if near else {})}
    assert json.loads(report.corpus.manifest.options)["exclude"] == [str(world / "fold")]
    overlap_command(world / "clean", (world / "fold",))
    found = Corpus.open(world / "clean").manifest.overlaps
    assert sum(o.identical for o in found) == 0 and (sum(o.near for o in found) == 0) == near


def test_exclusion_is_refused_where_it_cannot_be(world: Path) -> None:
    with pytest.raises(InputError, match="near duplicates of what"):
        BuildOptions(exclude_near=True)
    with pytest.raises(InputError, match="no such folder of labelled data"):
        build([as_fasta(world, Corpus.open(world / "corpus"))], world / "clean", BuildOptions(exclude=(str(world / "none"),)))
    assert not (world / "clean").exists()


STUB = """#!{python}
import sys
arguments = sys.argv[1:]
command, query, target, out, work = arguments[:5]
options = dict(zip(arguments[5::2], arguments[6::2]))
assert command == "easy-search" and options["--format-output"] == "query,target,fident" and options["--cov-mode"] == "2", arguments
def read(path):
    records = open(path).read().split(">")[1:]
    return [record.split() for record in records]
with open(out, "w") as file:
    for name, sequence in read(query):
        for other, its in read(target):
            share = sum(a == b for a, b in zip(sequence, its)) / len(sequence)
            if len(its) == len(sequence) and share >= float(options["--min-seq-id"]):
                print(name, other, "%.3f" % share, sep="\\t", file=file)
"""


def put_on_path(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "mmseqs").write_text(text.replace("{python}", sys.executable))
    (folder / "mmseqs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_mmseqs_finds_near_duplicates_where_it_is_installed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(world / "bin", STUB, monkeypatch)
    overlap_command(world / "corpus", (world / "fold",), tool="mmseqs", mmseqs=MMseqs(identity=0.89))
    found = Corpus.open(world / "corpus").manifest.overlaps
    assert [(o.split, o.identical, o.near) for o in found] == [("valid", 0, 1), ("test", 2, 2)] and "MMseqs2" in found[0].measure
    near = {(p["id"], p["corpus_id"], p["similarity"]) for p in pairs_of(world / "corpus" / "overlap-fold.tsv") if p["kind"] == "near"}
    assert near == {("valid0", "train42", "0.900"), ("test3", "valid21", "0.925"), ("test4", "train41", "0.900")}


def test_a_failing_or_missing_mmseqs_is_one_clear_line(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(world / "bin", "#!/bin/sh\necho 'Out of memory' >&2\nexit 3\n", monkeypatch)
    with pytest.raises(InputError, match="ended with status 3: Out of memory"):
        overlap_command(world / "corpus", (world / "fold",), tool="mmseqs")
    monkeypatch.setenv("PATH", str(world))
    with pytest.raises(InputError, match="mmseqs is not on the PATH"):
        overlap_command(world / "corpus", (world / "fold",), tool="mmseqs")


def test_a_score_is_told_what_the_corpus_of_its_encoder_holds(world: Path) -> None:
    pretraining, data = tiny_experiment(world / "corpus"), LabelledData.open(world / "fold")
    checkpoint.save(world / "step_1", torch.nn.Linear(1, 1), to_plain(pretraining), 1, {})
    experiment = tiny_fine_tuning(world / "fold", start=str(world / "step_1"))
    assert known_overlaps(experiment, data) == {}  # not measured
    overlap_command(world / "corpus", (world / "fold",))
    assert {split: (o.identical, o.near) for split, o in known_overlaps(experiment, data).items()} == {"valid": (0, 1), "test": (2, 2)}
    assert known_overlaps(replace(experiment, start=None), data) == {}
    assert known_overlaps(experiment, labelled(world / "deeper" / "fold", test=["ACDEF"])) == {}  # of the same name, but others
    (world / "corpus").rename(world / "gone")
    assert known_overlaps(experiment, data) == {}


KNOWN = {
    ("remote_homology", "valid"): (736, 10),
    ("remote_homology", "test"): (718, 12),
    ("secondary_structure", "valid"): (2170, 29),
    ("secondary_structure", "cb513"): (513, 27),
    ("stability", "test"): (12851, 0),
}


@pytest.mark.slow
def test_the_known_overlaps_of_the_real_data_are_found_exactly(shared_data: Path, tmp_path: Path) -> None:
    for task in ("remote_homology", "secondary_structure", "stability"):
        files = {split: shared_data / "tape" / f"{task}.{split}.csv.gz" for name, split in KNOWN if name == task}
        labelled(tmp_path / task, **{split: pa.csv.read_csv(path)["sequence"].to_pylist() for split, path in files.items()})
    tasks = tuple(tmp_path / task for task in ("remote_homology", "secondary_structure", "stability"))
    build([shared_data / "natural.fasta.gz"], tmp_path / "natural")
    overlap_command(tmp_path / "natural", tasks)
    found = Corpus.open(tmp_path / "natural").manifest.overlaps
    assert {(o.task, o.split): (o.rows, o.identical) for o in found} == KNOWN
    build([shared_data / "scop_families.tsv.gz"], tmp_path / "scop")
    overlap_command(tmp_path / "scop", (tmp_path / "remote_homology",), splits=("test",))
    assert [(o.rows, o.identical) for o in Corpus.open(tmp_path / "scop").manifest.overlaps] == [(718, 482)]
