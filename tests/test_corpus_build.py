"""Building corpora: what ends up where, the same whatever the pieces and buckets, rejects, and what interrupted builds leave."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from raypro.config import InputError
from raypro.data import build as building
from raypro.data.build import BuildOptions, build
from raypro.data.corpus import SPLITS, Corpus, sha256_of
from raypro.data.gather import GatherJob, SplitRule, gather
from raypro.data.memory import system_memory
from raypro.data.readers import Piece
from raypro.data.records import DUPLICATE, Limits
from raypro.data.scatter import ScatterJob, scatter
from raypro.data.show import largest_families, show


def pfam(path: Path, families: int = 6, each: int = 60, seed: int = 0, extra: str = "") -> Path:
    """Write Pfam-A-like FASTA: families PF00000.., random domains, every tenth of them in the next family too."""
    rng = np.random.default_rng(seed)
    lines = []
    for family in range(families):
        for member in range(each):
            sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), rng.integers(5, 60)))
            names = [family, (family + 1) % families] if member % 10 == 0 else [family]
            lines += [f">D{family}_{member}/1-9 D.1 PF{name:05d}.3;Name;\n{sequence}" for name in names]
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def clans(path: Path) -> Path:
    """Write a clans file: PF00000 and PF00001 in a clan that TAPE holds out, PF00002 in another one."""
    path.write_text("PF00000\tCL0635\tA\tA\tA\nPF00001\tCL0635\tB\tB\tB\nPF00002\tCL0001\tC\tC\tC\nPF00003\t\t\tD\tD\n")
    return path


def rows(corpus: Corpus, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split in the corpus' order."""
    return [row for file in corpus.files(split) for row in pq.read_table(corpus.path / file.name).to_pylist()]


def small_pieces(monkeypatch: pytest.MonkeyPatch, size: int, memory: int = 0) -> None:
    """Make pieces, buckets and shards as small as a test's inputs need to have many of them; inputs of ``memory`` bytes stay in memory."""
    for name in ("PIECE_BYTES", "BUCKET_BYTES"):
        monkeypatch.setattr(building, name, size)
    monkeypatch.setattr(building, "SHARD_BUCKETS", 3)
    monkeypatch.setattr(building, "MEMORY_BYTES", memory)


def test_whole_clans_are_test_and_identical_sequences_never_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch, 4000)
    path = pfam(tmp_path / "a.fasta")
    report = build([path], tmp_path / "c", BuildOptions(row_group_rows=16), clans(tmp_path / "clans.tsv"))
    report.corpus.check()
    split_of = {split: {row["sequence"] for row in rows(report.corpus, split)} for split in SPLITS}
    assert not split_of["test"] & (split_of["train"] | split_of["valid"]) and not split_of["train"] & split_of["valid"]
    records = [(h.split()[2][:7], s) for h, s in (r.split("\n", 1) for r in path.read_text()[1:].rstrip().split("\n>"))]
    held = {sequence for family, sequence in records if family in ("PF00000", "PF00001")}
    assert {s for f, s in records if f == "PF00002"} & held, "the toy has no sequence both in a held-out clan and elsewhere"
    assert split_of["test"] == held
    assert set().union(*split_of.values()) == {sequence for _, sequence in records}
    assert {row["clan"] for row in rows(report.corpus, "test")} == {"CL0635"}
    assert {row["clan"] for row in rows(report.corpus, "train")} == {"CL0001", None}
    assert sum(report.corpus.rows(s) for s in SPLITS) == len({s for _, s in records})
    assert report.rejected == {DUPLICATE: len(records) - len({s for _, s in records})}
    assert report.read == len(records)
    assert 0 < len(split_of["valid"]) < 0.15 * len(split_of["train"])
    assert "CL0635" in report.corpus.manifest.split_rule
    assert any("do not occur: CL0624" in warning for warning in report.warnings)


def test_the_corpus_is_the_same_whatever_the_pieces_and_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pfam(tmp_path / "a.fasta", each=200)
    found = []
    for number, (size, memory) in enumerate(((1 << 26, 0), (3000, 0), (20_000, 1 << 20), (3000, 1 << 20))):
        small_pieces(monkeypatch, size, memory)
        corpus = build([path], tmp_path / str(number), BuildOptions(hold_out=("PF00003",), row_group_rows=10)).corpus
        corpus.check()
        found.append({split: rows(corpus, split) for split in SPLITS})
        assert (len(corpus.files("train")) > 5) == (size == 3000)
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0]["test"] and {row["family"] for row in found[0]["test"]} == {"PF00003"}


def test_what_memory_does_not_hold_goes_to_files_and_the_corpus_is_the_same(tmp_path: Path) -> None:
    one, other = pfam(tmp_path / "a.fasta", each=150), pfam(tmp_path / "b.fasta", seed=1)
    pieces = [Piece(path, "fasta", 0, path.stat().st_size) for path in (one, other)]
    found = []
    for memory, files in ((0, 2), (other.stat().st_size, 1), (1 << 20, 0)):
        scratch, new = tmp_path / f"parts{memory}", tmp_path / f"new{memory}"
        scratch.mkdir()
        new.mkdir()
        job = ScatterJob(scratch, memory, 4, 0, "sequence", Limits(), None)
        scattered = [scatter(job, item) for item in enumerate(pieces)]
        kept = [(s.number, part) for s in scattered for part in s.parts]
        assert len(list(scratch.iterdir())) == files and all(s.in_memory <= memory for s in scattered)
        rule = SplitRule(None, (), 0.0, 0.05, 0)
        found.append(gather(GatherJob(tuple(kept), scratch, new, 16, rule, False), (0, range(4))).files)
    assert found[0] == found[1] == found[2]


def test_the_order_is_a_global_shuffle_of_its_seed(tmp_path: Path) -> None:
    path = pfam(tmp_path / "a.fasta", each=200)
    built = [build([path], tmp_path / f"{i}", BuildOptions(seed=seed)).corpus for i, seed in enumerate((0, 0, 1))]
    orders = [[row["family"] for row in rows(corpus, "train")] for corpus in built]
    assert orders[0] == orders[1] != orders[2]
    for order in orders[1:]:
        changes = sum(a != b for a, b in zip(order, order[1:], strict=False)) / (len(order) - 1)
        assert abs(changes - 5 / 6) < 0.06  # six families in a random order: neighbours differ 5 times in 6


def test_families_are_held_out_where_there_are_no_clans(tmp_path: Path) -> None:
    path = pfam(tmp_path / "a.fasta", families=40, each=10)
    corpus = build([path], tmp_path / "share", BuildOptions(hold_out_share=0.3)).corpus
    tested = {row["family"] for row in rows(corpus, "test")}
    assert 4 <= len(tested) <= 20
    assert not tested & {row["family"] for split in ("train", "valid") for row in rows(corpus, split)}
    report = build([path], tmp_path / "none", BuildOptions(hold_out_share=0.0))
    assert report.corpus.rows("test") == 0
    assert any(warning.startswith("no test split") for warning in report.warnings)


def test_of_identical_sequences_the_first_record_stays(tmp_path: Path) -> None:
    names = [f"P{i:03d}" for i in range(300)]
    path = tmp_path / "a.fasta"
    path.write_text("".join(f">{name}\n{'ACDEFGHIKLMNPQRSTVWY'[i % 7 :]}\n" for i, name in enumerate(names)))
    report = build([path], tmp_path / "c", BuildOptions(valid_share=0.0))
    assert sorted(row["id"] for row in rows(report.corpus, "train")) == names[:7]


def test_copies_that_meet_in_a_block_wait_nowhere_and_are_all_listed(tmp_path: Path) -> None:
    """Only copies of one family go at once: which of two families is held out is not known yet."""
    path = tmp_path / "a.fasta"
    families = ["PF00001.1;A;", "PF00002.1;B;", "no family"]
    path.write_text("".join(f">P{i:03d} {families[i % 3]}\nACDEFGHIK\n>Q{i:03d}\n{'ACDEFGHIKLMNP'[i % 13]}WWY\n" for i in range(130)))
    job = ScatterJob(tmp_path, 1 << 20, 4, 0, "sequence", Limits(), None)
    scattered = scatter(job, (0, Piece(path, "fasta", 0, path.stat().st_size)))
    (((batch, _),),) = scattered.parts
    assert sorted(batch["id"].to_pylist()) == ["P000", "P001", "P002", *(f"Q{i:03d}" for i in range(13))]
    assert (scattered.records, scattered.rejected) == (16, {DUPLICATE: 244})
    report = build([path], tmp_path / "c", BuildOptions(hold_out=("PF00002",), valid_share=0.0))
    assert [row["id"] for row in rows(report.corpus, "test")] == ["P001"]
    assert sorted(row["id"] for row in rows(report.corpus, "train")) == [f"Q{i:03d}" for i in range(13)]
    assert (report.read, report.rejected) == (260, {DUPLICATE: 246})
    listed = pa.csv.read_csv(report.corpus.path / "rejects.tsv", parse_options=pa.csv.ParseOptions(delimiter="\t"))
    assert sorted(listed["line"].to_pylist()) == [n for n in range(1, 520, 2) if n not in (5, *range(3, 54, 4))]


def test_arrows_memory_pool_comes_back_after_an_error() -> None:
    before = pa.default_memory_pool()
    mine = pa.proxy_memory_pool(before)
    pa.set_memory_pool(mine)
    try:
        with pytest.raises(ValueError, match="inside"), system_memory():
            assert pa.default_memory_pool().backend_name == "system"
            raise ValueError("inside")
        buffer = pa.allocate_buffer(1000)
        assert mine.bytes_allocated() >= 1000
        del buffer
    finally:
        pa.set_memory_pool(before)


def test_kept_duplicates_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch, 4000)
    path = pfam(tmp_path / "a.fasta", each=100)
    report = build([path], tmp_path / "c", BuildOptions(keep_duplicates=True, hold_out=("PF00001",), valid_share=0.3))
    found = {split: Counter(row["sequence"] for row in rows(report.corpus, split)) for split in SPLITS}
    assert sum(sum(n.values()) for n in found.values()) == report.read and not report.rejected
    assert max(found["train"].values()) == 2 and max(found["valid"].values()) == 2
    assert not found["train"].keys() & found["valid"].keys() | found["test"].keys() & (found["train"].keys() | found["valid"].keys())
    order = [row["sequence"] for row in rows(report.corpus, "train")]
    beside = sum(a == b for a, b in zip(order, order[1:], strict=False))
    assert beside < 0.2 * sum(n == 2 for n in found["train"].values())


def test_every_reject_is_listed_with_source_line_and_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch, 60)
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    Path("a.fasta").write_text(">a\nACDE\n\n>b\nAC-E\n>c\nAC\nDE\n>d\nAJ\n>e\nAC\n>f\nacdef*\n" * 2 + ">g\nAC1\n")
    Path("x/a.fasta").write_text(">h\nAC2\n")
    Path("b.csv").write_text("id,sequence\n\nx,WWWW\ny,W*W\nz\nw,ACDE\n")
    pq.write_table(pa.table({"id": ["k", "l", "m"], "sequence": ["YYY", "Y?", "YYY"]}), "c.parquet", row_group_size=1)
    Path("d.json").write_text('[{"primary": "YYY", "id": "n"}, {"primary": null, "id": "o"}]')
    inputs = [Path(name) for name in ("a.fasta", "x/a.fasta", "b.csv", "c.parquet", "d.json")]
    report = build(inputs, tmp_path / "c", BuildOptions(min_length=3, max_length=4))
    table = pa.csv.read_csv(report.corpus.path / "rejects.tsv", parse_options=pa.csv.ParseOptions(delimiter="\t")).to_pylist()
    found = [(r["source"], r["line"], r["row"], r["id"], r["cause"].split()[0]) for r in table]
    once = [(4, "b", "gap"), (9, "d", "letter"), (11, "e", "shorter"), (13, "f", "longer")]
    in_fasta = [*once, *((line + 14, *rest) for line, *rest in once), *((n, i, "duplicate") for n, i in ((6, "c"), (15, "a"), (20, "c")))]
    expected = [("a.fasta", line, None, i, cause) for line, i, cause in [*in_fasta, (29, "g", "digit")]]
    in_csv = [(4, "y", "stop"), (5, "", "wrong"), (6, "w", "duplicate")]
    expected += [("x/a.fasta", 1, None, "h", "digit"), *(("b.csv", line, None, i, cause) for line, i, cause in in_csv)]
    expected += [("c.parquet", None, row, i, cause) for row, i, cause in ((2, "l", "another"), (3, "m", "duplicate"))]
    expected += [("d.json", None, row, i, cause) for row, i, cause in ((1, "n", "duplicate"), (2, "o", "no"))]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert json.loads(report.corpus.manifest.rejected) == dict(Counter(r["cause"] for r in table)) == dict(report.rejected)
    assert report.read == 23 and sum(report.corpus.rows(s) for s in SPLITS) == 3


@pytest.mark.parametrize(
    ("name", "read", "lines", "causes"),
    [
        ("comment_lines", 1, [], {}),
        ("crlf_lines", 1, [], {}),
        ("duplicate_ids", 5, [10], {DUPLICATE: 1}),  # alpha twice, with the same letters; beta and the others stay
        ("dna_not_protein", 3, [], {}),  # letters of DNA are letters of proteins: it is suspected aloud, not rejected
        ("lower_case_and_gaps", 12, [], {}),  # small letters become capitals; this copy of the file has no gap
    ],
)
def test_what_is_left_out_of_awkward_files(
    tmp_path: Path, shared_data: Path, name: str, read: int, lines: list[int], causes: dict[str, int]
) -> None:
    source = shared_data / "awkward" / f"{name}.fasta"
    report = build([source], tmp_path / "c")
    table = pa.csv.read_csv(report.corpus.path / "rejects.tsv", parse_options=pa.csv.ParseOptions(delimiter="\t")).to_pylist()
    assert (report.read, report.rejected, Counter(r["cause"] for r in table)) == (read, causes, causes)
    assert [(r["source"], r["line"]) for r in table] == [(str(source), line) for line in lines]


def test_dna_is_suspected_aloud(tmp_path: Path, shared_data: Path) -> None:
    report = build([shared_data / "awkward" / "dna_not_protein.fasta"], tmp_path / "dna")
    assert any("dna_not_protein.fasta: DNA or RNA?" in warning for warning in report.warnings)
    report = build([shared_data / "awkward" / "lower_case_and_gaps.fasta"], tmp_path / "protein")
    assert report.warnings == ()
    (tmp_path / "aligned.fasta").write_text(">a\nacgtac-gtacgt\n>b\nACGT-ACGTTAGC\n" * 3 + ">c\nMKVLE\n")
    report = build([tmp_path / "aligned.fasta"], tmp_path / "aligned")
    assert report.rejected.total() == 6 and "93 % of its letters" in report.warnings[0]  # 72 of 77, though no record of them is accepted


def test_manifest_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    corpus = build([pfam(tmp_path / "a.fasta")], tmp_path / "c", BuildOptions(hold_out=("PF00002",))).corpus
    counts = json.loads(corpus.manifest.residue_counts)
    for split in SPLITS:
        found = rows(corpus, split)
        assert counts[split] == Counter("".join(row["sequence"] for row in found))
        assert all(row["length"] == len(row["sequence"]) for row in found)
        assert corpus.residues(split) == sum(row["length"] for row in found)


def test_real_domains(tmp_path: Path, shared_data: Path) -> None:
    report = build([shared_data / "pfam_domains.fasta.gz"], tmp_path / "c", BuildOptions(hold_out=("PF00014",)))
    report.corpus.check()
    assert report.read == 24169 and largest_families(report.corpus).keys() == {"PF00014", "PF00595"}
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    show(report.corpus, console)
    text = console.export_text()
    for expected in ("train", "Largest of 2 families", "PF00595", "pfam_domains.fasta.gz", report.corpus.manifest.checksum):
        assert expected in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_share": 1.0}, "valid_share: 1.0 is no share"),
        ({"hold_out_share": -0.1}, "hold_out_share"),
        ({"row_group_rows": 0}, "row_group_rows: 0"),
        ({"min_length": 9, "max_length": 8}, "max_length: 8 is below the minimum of 9"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions(**options)


def test_check_finds_row_groups_of_another_size(tmp_path: Path) -> None:
    corpus = build([pfam(tmp_path / "a.fasta")], tmp_path / "c", BuildOptions(row_group_rows=50)).corpus
    file = corpus.files("train")[0]
    pq.write_table(pq.read_table(corpus.path / file.name), corpus.path / file.name, row_group_size=49)
    with pytest.raises(InputError, match="checksum differs"):
        corpus.check()
    changed = dataclasses.replace(file, sha256=sha256_of(corpus.path / file.name))
    manifest = dataclasses.replace(corpus.manifest, files=(changed, *corpus.manifest.files[1:]))
    with pytest.raises(InputError, match=r"train-00000\.parquet: row groups of other than 50 rows"):
        Corpus(corpus.path, manifest).check()


def test_the_same_input_named_twice_is_read_once(tmp_path: Path) -> None:
    path = pfam(tmp_path / "a.fasta")
    assert build([path, tmp_path / "." / "a.fasta"], tmp_path / "c").read == build([path], tmp_path / "d").read
