"""What a corpus and evaluation sets have in common: counted, listed, left out of builds, and said beside scores."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch

from raypro.cli import main
from raypro.cluster.corpus import on_ray, show_command
from raypro.cluster.overlap import overlap_command
from raypro.cluster.sweeping import _Desk
from raypro.config import InputError, to_plain
from raypro.core import checkpoint
from raypro.core.encoders.transformer import TransformerShape
from raypro.data import overlap
from raypro.data.build import BuildOptions, build
from raypro.data.corpus import Corpus
from raypro.data.evaluation_sets import read_evaluation_sets
from raypro.data.labelled import LabelledData
from raypro.data.leakage import IDENTICAL, NEAR, Targets
from raypro.data.minhash import Near
from raypro.data.mmseqs import MMseqs
from raypro.data.overlap import record, scan_all
from raypro.experiment import FineTuning
from raypro.probe_tasks import Evaluation, Split
from raypro.probing import plain, said, with_overlaps
from raypro.scoring import known_overlaps, leaks_of
from raypro.tasks.regression import Regression
from tests.small import mutated, random_sequences, tiny_experiment, write_corpus, write_labelled


def labelled(folder: Path, **splits: Sequence[str]) -> LabelledData:
    return write_labelled(folder, "regression", {name: {"sequence": list(s), "label": [0.5] * len(s)} for name, s in splits.items()})


def pairs_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


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


def test_a_new_measurement_replaces_that_of_the_same_data_and_keeps_the_others(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(world / "other", test=random_sequences(3, 30, 30))
    for tasks, splits in (((world / "fold", world / "other"), ()), ((world / "fold",), ("train", "test"))):
        overlap_command(world / "corpus", tasks, splits=splits)
    found = [(o.task, o.split, o.identical) for o in Corpus.open(world / "corpus").manifest.overlaps]
    assert found == [("fold", "valid", 0), ("other", "test", 0), ("fold", "train", 1), ("fold", "test", 2)]
    published = labelled(world / "published" / "fold", test=random_sequences(2, 30, 30, seed=4))
    overlap_command(world / "corpus", (published.path,))
    both = [o for o in Corpus.open(world / "corpus").manifest.overlaps if (o.task, o.split) == ("fold", "test")]
    assert [(o.rows, o.identical) for o in both] == [(5, 2), (2, 0)]
    capsys.readouterr()
    show_command(world / "corpus")
    said = capsys.readouterr().out
    assert all(f"fold/test {o.sha256[:8]}" in said for o in both) and "fold/valid " in said


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
    options = BuildOptions(exclude=(str(world / "fold"),), exclude_identical_only=not near)
    report = build([fasta], world / "clean", options)
    assert report.rejected == {IDENTICAL: 2, **({NEAR: 3} if near else {})}
    left = {row["id"]: row["cause"] for row in pairs_of(world / "clean" / "rejects.tsv")}
    assert left == {"train40": IDENTICAL, "valid20": IDENTICAL, **(dict.fromkeys(("train41", "train42", "valid21"), NEAR) if near else {})}
    assert json.loads(report.corpus.manifest.options)["exclude"] == [str(world / "fold")]
    overlap_command(world / "clean", (world / "fold",))
    found = Corpus.open(world / "clean").manifest.overlaps
    assert sum(o.identical for o in found) == 0 and (sum(o.near for o in found) == 0) == near


def test_exclusion_is_refused_where_it_cannot_be(world: Path) -> None:
    with pytest.raises(InputError, match="identical to what"):
        BuildOptions(exclude_identical_only=True)
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


def test_what_a_split_shares_with_train_is_said_beside_its_scores(tmp_path: Path) -> None:
    data = labelled(tmp_path / "leaky", train=["ACDE", "MKVL", "MKVL"], valid=["WYWY"], test=["MKVL", "ACD", "ACDE"])
    said = ["test: 2 of its sequences are in train too, so that its scores are too good"]
    assert leaks_of(data, ["valid", "test"]) == said
    assert leaks_of(data, ["valid"]) == []


def test_a_score_is_told_what_the_corpus_of_its_encoder_holds(world: Path) -> None:
    pretraining, data = tiny_experiment(world / "corpus"), LabelledData.open(world / "fold")
    checkpoint.save(world / "step_1", torch.nn.Linear(1, 1), to_plain(pretraining), 1, {})
    start = world / "step_1"
    assert known_overlaps(start, data) == {}  # not measured
    overlap_command(world / "corpus", (world / "fold",))
    assert {split: (o.identical, o.near) for split, o in known_overlaps(start, data).items()} == {"valid": (0, 1), "test": (2, 2)}
    assert known_overlaps(None, data) == {}
    assert known_overlaps(start, labelled(world / "deeper" / "fold", test=["ACDEF"])) == {}  # of the same name, but others
    found = Evaluation("stability", "spearman", None, {"test": Split([], [], [])}, [], [], [], 0)
    probed = with_overlaps(found, start, data)
    assert plain(probed)["corpus_overlap"] == {"test": {"rows": 5, "identical": 2, "near": 2}}  # valid was not probed
    assert said(probed) == ["test: of 5 sequences the corpus of the encoder holds 2, and near duplicates of 2 others"]
    (world / "corpus").rename(world / "gone")
    assert known_overlaps(start, data) == {}


def test_a_sweep_logs_and_says_what_the_corpus_of_its_encoder_holds(world: Path) -> None:
    checkpoint.save(world / "step_1", torch.nn.Linear(1, 1), to_plain(tiny_experiment(world / "corpus")), 1, {})
    overlap_command(world / "corpus", (world / "fold",))
    logged: dict[str, str] = {}
    base = FineTuning("sweep", str(world / "fold"), Regression(), TransformerShape(), start=str(world / "step_1"))
    sweep, sender = SimpleNamespace(space=SimpleNamespace(base=base)), SimpleNamespace(outbox=SimpleNamespace(text=logged.__setitem__))
    warnings = _Desk(sweep, LabelledData.open(world / "fold"), sender).warnings()  # type: ignore[arg-type]  # what it asks for
    assert warnings == ["test: of 5 sequences the corpus of the encoder holds 2, and near duplicates of 2 others"]
    assert json.loads(logged["scores.json"]) == {"corpus_overlap": {"test": {"rows": 5, "identical": 2, "near": 2}}}


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
