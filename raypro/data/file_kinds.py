"""What kind of file an input is, whether it is packed, and what is between its columns: all from its name, in small letters or capitals."""

import gzip
from pathlib import Path
from typing import BinaryIO, Literal, cast

from raypro.config import InputError

Kind = Literal["fasta", "parquet", "table", "tape json", "tape lmdb"]

_KIND_OF_ENDING: dict[str, Kind] = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas", ".fsa", ".pep", ".seq"), "fasta"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".csv", ".tsv", ".txt"), "table"),
    **dict.fromkeys((".json", ".jsonl"), "tape json"),
    **dict.fromkeys((".lmdb", ".mdb"), "tape lmdb"),
}


def kind_of(path: Path) -> Kind:
    """Return what kind of file ``path`` is, by its name and, where that says nothing, by its first character.

    Raises:
        InputError: there is no such file, or it is of no kind that raypro reads.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    name = unpacked_name(path)
    if path.is_dir():
        if name.endswith(".lmdb") or (path / "data.mdb").exists():
            return "tape lmdb"
        raise InputError(f"{path}: a folder; give the files in it (only TAPE's LMDB folders are read as such)")
    for ending, kind in _KIND_OF_ENDING.items():
        if name.endswith(ending):
            return kind
    try:
        with open_bytes(path) as file:
            first = file.read(1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if first in (b">", b"", b";"):
        return "fasta"
    raise InputError(f"{path}: unknown kind of file; raypro reads FASTA, Parquet, CSV, TSV, and TAPE's JSON and LMDB, named accordingly")


def is_gzip(path: Path) -> bool:
    """Return whether a file is packed by gzip."""
    return path.suffix.lower() == ".gz"


def unpacked_name(path: Path) -> str:
    """Return a file's name in small letters, without the ending that says it is packed."""
    return path.name.lower().removesuffix(".gz")


def delimiter_of(path: Path) -> str:
    """Return what is between the columns of a table: commas in CSV, tabs in the others."""
    return "," if unpacked_name(path).endswith(".csv") else "\t"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file, plain or gzip, to read what is in it."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")
