"""Synthetic protein families with planted, known contacts: a corpus on which learning co-evolution can be tried in minutes.

Each family is a Potts model over the 20 standard amino acids,

    P(x) ~ exp( sum_i h_i(x_i) + sum_{(i,j) in contacts} J(x_i, x_j) ),

with a contact map of protein-like form (helices, strands paired into a sheet), fields ``h`` of its own and one
residue-residue matrix ``J`` that all families share, as real residues have the same chemistry in every fold.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.data.corpus import FORMAT_VERSION, SCHEMA, Corpus, CorpusFile, Manifest, open_parquet, sha256_of, write_manifest
from raypro.data.place import building_folder, require_free, take_place
from raypro.data.statistics import Statistics
from raypro.data.writer import write_split

CONTACTS_FILE = "contacts.parquet"
CONTACTS_SCHEMA = pa.schema(
    [
        pa.field("family", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("contact_i", pa.list_(pa.int32()), nullable=False),
        pa.field("contact_j", pa.list_(pa.int32()), nullable=False),
    ]
)

SHORTEST, LONGEST = 16, 1024
RESIDUES_PER_ELEMENT = 8
"""One helix or strand, with its share of the loops, takes some 8 residues of the chain."""
STRAND, HELIX = 5, 8
"""Residues of a strand and of a helix."""
SHORTEST_LOOP = 2
VALID_SHARE = 0.05
SWEEPS = 20
"""Gibbs sweeps from a uniform start. Each sequence has a chain of its own, so only the relaxation matters, and it takes some 5."""


@dataclass(frozen=True)
class Family:
    """A synthetic family: its Potts model."""

    name: str
    contacts: NDArray[np.int64]
    """[C, 2] contacts, 0-based, i < j, sorted."""
    fields: NDArray[np.float32]
    """[L, 20] field of each amino acid at each site."""


def planted_contacts(length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the contacts [C, 2] (0-based, i < j, sorted) of a random fold of ``length`` residues.

    The chain is a row of secondary-structure elements joined by loops, one in four of them a helix. A helix has the contacts
    (i, i + 4). The strands form one sheet, in random order: neighbours in the sheet are paired antiparallel (i + j constant) where
    they follow each other along the chain (a hairpin), and parallel (j - i constant) or antiparallel otherwise.
    """
    elements = max(2, length // RESIDUES_PER_ELEMENT)
    helical = np.zeros(elements, dtype=bool)
    helical[rng.choice(elements, elements // 4, replace=False)] = True
    sizes = np.where(helical, HELIX, STRAND)
    spare = length - int(sizes.sum()) - SHORTEST_LOOP * (elements - 1)
    loops = rng.multinomial(spare, np.full(elements + 1, 1 / (elements + 1)))  # the first and the last are the chain's ends
    loops[1:-1] += SHORTEST_LOOP
    starts = np.cumsum(loops[:-1]) + np.concatenate([[0], np.cumsum(sizes[:-1])])
    contacts = [(i, i + 4) for start in starts[helical] for i in range(start, start + HELIX - 4)]
    sheet = rng.permutation(np.flatnonzero(~helical))
    for first, second in np.sort(np.stack([sheet[:-1], sheet[1:]], axis=1), axis=1):
        antiparallel = second == first + 1 or rng.random() < 0.5
        for k in range(STRAND):
            contacts.append((starts[first] + k, starts[second] + (STRAND - 1 - k if antiparallel else k)))
    return np.array(sorted(contacts), dtype=np.int64)


def residue_couplings(strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a random symmetric matrix J [20, 20] of couplings, balanced so that exp(J) has equal row sums.

    ``strength`` is the standard deviation before balancing. Balanced, a contact says nothing about the composition of its two
    sites, only about their combination: in 3 nats a residue, its mutual information is 1.1 nats at strength 2 and 1.5 at 3.
    """
    couplings = rng.normal(0.0, strength, (20, 20))
    couplings = (couplings + couplings.T) / np.sqrt(2.0)
    for _ in range(200):  # Sinkhorn's iteration, symmetric
        excess = np.log(np.exp(couplings).mean(axis=1)) / 2
        couplings = couplings - excess[:, None] - excess[None, :]
    return couplings.astype(np.float32)


def sample_potts(
    family: Family, couplings: NDArray[np.float32], sequences: int, rng: np.random.Generator, sweeps: int = SWEEPS
) -> NDArray[np.uint8]:
    """Return classes [sequences, L] (indices into STANDARD) drawn from a family by Gibbs sampling, one chain a sequence, all at once."""
    length = len(family.fields)
    neighbours: list[list[int]] = [[] for _ in range(length)]
    for i, j in family.contacts.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    classes = rng.integers(0, 20, (length, sequences), dtype=np.uint8)
    for _ in range(sweeps):
        uniform = rng.random((length, sequences), dtype=np.float32)
        for site in range(length):
            weights = np.repeat(family.fields[site][None], sequences, axis=0)
            for other in neighbours[site]:
                weights += couplings[classes[other]]
            cumulative = np.cumsum(np.exp(weights, out=weights), axis=1, out=weights)
            # One draw from each chain's conditional distribution, by inversion; the last class takes what rounding leaves.
            threshold = uniform[site] * cumulative[:, -1]
            classes[site] = (cumulative[:, :-1] < threshold[:, None]).sum(axis=1, dtype=np.uint8)
    return np.ascontiguousarray(classes.T)


def random_families(count: int, length: int, field_strength: float, rng: np.random.Generator) -> list[Family]:
    """Return ``count`` families of different folds, in each of which most contacts are at least 6 residues apart.

    Raises:
        InputError: chains so short do not have so many folds.
    """
    folds: dict[bytes, NDArray[np.int64]] = {}
    for _ in range(100 * count):
        contacts = planted_contacts(length, rng)
        if 2 * np.count_nonzero(contacts[:, 1] - contacts[:, 0] >= 6) > len(contacts):
            folds.setdefault(contacts.tobytes(), contacts)
        if len(folds) == count:
            break
    else:
        raise InputError(f"length: {length} residues do not have {count} different folds; give longer sequences or fewer families")
    fields = rng.normal(0.0, field_strength, (count, length, 20)).astype(np.float32)
    return [Family(f"synthetic-{k:02d}", contacts, fields[k]) for k, contacts in enumerate(folds.values())]


def build_synthetic(
    out: Path,
    *,
    families: int = 4,
    length: int = 32,
    sequences: int = 4000,
    held_out: int = 1,
    seed: int = 0,
    row_group_rows: int = 256,
    coupling_strength: float = 3.0,
    field_strength: float = 1.0,
    overwrite: bool = False,
) -> Corpus:
    """Build a corpus of synthetic families, with their true contacts in ``contacts.parquet``. The same arguments give the same data.

    Args:
        out: folder of the corpus. It appears when everything is written; an interrupted build leaves nothing there.
        families: families to train on; 5 % of their sequences, by a seeded hash of the sequence, are the validation split.
        length: residues of every sequence.
        sequences: sequences of each family.
        held_out: further families, which are the test split.
        seed: of everything random.
        row_group_rows: rows of a row group.
        coupling_strength: standard deviation of the couplings between residues in contact (:func:`residue_couplings`).
        field_strength: standard deviation of the fields.
        overwrite: replace a corpus that is there already.

    Raises:
        InputError: an impossible number, or ``out`` is already there.
    """
    recipe = {name: value for name, value in locals().items() if name not in ("out", "overwrite")}
    _check(families, length, sequences, held_out, row_group_rows)
    out = Path(out).expanduser().absolute()
    require_free(out, overwrite)
    rng = np.random.default_rng([seed, 0])
    couplings = residue_couplings(coupling_strength, rng)
    members = random_families(families + held_out, length, field_strength, rng)
    tables = [_table(f, sample_potts(f, couplings, sequences, np.random.default_rng([seed, 2, k]))) for k, f in enumerate(members)]

    with building_folder(out) as folder:
        require_free(out, overwrite)  # again: another build may have ended meanwhile
        new = folder / "corpus"
        new.mkdir()
        _write_contacts(new / CONTACTS_FILE, members, length)
        _write(new, _splits(tables[:families], tables[families:], seed), recipe)
        take_place(new, out)
    return Corpus.open(out)


def read_contacts(corpus: Corpus) -> dict[str, NDArray[np.bool_]]:
    """Return the true contact map [L, L] (symmetric) of each family of a corpus; nothing where the corpus has no contacts."""
    maps: dict[str, NDArray[np.bool_]] = {}
    if corpus.manifest.contacts:
        with open_parquet(corpus.path / corpus.manifest.contacts) as file:
            families = file.read().to_pylist()
        for row in families:
            truth = np.zeros((row["length"], row["length"]), dtype=bool)
            truth[row["contact_i"], row["contact_j"]] = True
            maps[row["family"]] = truth | truth.T
    return maps


def _check(families: int, length: int, sequences: int, held_out: int, row_group_rows: int) -> None:
    for name, value, least in (
        ("families", families, 1),
        ("sequences", sequences, 1),
        ("held_out", held_out, 0),
        ("row_group_rows", row_group_rows, 1),
    ):
        if value < least:
            raise InputError(f"{name}: {value} is too few; give {least} or more")
    if not SHORTEST <= length <= LONGEST:
        raise InputError(f"length: {length} residues do not make a fold; give {SHORTEST} to {LONGEST}")


def _table(family: Family, classes: NDArray[np.uint8]) -> pa.Table:
    """Return the rows of SCHEMA for sequences given as classes [N, L]."""
    rows, length = classes.shape
    letters = np.frombuffer(STANDARD.encode(), np.uint8)[classes].tobytes().decode()
    nothing = pa.nulls(rows, pa.string())
    columns = {
        "id": pa.array([f"{family.name}/{row}" for row in range(rows)]),
        "sequence": pa.array([letters[start : start + length] for start in range(0, rows * length, length)]),
        "length": pa.array(np.full(rows, length, dtype=np.int32)),
        "family": pa.array([family.name] * rows),
        "clan": nothing,
        "taxon": nothing,
    }
    return pa.table(columns, schema=SCHEMA)


def _splits(trained: list[pa.Table], held_out: list[pa.Table], seed: int) -> dict[str, pa.Table]:
    """Return the rows of each split, shuffled."""
    rows = pa.concat_tables(trained)
    valid = np.array([_in_validation(sequence, seed) for sequence in rows["sequence"].to_pylist()])
    splits = {"train": rows.filter(~valid), "valid": rows.filter(valid)}
    if held_out:
        splits["test"] = pa.concat_tables(held_out)
    rng = np.random.default_rng([seed, 1])
    return {split: table.take(rng.permutation(table.num_rows)) for split, table in splits.items()}


def _in_validation(sequence: str, seed: int) -> bool:
    digest = hashlib.blake2b(sequence.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest) < VALID_SHARE * 2**64


def _write(folder: Path, splits: dict[str, pa.Table], recipe: dict[str, Any]) -> None:
    """Write the splits, and the manifest that makes of them and the contacts in ``folder`` a corpus."""
    families, length, sequences, held_out, seed = (recipe[name] for name in ("families", "length", "sequences", "held_out", "seed"))
    statistics = Statistics()
    files: list[CorpusFile] = []
    for split, table in splits.items():
        files += write_split(folder, split, [table], recipe["row_group_rows"], statistics=statistics)
    manifest = Manifest(
        version=FORMAT_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        row_group_rows=recipe["row_group_rows"],
        files=tuple(files),
        split_rule=f"whole families held out as test: {held_out}; valid: {VALID_SHARE:.0%} of the rest by a seeded hash ({seed})",
        sources=(f"synthetic: Potts models of {families + held_out} families of {length} residues, {sequences} sequences each",),
        options=json.dumps(recipe),
        rejected="{}",
        residue_counts=statistics.residue_counts(),
        length_histogram=statistics.length_histogram(),
        contacts=CONTACTS_FILE,
        contacts_sha256=sha256_of(folder / CONTACTS_FILE),
    )
    write_manifest(folder, manifest)


def _write_contacts(path: Path, families: list[Family], length: int) -> None:
    columns = {
        "family": [f.name for f in families],
        "length": [length] * len(families),
        "contact_i": [f.contacts[:, 0].tolist() for f in families],
        "contact_j": [f.contacts[:, 1].tolist() for f in families],
    }
    pq.write_table(pa.table(columns, schema=CONTACTS_SCHEMA), path)
