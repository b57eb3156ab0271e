"""Alignments in every format that families come in, and files that are none."""

import gzip
from pathlib import Path

import pytest

from raypro.config import InputError
from raypro.evaluate.alignment import read_alignment

A3M = """#A3M#
>ss_pred by some program
CCHHE
>ss_conf
98765
>query some words
ACDEF
>hit/1-7
AgCD-yyF
>other
-C.DEk
F
"""
STOCKHOLM = """# STOCKHOLM 1.0
#=GF ID   Kunitz
#=GF RA   M\u00fcller J

#=GS one/1-5 AC P12345
one/1-5    ACd
two        .C-
#=GR two SS ...
#=GC SS_cons HHH

one/1-5    eF
two        EF
//
"""


@pytest.mark.parametrize("name", ["family.a3m", "family.A3M.gz", "family.a2m", "family.fasta"])
def test_insertions_of_a3m_are_left_out(tmp_path: Path, name: str) -> None:
    """Whatever the file is called, where only that makes the rows one width; annotation and comments are no sequences."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(A3M.encode()) if name.endswith(".gz") else A3M.encode())
    alignment = read_alignment(path)
    rows = dict(zip(alignment.ids, alignment.rows, strict=True))
    assert rows == {"query": "ACDEF", "hit/1-7": "ACD-F", "other": "-CDEF"}
    assert alignment.ids[0] == "query" and alignment.width == 5


def test_lower_case_is_an_insertion_in_a3m_and_a_residue_in_aligned_fasta(tmp_path: Path) -> None:
    """The same text, of one width either way, means two things: the name decides."""
    text = ">a\nACdE\n>b\nA-dE\n"
    for name, expected in (("x.a3m", ("ACE", "A-E")), ("x.fasta", ("ACDE", "A-DE"))):
        (tmp_path / name).write_text(text)
        assert read_alignment(tmp_path / name).rows == expected


@pytest.mark.parametrize("name", ["family.sto", "family.txt.gz"])
def test_stockholm_blocks_are_put_together(tmp_path: Path, name: str) -> None:
    """Wrapped rows, annotation of four kinds, a name with a letter beyond ASCII, Windows line ends."""
    text = STOCKHOLM.replace("\n", "\r\n").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    alignment = read_alignment(path)
    assert alignment.ids == ("one/1-5", "two") and alignment.rows == ("ACDEF", "-C-EF")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.a3m", ">a\nACD\n>b\nACDE\n", "x.a3m, b: 4 columns where the first row has 3"),
        ("x.a3m", ">a\nacd\n", "x.a3m, a: 0 columns"),
        ("x.a3m", ">ss_pred\nHHH\n", "no sequences"),
        ("x.a3m", ">a\nACD\n>b\nA*D\n", r"x.a3m, b: '\*' is no residue"),
        ("x.a3m", "# only a comment\n", "no sequences"),
        ("x.fasta", ">a\nACD\n>b\nAcD-E\n", "x.fasta, b: 5 columns"),
        ("x.sto", "# STOCKHOLM 1.0\n//\n", "no sequences"),
        ("x.sto", "# STOCKHOLM 1.0\na ACD\n", "no '//'"),
        ("x.sto", "# STOCKHOLM 1.0\na ACD\nb AC\n//\n", "x.sto, b: 2 columns"),
        ("x.sto", "# STOCKHOLM 1.0\na ACD\nb\n//\n", "line 3: 'b' is not a name and its row"),
        ("x.sto", "# STOCKHOLM 1.0\na ACD 12\n//\n", "line 2"),
        ("x.sto", "# STOCKHOLM 1.0\na AC7\n//\n", "x.sto, a: '7' is no residue"),
        ("x.sto", "# STOCKHOLM 1.0\na ACD\n//\n# STOCKHOLM 1.0\nb ACD\n//\n", "line 4: another alignment"),
        ("x.sto", "CLUSTAL W\n\na ACD\n", "line 1: text before the first '>' header"),
        ("x.a3m", "", "no sequences"),
        ("x.a3m", "\x00\x01\x02", "line 1"),
    ],
)
def test_what_is_no_alignment_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    """File, and row or line, in one line."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_alignment(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
