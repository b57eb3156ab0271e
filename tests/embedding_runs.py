"""Small runs of ``raypro embed`` that tests share."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raypro.cluster import embed
from raypro.cluster.embed import embed_command
from raypro.core.encoders.cpcprot import CPCProtShape
from tests.fine_tuned import save_model
from tests.small import TINY, random_sequences

PATCHES = CPCProtShape(embedding=4, filters=(5, 6, 8), kernels=(4, 6, 3))
WIDTHS = {"transformer": 16, "cpcprot": 8}


def shrink_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of a few sequences."""
    monkeypatch.setattr(embed, "SHARD_SEQUENCES", 9)
    monkeypatch.setattr(embed, "SHARD_RESIDUES", 300)


def proteins(count: int = 60) -> dict[str, str]:
    """Return random proteins by their ids."""
    return {f"p{i}": s for i, s in enumerate(random_sequences(count, 11, 70, seed=5))}


def checkpoint(folder: Path, name: str = "cpcprot") -> Path:
    """Save an untrained model of an encoder."""
    return save_model(folder / name, encoder={"transformer": TINY, "cpcprot": PATCHES}[name])


def run(source: Path, encoder: Path, out: Path, **options: Any) -> Path:
    """Embed in this process, unless told otherwise; return the file."""
    embed_command(source, str(encoder), out, **{"workers": 0, **options})
    return out


def read(path: Path, per_residue: bool = False) -> tuple[list[str], list[np.ndarray]]:
    """Return ids and vectors of a file of any form."""
    if path.suffix == ".parquet":
        table = pq.read_table(path).to_pydict()
        return table["id"], [np.array(vectors, np.float32) for vectors in table["embedding"]]
    if path.suffix == ".npz":
        found = dict(np.load(path))
        ids = found["id"].tolist()
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            found = {name: file[name][:] for name in file}
            ids = [name.decode() for name in found["id"]]
    assert found["embedding"].dtype == np.float32 and set(found) == {"id", "embedding", *(["length"] if per_residue else [])}
    return ids, np.split(found["embedding"], np.cumsum(found["length"])[:-1]) if per_residue else list(found["embedding"])
