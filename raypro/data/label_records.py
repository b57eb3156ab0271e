"""From a raw record to a labelled sequence: which fields hold what, and the causes for which a record is rejected.

TAPE's encodings (Rao et al. 2019; ``vocabs.py`` of its first release): three states of secondary structure 0 = H helix, 1 = E strand,
2 = C other; eight states 0 to 7 = G, H, I, B, E, S, T, C, the order of NetSurfP-2.0 (Klausen et al. 2019), so that the first three
are helix and the next two strand. ProteinNet's coordinates are C-beta's, in angstrom. Legend: L residues.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raypro.core.batch import ContactLabel
from raypro.data.label_arrays import UNSCORED
from raypro.data.tape import text_of

Kind = Literal["regression", "classification", "residue_classification", "contacts"]
TaskName = Literal["stability", "fluorescence", "remote_homology", "secondary_structure", "secondary_structure_8", "contacts"]

CONTACT_ANGSTROM = 8.0
"""Two residues closer than this are in contact."""
MISSING_ELSEWHERE = ("na", "n/a", "none", "null")
"""What other programs write where there is no label, in small letters; it may also be the name of a class."""
_LONGEST_NAME = 200
_LISTED = re.compile(r"[-+.\de\s,]*")
"""A list of numbers as text, as tables without lists have it: with blanks, commas or both between them, in brackets or without."""


@dataclass(frozen=True)
class Form:
    """Which fields hold what, by the first name that a file has, and how labels are to be read."""

    kind: Kind
    label: tuple[str, ...] = ("label",)
    mask: tuple[str, ...] = ()
    """Holds 1 for each residue that is scored, 0 for others; may be absent."""
    sequence: tuple[str, ...] = ("primary", "sequence")
    classes: tuple[str, ...] = ()
    """The classes, where they are known beforehand; a number in the data is a place among them."""
    prefix: str = ""
    """How the names of TAPE's files begin."""


TASKS: dict[TaskName, Form] = {
    "stability": Form("regression", ("stability_score", "label"), prefix="stability"),
    "fluorescence": Form("regression", ("log_fluorescence", "label"), prefix="fluorescence"),
    "remote_homology": Form("classification", ("fold_label", "label"), prefix="remote_homology"),
    "secondary_structure": Form(
        "residue_classification", ("ss3", "label"), ("valid_mask",), classes=tuple("HEC"), prefix="secondary_structure"
    ),
    "secondary_structure_8": Form(
        "residue_classification", ("ss8", "label"), ("valid_mask",), classes=tuple("GHIBESTC"), prefix="secondary_structure"
    ),
    "contacts": Form("contacts", ("tertiary", "contact_i"), ("valid_mask", "resolved"), prefix="proteinnet"),
}
KIND_FORMS: dict[Kind, Form] = {
    "regression": Form("regression"),
    "classification": Form("classification"),
    "residue_classification": Form("residue_classification"),
    "contacts": Form("contacts", ("contact_i", "tertiary"), ("resolved", "valid_mask")),
}


class Rejected(Exception):
    """A record that is not used: its cause, one of few, and the detail."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.detail = cause, detail


def label_of(form: Form, fields: Mapping[str, Any], label: str, mask: str | None, length: int) -> Any:
    """Return the label of a record: a number, a class' name, a string [L] of class letters, or a ContactLabel.

    Args:
        form: how labels are to be read.
        fields: the record.
        label: the field of the label.
        mask: the field of the mask, if there is one.
        length: residues L of its sequence.

    Raises:
        Rejected: there is no label, or one that cannot be.
    """
    value = fields.get(label)
    if value is None:
        raise Rejected("no label")
    if form.kind == "regression":
        return _number(value)
    if form.kind == "classification":
        return _class_name(value)
    scored = None if mask is None else _mask(fields.get(mask), length)
    if form.kind == "residue_classification":
        return _residue_classes(value, scored, length, form.classes)
    if label == "contact_i":
        return _listed_contacts(value, fields.get("contact_j"), scored, length)
    return _near(value, scored, length)


def _single(value: Any) -> Any:
    """TAPE keeps a number as a list of one."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value


def _number(value: Any) -> float:
    value = _single(value)
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):  # Python reads 1_000 as a number
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Rejected("no label" if isinstance(value, str) and not value.strip() else "label that is no number", _short(value)) from None
    if not math.isfinite(number):
        raise Rejected("label that is not finite", _short(value))
    return number


def _class_name(value: Any) -> str:
    name = _text(value).strip()
    if name.lower() in ("", "nan"):
        raise Rejected("no label")
    if len(name) > _LONGEST_NAME:
        raise Rejected("label that is no class", _short(name))
    if not name.isprintable():
        raise Rejected("label with control characters", _short(name))
    return name


def _text(value: Any) -> str:
    """Return the name of a class that is text or a number; 3.0 is called 3, as it is where no number is missing."""
    value = _single(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise Rejected("label that is no class", _short(value))
    return str(value)


def _residue_classes(value: Any, scored: NDArray[np.bool_] | None, length: int, classes: Sequence[str]) -> str:
    """Return the class letter of each residue, ``-`` where it is not scored."""
    items = list(value.strip("\r\n")) if isinstance(value, str) else [_text(item) for item in _listed(value)]
    if len(items) != length:
        raise Rejected("label of another length than its sequence", f"{len(items)} labels, {length} residues")
    if scored is not None:
        items = [item if its else UNSCORED for item, its in zip(items, scored, strict=True)]
    letters = {item: _letter(item, classes) for item in dict.fromkeys(items)}
    if set(letters) == {UNSCORED}:
        raise Rejected("no residue is scored")
    return "".join(letters[item] for item in items)


def _letter(item: str, classes: Sequence[str]) -> str:
    if classes and len(item) < 4 and item.isdecimal() and int(item) < len(classes):
        return classes[int(item)]
    if classes and item not in (*classes, UNSCORED):
        raise Rejected("unknown class", _short(item))
    if len(item) != 1 or not "!" <= item <= "~":
        raise Rejected("label that is no class letter", _short(item))
    return item


def _mask(value: Any, length: int) -> NDArray[np.bool_]:
    items = list(value.strip()) if isinstance(value, str) else _listed(value)
    if len(items) != length:
        raise Rejected("mask of another length than its sequence", f"{len(items)} values, {length} residues")
    known = {"0": False, "1": True, "False": False, "True": True, "0.0": False, "1.0": True}
    try:
        return np.array([known[text_of(item)] for item in items], dtype=bool)
    except KeyError as error:
        raise Rejected("mask of other values than 0 and 1", _short(error.args[0])) from None


def _listed_contacts(first: Any, second: Any, resolved: NDArray[np.bool_] | None, length: int) -> ContactLabel:
    """Contacts as lists of their residues, counted from 0, in either order."""
    try:
        pairs = np.array([np.array(_numbers(places), float) for places in (first, second)]).T.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise Rejected("contacts that are no pairs of residues") from None
    wrong = (pairs < 0) | (pairs >= length) | (pairs != np.floor(pairs)) | (pairs == pairs[:, ::-1])
    if wrong.any():
        pair = pairs[np.flatnonzero(wrong.any(axis=1))[0]]
        raise Rejected("contact outside the sequence", f"{pair[0]:g} with {pair[1]:g} of {length} residues, counted from 0")
    return _contact_label(pairs.astype(np.int32), np.ones(length, bool) if resolved is None else resolved)


def _near(value: Any, resolved: NDArray[np.bool_] | None, length: int) -> ContactLabel:
    """Contacts out of coordinates [L, 3] (or flat), in angstrom."""
    try:
        coordinates = np.asarray(value, float).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise Rejected("coordinates that are no numbers") from None
    if len(coordinates) != 3 * length:
        raise Rejected("label of another length than its sequence", f"{len(coordinates)} coordinates, {length} residues")
    coordinates = coordinates.reshape(length, 3)
    resolved = np.ones(length, bool) if resolved is None else resolved
    known = np.flatnonzero(resolved)
    if not np.isfinite(coordinates[known]).all():
        raise Rejected("label that is not finite", "a coordinate of a resolved residue")
    near = cKDTree(coordinates[known]).query_pairs(CONTACT_ANGSTROM, output_type="ndarray") if len(known) else np.zeros((0, 2), int)
    pairs = known[near]
    closer = np.linalg.norm(coordinates[pairs[:, 0]] - coordinates[pairs[:, 1]], axis=1) < CONTACT_ANGSTROM
    return _contact_label(pairs[closer].astype(np.int32), resolved)


def _contact_label(pairs: NDArray[np.int32], resolved: NDArray[np.bool_]) -> ContactLabel:
    """Return the pairs in order, each once, without those of unresolved residues, which are neither contacts nor none."""
    if resolved.sum() < 2:
        raise Rejected("fewer than two resolved residues")
    pairs = np.sort(pairs, axis=1)
    return ContactLabel(np.unique(pairs[resolved[pairs].all(axis=1)], axis=0), resolved)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise Rejected("label that is no list", _short(value))
    return list(value)


def _numbers(value: Any) -> list[Any]:
    """Return a list, or the numbers of one that is written as text."""
    if isinstance(value, str) and not value.strip():
        raise Rejected("no label")
    if isinstance(value, str) and _LISTED.fullmatch(text := value.strip().removeprefix("[").removesuffix("]")):
        return text.replace(",", " ").split()
    return _listed(value)


def _short(value: Any) -> str:
    text = " ".join(text_of(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
