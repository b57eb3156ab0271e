"""A sample of labelled data: fewer sequences to train on and to choose by, the same to be judged by."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core.random import seed_of
from raypro.data.corpus import sha256_of, write_manifest
from raypro.data.label_checks import Record, notes_on
from raypro.data.labelled import LabelledData, LabelledManifest, SplitFile
from raypro.data.place import building_folder, require_free, take_place

SAMPLED = ("train", "valid")
"""Splits that are sampled; the others stay whole, so that figures compare with those of all data."""

_SAMPLE = 20  # stream of randomness


def sample(data: LabelledData, out: Path, residues: int, seed: int = 0) -> LabelledData:
    """Return data whose train and valid splits hold at most so many residues each, in sequences drawn at random.

    They are written to ``out``, or taken from there where they are already. A split that holds no more is taken whole.

    Args:
        data: what is sampled.
        out: the folder to make.
        residues: most residues of either split; one sequence is taken even so.
        seed: of the draw.

    Raises:
        InputError: ``out`` holds something else, or cannot be written.
    """
    counts = {file.split: file.rows for file in data.manifest.files}
    drawn = {split: _drawn(data.read(split).lengths, residues, seed, n) for n, split in enumerate(SAMPLED) if split in counts}
    said = "; ".join(f"{split}: {len(rows):,} of {counts[split]:,} sequences" for split, rows in drawn.items())
    note = f"{said}, drawn with seed {seed} from the data of checksum {data.manifest.checksum[:12]}"
    if out.is_dir() and any(out.iterdir()):
        there = LabelledData.open(out)
        if note not in there.manifest.notes:
            raise InputError(f"{out}: another sample; remove it, or choose another name")
        return there
    require_free(out, overwrite=False, manifest=LabelledManifest)
    with building_folder(out) as folder:
        require_free(out, overwrite=False, manifest=LabelledManifest)  # again: another one may have been drawn meanwhile
        new = folder / "data"
        new.mkdir()
        files = [_write(data, file, new, drawn.get(file.split)) for file in data.manifest.files]
        manifest = dataclasses.replace(data.manifest, files=tuple(files))
        write_manifest(new, dataclasses.replace(manifest, notes=(*_notes(LabelledData(new, manifest)), note)))
        take_place(new, out)
    return LabelledData.open(out)


def _drawn(lengths: NDArray[np.int64], residues: int, seed: int, split: int) -> NDArray[np.int64]:
    """Return the rows, in order, of a random sample of at most ``residues``."""
    order = np.random.default_rng(seed_of(seed, _SAMPLE, split)).permutation(len(lengths))
    return np.sort(order[: max(1, np.searchsorted(np.cumsum(lengths[order]), residues, side="right"))])


def _notes(data: LabelledData) -> Iterator[str]:
    """Return what an import would note of the sequences: its notes on all data are not true of a sample."""
    records = []
    for file in data.manifest.files:
        its = data.read(file.split)
        for row, (name, sequence, label) in enumerate(zip(its.ids, its.sequences, its.labels, strict=True), start=1):
            compared = label.tobytes() if isinstance(label, np.ndarray) else label
            records.append(Record(file.file, row, name, file.split, sequence, compared))
    return notes_on(records, data.kind, ())  # a sample may have fewer sequences than there are classes


def _write(data: LabelledData, file: SplitFile, folder: Path, rows: NDArray[np.int64] | None) -> SplitFile:
    if rows is None or len(rows) == file.rows:
        shutil.copyfile(data.path / file.file, folder / file.file)
        return file
    table = pq.read_table(data.path / file.file, partitioning=None).take(rows)
    pq.write_table(table, folder / file.file, compression="zstd")
    residues = int(data.read(file.split).lengths[rows].sum())
    return dataclasses.replace(file, rows=len(rows), residues=residues, sha256=sha256_of(folder / file.file))
