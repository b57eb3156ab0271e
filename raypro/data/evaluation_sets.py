"""Evaluation sets: the splits of labelled data that a model is judged by, and their distinct sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.data.labelled import LabelledData


@dataclass(frozen=True)
class EvaluationSet:
    """One split of labelled data."""

    task: str
    """The name of their folder."""
    split: str
    sha256: str
    """Of the split's file."""
    ids: tuple[str, ...]
    """The name of each row."""
    sequences: NDArray[np.int64]
    """Which of the distinct sequences each row has."""

    @property
    def name(self) -> str:
        """What it is called: TASK/SPLIT."""
        return f"{self.task}/{self.split}"


def read_evaluation_sets(folders: Sequence[Path | str], splits: Sequence[str] = ()) -> tuple[list[EvaluationSet], pa.BinaryArray]:
    """Read evaluation sets.

    Args:
        folders: labelled data, as ``raypro task import`` makes them; one that is named twice is read once.
        splits: which splits; all but train where none is named.

    Returns:
        The sets, and the distinct sequences of all of them.

    Raises:
        InputError: a folder holds no labelled data or no such split, or two folders have one name.
    """
    if not folders:
        raise InputError("tasks: none given; name at least one folder of labelled data ('raypro task import' makes them)")
    found = {Path(folder).expanduser().resolve(): LabelledData.open(folder) for folder in folders}
    names = [path.name for path in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"tasks: two folders are called {twice[0]}, and evaluation sets go by that name; rename one of them")
    sets: list[EvaluationSet] = []
    numbers: dict[str, int] = {}
    for path, data in found.items():
        chosen = [split for split in data.splits if (split in splits if splits else split != "train")]
        if not chosen:
            which = f"none of the splits {', '.join(splits)}" if splits else "no evaluation split"
            raise InputError(f"{data.path}: {which}: it has {', '.join(data.splits)}; give other data, or name a split by --splits")
        for split in chosen:
            examples = data.read(split)
            rows = [numbers.setdefault(sequence, len(numbers)) for sequence in examples.sequences]
            checksum = next(file.sha256 for file in data.manifest.files if file.split == split)
            sets.append(EvaluationSet(path.name, split, checksum, tuple(examples.ids), np.array(rows, np.int64)))
    return sets, pa.array([sequence.encode() for sequence in numbers], pa.binary())
