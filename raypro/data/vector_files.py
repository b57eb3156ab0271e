"""Files of embeddings: parts that a restart finds again, and what they are joined into: Parquet, NumPy's .npz or HDF5.

One vector a sequence, in the order of the input:

    Parquet      id (string), embedding (list of D float32, of fixed size)
    .npz, HDF5   id [n], embedding [n, D] float32

One vector a residue:

    Parquet      id (string), embedding (list, as long as the sequence, of lists of D float32)
    .npz, HDF5   id [n], length [n] int64, embedding [R, D] float32: the residues of the first sequence, then of the second, and so on

Memory is needed for one part at a time. Legend: n sequences, R residues of all, D width.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raypro.config import InputError

VECTOR_ENDINGS = (".parquet", ".npz", ".h5")
_OLDEST = (1980, 1, 1, 0, 0, 0)  # a zip without the time of day: equal vectors are equal files


def require_library(path: Path) -> None:
    """Raise InputError if ``path`` is an HDF5 file and there is no h5py to write it."""
    if path.suffix == ".h5":
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise InputError(f"{path}: HDF5 needs h5py: pip install 'raypro[hdf5]', or end the name in .parquet or .npz") from None


def write_part(path: Path, ids: pa.ChunkedArray, vectors: NDArray[np.float32], lengths: NDArray[np.int64] | None) -> None:
    """Write some sequences' vectors, under a temporary name that is renamed.

    Args:
        path: the part.
        ids: [n].
        vectors: [n, D], or [R, D] with ``lengths``.
        lengths: [n] residues of each sequence, or None for one vector a sequence.

    Raises:
        InputError: it cannot be written (a full disk).
    """
    embedding: pa.Array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    if lengths is not None:
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        embedding = pa.ListArray.from_arrays(pa.array(offsets), embedding)
    table = pa.table({"id": ids.cast(pa.string()), "embedding": embedding})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _one_line(path):
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        os.replace(temporary, path)


def join_parts(parts: Sequence[Path], temporary: Path, out: Path) -> None:
    """Join the parts, in their order, to the file ``out``, which is written as ``temporary`` and then renamed.

    Raises:
        InputError: it cannot be written (a full disk).
    """
    write = {".parquet": _write_parquet, ".npz": _write_npz, ".h5": _write_hdf5}[out.suffix]
    with _one_line(out):
        write(temporary, parts)
        os.replace(temporary, out)


def _tables(parts: Iterable[Path]) -> Iterator[pa.Table]:
    for part in parts:
        with pa.memory_map(str(part)) as file:
            yield pa.ipc.open_file(file).read_all()


def _write_parquet(path: Path, parts: Sequence[Path]) -> None:
    schema = next(_tables(parts)).schema
    # Neither a dictionary nor compression makes random mantissas smaller.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for table in _tables(parts):
            writer.write_table(table)


def _write_npz(path: Path, parts: Sequence[Path]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape, dtype, chunks in _arrays(parts):
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _OLDEST), "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks():
                    file.write(np.ascontiguousarray(chunk, dtype).data.cast("B") if chunk.size else b"")


def _write_hdf5(path: Path, parts: Sequence[Path]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, shape, dtype, chunks in _arrays(parts):
            data = file.create_dataset(name, shape, h5py.string_dtype() if name == "id" else dtype)
            start = 0
            for chunk in chunks():
                data[start : start + len(chunk)] = chunk.astype(object) if name == "id" else chunk
                start += len(chunk)


Chunks = Callable[[], Iterator[NDArray[Any]]]


def _arrays(parts: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...], np.dtype[Any], Chunks]]:
    """Yield each array's name, shape and type, and what gives it part by part."""
    rows = vectors = longest = width = 0
    per_residue = False
    for table in _tables(parts):
        found = _vectors(table)
        rows, vectors, width = rows + table.num_rows, vectors + len(found), found.shape[1]
        longest = max(longest, pc.max(pc.utf8_length(table["id"])).as_py())
        per_residue = pa.types.is_list(table.schema.field("embedding").type)
    text = np.dtype(f"<U{max(1, longest)}")
    yield "id", (rows,), text, lambda: (np.array(table["id"].to_pylist(), text) for table in _tables(parts))
    if per_residue:
        yield "length", (rows,), np.dtype(np.int64), lambda: (_lengths(table) for table in _tables(parts))
    yield "embedding", (vectors, width), np.dtype(np.float32), lambda: map(_vectors, _tables(parts))


def _vectors(table: pa.Table) -> NDArray[np.float32]:
    """Return a part's vectors [n or R, D], as they lie in the file."""
    embedding = table["embedding"].chunk(0)
    inner = embedding.values if pa.types.is_list(embedding.type) else embedding
    return inner.flatten().to_numpy().reshape(len(inner), inner.type.list_size)


def _lengths(table: pa.Table) -> NDArray[np.int64]:
    return np.diff(table["embedding"].chunk(0).offsets.to_numpy()).astype(np.int64)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or str(error).splitlines()[0]})") from None
