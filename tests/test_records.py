"""Headers, clans and the cleaning of sequences, and why a record is rejected."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from raypro.config import InputError
from raypro.data.headers import parse_headers, read_clans, with_clans
from raypro.data.records import RECORDS, Limits, clean


def headers(*texts: str | bytes) -> list[tuple]:
    ids, families, taxa = parse_headers(pa.array([t if isinstance(t, bytes) else t.encode() for t in texts], pa.binary()))
    return list(zip(ids.to_pylist(), families.to_pylist(), taxa.to_pylist(), strict=True))


def test_headers() -> None:
    assert headers(
        "A0A0V1MAN1_9BILA/990-1042 A0A0V1MAN1.1 PF00014.1;Kunitz_BPTI;",
        "UniRef50_A0A5A9P0L4 peptide chain n=1 Tax=Triplophysa tibetana TaxID=1572043 RepID=A0A5A9P0L4_9TELE",
        "sp|P00193|FER_PEPAS Ferredoxin OS=Peptostreptococcus asaccharolyticus PE=1 SV=1",
        "alone",
        "",
        "X/1-2 X.1 PF12;Short;",
        "X/1-2 X.1 PF0001A.1;Letter;",
        "PF00014.1;no_id_before;",
        "X/1-2 X.1 PF000145.1;SixDigits;",
        "UniRef90_Q n=2 Tax=unknown RepID=Q",
        "other TaxID=9606",
        "UniRef100_P TaxID=562",
        "é".encode("latin-1") + b"x PF00014.1;",
    ) == [
        ("A0A0V1MAN1_9BILA/990-1042", "PF00014", None),
        ("UniRef50_A0A5A9P0L4", None, "1572043"),
        ("sp|P00193|FER_PEPAS", None, None),
        ("alone", None, None),
        ("", None, None),
        ("X/1-2", None, None),
        ("X/1-2", None, None),
        ("PF00014.1;no_id_before;", None, None),
        ("X/1-2", None, None),
        ("UniRef90_Q", None, None),
        ("other", None, None),
        ("UniRef100_P", None, "562"),
        ("�x", "PF00014", None),
    ]
    assert headers("a", "b") == [("a", None, None), ("b", None, None)]


@pytest.mark.parametrize("packed", [False, True])
def test_clans(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / f"Pfam-A.clans.tsv{'.gz' if packed else ''}"
    text = "PF00001\tCL0192\tGPCR_A\t7tm_1\tReceptor\nPF00014\t\t\tKunitz_BPTI\tKunitz\nPF00595\tCL0466\tPDZ\tPDZ\tPDZ \xe9\n"
    data = text.encode("latin-1")  # a description that is no UTF-8 harms no clan
    path.write_bytes(gzip.compress(data) if packed else data)
    rows = [
        {"id": str(i), "sequence": b"A", "family": family, "clan": clan, "taxon": None, "line": i}
        for i, (family, clan) in enumerate([("PF00595", None), ("PF00014", None), (None, None), ("PF00001", "mine")])
    ]
    found = with_clans(pa.Table.from_pylist(rows, RECORDS), read_clans(path))
    assert found["clan"].to_pylist() == ["CL0466", None, None, "mine"]
    assert found.schema.equals(RECORDS)


def test_clans_of_another_form_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clans.tsv"
    path.write_text("family,clan\n")
    with pytest.raises(InputError, match=r"clans\.tsv: line 1: .*PFxxxxx"):
        read_clans(path)
    (tmp_path / "cut.tsv.GZ").write_bytes(gzip.compress(b"PF00001\tCL0192\n")[:-9])
    with pytest.raises(InputError, match=r"cut\.tsv\.GZ: cannot be read"):
        read_clans(tmp_path / "cut.tsv.GZ")
    with pytest.raises(InputError, match="no such file"):
        read_clans(tmp_path / "none.tsv")


def cleaned(*sequences: str, limits: Limits = Limits()) -> tuple[list[str], list[tuple[int, str]]]:  # noqa: B008 - frozen
    rows = [{"id": str(i), "sequence": s.encode(), "family": None, "clan": None, "taxon": None, "line": i} for i, s in enumerate(sequences)]
    accepted, rejects = clean(pa.Table.from_pylist(rows, RECORDS), limits)
    assert accepted.num_rows + rejects.num_rows == len(sequences)
    return [s.decode() for s in accepted["sequence"].to_pylist()], [(r["line"], r["cause"].split()[0]) for r in rejects.to_pylist()]


def test_cleaning_and_causes() -> None:
    assert cleaned("ACDY", "WWW") == (["ACDY", "WWW"], [])
    assert cleaned("acDy*", "A C\tD ", "BZXUO", "*", "MK*") == (["ACDY", "ACD", "BZXUO", "MK"], [(3, "no")])
    assert cleaned("AC-D", "A.C", "A*C", "A1", "AJ", "aj", "A>C", "AC**", "", "AÄ") == (
        [],
        list(enumerate(["gap", "gap", "stop", "digit", "letter", "letter", "another", "stop", "no", "another"])),
    )
    assert cleaned("AC", "ACD", "ACDE", "ACDEF", limits=Limits(3, 4)) == (["ACD", "ACDE"], [(0, "shorter"), (3, "longer")])
    assert cleaned("A-1", "11-", limits=Limits(9)) == ([], [(0, "gap"), (1, "digit")])
    assert cleaned() == ([], [])


def test_cleaning_keeps_the_other_columns_beside_their_sequence() -> None:
    rows = [
        {"id": f"i{n}", "sequence": s, "family": f"f{n}", "clan": None, "taxon": str(n), "line": n}
        for n, s in enumerate([b"a", b"-", b"c*"])
    ]
    accepted, _ = clean(pa.Table.from_pylist(rows, RECORDS).slice(1), Limits())
    assert accepted.to_pylist() == [{**rows[2], "sequence": b"C"}]
