"""Small files with labels, as they are published and as people have them."""

import csv
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from raypro.data.label_import import ImportReport, import_labelled
from raypro.data.label_options import ImportOptions

STABILITY = [
    {"id": "a", "primary": "ACDEF", "protein_length": 5, "stability_score": [1.5], "parent": "x", "topology": "HHH"},
    {"id": "b", "primary": "WYKLM", "protein_length": 5, "stability_score": [-0.25], "parent": "y", "topology": "EEH"},
]


def run(names: list[Any], out: Path, **options: Any) -> ImportReport:
    return import_labelled([str(name) for name in names], out, ImportOptions(**options))


def to_json(path: Path, records: list[Any]) -> Path:
    data = json.dumps(records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def to_lmdb(path: Path, records: list[Any]) -> Path:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed (pip install 'raypro[lmdb]')")
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for number, record in enumerate(records):
            transaction.put(str(number).encode(), record if isinstance(record, bytes) else pickle.dumps(record))
        transaction.put(b"num_examples", pickle.dumps(len(records)))
    return path


def to_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    delimiter = "\t" if ".tsv" in path.name else ","
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def rejects(report: ImportReport) -> list[dict[str, str]]:
    with (report.data.path / "rejects.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
