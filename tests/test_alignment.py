"""Alignments and their contacts: reading them, and averaging maps over columns."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from raypro.config import InputError
from raypro.evaluate.alignment import average_over_columns, read_alignment, read_contacts


def test_alignment_by_hand(tmp_path: Path) -> None:
    """Wrapped lines, CRLF, lower case and dots; residues and their columns."""
    path = tmp_path / "family.fasta"
    path.write_bytes(b">one first\r\nAC-\r\nde\r\n\r\n>two\r\n.-XYW\r\n")
    for file in (path, tmp_path / "family.fasta.gz"):
        if file.suffix == ".gz":
            file.write_bytes(gzip.compress(path.read_bytes()))
        alignment = read_alignment(file)
        assert alignment.ids == ("one", "two") and alignment.rows == ("AC-DE", "--XYW") and alignment.width == 5
        assert alignment.sequence(0) == "ACDE" and alignment.columns(0).tolist() == [0, 1, 3, 4]
        assert alignment.sequence(1) == "XYW" and alignment.columns(1).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nACD\n>b\nAC\n", "b: 2 columns"),
        (">a\nAC1\n", "'1' is no residue"),
        ("ACD\n", "line 1"),
        ("\n", "no sequences"),
        (">a\n>b\n", "a: 0 columns"),
        (">a\nAC\u00e9\n", "a: '\u00e9' is no residue"),
    ],
)
def test_what_is_no_alignment_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The row, or the line, that is wrong."""
    path = tmp_path / "family.fasta"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_alignment(path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    """No such file; a gzip cut off in the middle."""
    with pytest.raises(InputError, match=r"none\.fasta: No such file"):
        read_alignment(tmp_path / "none.fasta")
    cut = tmp_path / "cut.fasta.gz"
    cut.write_bytes(gzip.compress(b">a\n" + bytes(np.random.default_rng(0).choice(list(b"ACDEFGHIK"), 5000)))[:1000])
    with pytest.raises(InputError, match="damaged"):
        read_alignment(cut)


def test_contacts_by_hand(tmp_path: Path) -> None:
    """Columns count from 1; pairs beyond 8 angstrom, or too near along the chain to be scored, are no contacts."""
    path = tmp_path / "family.contacts.tsv"
    path.write_text("1\t6\t3.5\n8\t2\t7.999\n1\t8\t8.0\n3\t4\t1.3\n")
    truth = read_contacts(path, 8)
    assert np.argwhere(np.triu(truth.contacts)).tolist() == [[0, 5], [1, 7]]
    np.testing.assert_array_equal(truth.contacts, truth.contacts.T)
    assert np.argwhere(np.triu(read_contacts(path, 8, distance=4.0).contacts)).tolist() == [[0, 5]]
    assert np.argwhere(np.triu(truth.scored)).tolist() == [[0, 5], [0, 6], [0, 7], [1, 6], [1, 7], [2, 7]]


@pytest.mark.parametrize("line", ["1\t9\t3.0", "0\t6\t3.0", "1 6 3.0", "i\tj\tdistance", "1\t6"])
def test_lines_that_are_no_contact_are_named(tmp_path: Path, line: str) -> None:
    """A column outside the alignment, other separators, a header, a missing field."""
    path = tmp_path / "family.contacts.tsv"
    path.write_text(f"1\t6\t3.5\n{line}\n")
    with pytest.raises(InputError, match="line 2"):
        read_contacts(path, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pairs in it"),
        ("\n\n", "no pairs in it"),
        ("1\t6\t8.0\n3\t4\t1.3\n", "no contact below 8 angstrom and 5 or more columns apart"),
    ],
    ids=["empty", "empty lines", "too far or too near"],
)
def test_a_file_without_a_contact_to_find_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A precision of 0 beside 0 by chance would say nothing."""
    path = tmp_path / "family.contacts.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_contacts(path, 8)


def test_average_over_columns_by_hand() -> None:
    """Two sequences that share columns 1 and 3; column 2 is a gap in both; one unknown entry does not count."""
    first = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    second = np.array([[0.0, 5.0, 7.0], [5.0, 0.0, np.nan], [7.0, np.nan, 0.0]])
    mean = average_over_columns([first, second], [np.array([0, 1, 3]), np.array([1, 3, 4])], 5)
    unknown = np.nan
    expected = [
        [0, 1, unknown, 2, unknown],
        [1, 0, unknown, 4, 7],
        [unknown, unknown, unknown, unknown, unknown],
        [2, 4, unknown, 0, unknown],
        [unknown, 7, unknown, unknown, 0],
    ]
    np.testing.assert_array_equal(mean, np.array(expected, dtype=float))


@pytest.mark.parametrize(("family", "rows", "width"), [("PF00014", 13_600, 53), ("PF00595", 36_690, 82)])
def test_real_families(shared_data: Path, family: str, rows: int, width: int) -> None:
    """Two Pfam alignments with their contacts."""
    alignment = read_alignment(shared_data / "msa" / f"{family}.fasta.gz")
    assert len(alignment.rows) == rows and alignment.width == width
    truth = read_contacts(shared_data / "msa" / f"{family}.contacts.tsv", width)
    lines = (shared_data / "msa" / f"{family}.contacts.tsv").read_text().splitlines()
    assert np.triu(truth.contacts).sum() == sum(float(line.split("\t")[2]) < 8.0 for line in lines) > 400
    assert not (truth.contacts & ~truth.scored).any()
