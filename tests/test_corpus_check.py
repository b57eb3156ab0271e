"""What a corpus' check finds, and one line for a file that is missing or damaged, whoever reads it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypro.cluster.corpus import check_command, show_command
from raypro.config import InputError
from raypro.data.build import build
from raypro.data.corpus import Corpus, sha256_of, write_manifest
from raypro.data.rejects import REJECTS_FILE
from tests.small import random_sequences, write_corpus


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus built of 40 sequences, with 3 records left out."""
    folder = tmp_path_factory.mktemp("whole")
    records = [*random_sequences(40, 10, 30), "A-C", "A-D", "A1"]
    (folder / "a.fasta").write_text("".join(f">{n}\n{sequence}\n" for n, sequence in enumerate(records)))
    return build([folder / "a.fasta"], folder / "c").corpus.path


@pytest.fixture
def corpus(whole: Path, tmp_path: Path) -> Corpus:
    """Return a copy to damage."""
    return Corpus.open(shutil.copytree(whole, tmp_path / "c"))


def said(corpus: Corpus, **changes: Any) -> None:
    """Let the manifest say something else."""
    write_manifest(corpus.path, replace(corpus.manifest, **changes))


def rewrite(corpus: Corpus, change: Callable[[pa.Table], pa.Table], **counts: int) -> str:
    """Change the rows of the first file, and its checksum and ``counts`` in the manifest with them."""
    file = corpus.manifest.files[0]
    path = corpus.path / file.name
    pq.write_table(change(pq.read_table(path)), path, row_group_size=corpus.manifest.row_group_rows)
    said(corpus, files=(replace(file, sha256=sha256_of(path), **counts), *corpus.manifest.files[1:]))
    return file.name


def test_a_whole_corpus_passes(corpus: Corpus) -> None:
    check_command(corpus.path)
    corpus.check_files()
    corpus.check_sums()


@pytest.mark.parametrize("field", ["residue_counts", "length_histogram", "rejected"])
def test_counts_that_are_not_those_of_the_files_are_found(corpus: Corpus, field: str) -> None:
    counts = json.loads(getattr(corpus.manifest, field))
    changed = {name: count + 1 if isinstance(count, int) else dict(list(count.items())[1:]) for name, count in counts.items()}
    for text in (json.dumps(changed), "{}", "no JSON"):
        said(corpus, **{field: text})
        Corpus.open(corpus.path).check_sums()  # a run's start counts nothing
        with pytest.raises(InputError, match=rf"manifest\.json: its {field} are not those of the files"):
            check_command(corpus.path)


def test_a_length_that_is_not_its_sequences_is_found(corpus: Corpus) -> None:
    def swap(table: pa.Table) -> pa.Table:
        lengths = table["length"].to_pylist()
        at = next(n for n, length in enumerate(lengths) if length != lengths[0])
        lengths[0], lengths[at] = lengths[at], lengths[0]  # their sum stays
        return table.set_column(2, table.schema.field("length"), pa.array(lengths, pa.int32()))

    name = rewrite(corpus, swap)
    with pytest.raises(InputError, match=f"{name}: a length that is not its sequence's"):
        Corpus.open(corpus.path).check()


def test_letters_that_are_no_residues_are_found(corpus: Corpus) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        sequences = table["sequence"].to_pylist()
        return table.set_column(1, table.schema.field("sequence"), pa.array([sequences[0][:-1] + "-", *sequences[1:]]))

    rewrite(corpus, spoil)
    with pytest.raises(InputError, match="letters in its train split that are no residues"):
        Corpus.open(corpus.path).check()


def test_rows_and_columns_are_those_of_the_manifest(corpus: Corpus) -> None:
    name = rewrite(corpus, lambda table: table.slice(1))
    for check in (Corpus.check, Corpus.check_files):
        with pytest.raises(InputError, match=rf"{name}: \d+ rows, the manifest says"):
            check(Corpus.open(corpus.path))
    rewrite(corpus, lambda table: table.drop(["taxon"]))
    with pytest.raises(InputError, match=f"{name}: its columns are not those of a corpus"):
        Corpus.open(corpus.path).check_files()


def test_a_list_of_rejects_that_is_gone_is_missed_by_the_command_alone(corpus: Corpus) -> None:
    (corpus.path / REJECTS_FILE).unlink()
    corpus.check()  # training goes on without it
    with pytest.raises(InputError, match=rf"{REJECTS_FILE}: missing"):
        check_command(corpus.path)


@pytest.mark.parametrize("damage", ["missing", "cut", "footer", "pages"])
def test_a_damaged_file_is_named_in_one_line(corpus: Corpus, damage: str) -> None:
    name = corpus.manifest.files[0].name
    path = corpus.path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = b"\0" * (len(content) // 2 - 4) + content[len(content) // 2 :]
        path.write_bytes({"cut": content[:-99], "footer": content[:-4] + b"XXXX", "pages": b"PAR1" + middle}[damage])
    readers: list[Callable[[], object]] = [
        lambda: show_command(corpus.path),
        lambda: corpus.read(corpus.row_groups("train"), ["family", "sequence"]),
    ]
    if damage != "pages":
        readers += [corpus.check_files, lambda: corpus.length_range("train")]
    for reader in readers:
        with pytest.raises(InputError, match=rf"{name}: (missing|cannot be read)") as caught:
            reader()
        assert "\n" not in str(caught.value)
    for check in (corpus.check_sums, corpus.check):
        with pytest.raises(InputError, match=rf"{name}: (missing|its checksum)"):
            check()


def test_contacts_that_are_gone_are_missed(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": ["ACD"]})
    said(corpus, contacts="contacts.parquet", contacts_sha256="0")
    for check in (Corpus.check_files, Corpus.check_sums):
        with pytest.raises(InputError, match=r"contacts\.parquet: missing"):
            check(Corpus.open(corpus.path))
