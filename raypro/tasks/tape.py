"""The tasks by the names that they are asked for: TAPE's five (Rao et al. 2019), one of them with two sets of classes, and a user's own
by the kind of label.
"""

from collections.abc import Callable
from typing import Any

from raypro.config import InputError
from raypro.data.labelled import KINDS, LabelledData
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification

TASKS: dict[str, Callable[[], Any]] = {
    "stability": Regression,
    "fluorescence": Regression,
    "remote_homology": Classification,
    "secondary_structure": ResidueClassification,
    "secondary_structure_8": ResidueClassification,
    "contacts": Contacts,
    "regression": Regression,
    "classification": Classification,
    "residue_classification": ResidueClassification,
}


def require_task(name: str, data: LabelledData, option: str) -> None:
    """Raise InputError where a task is asked for by ``option``, and the data were imported as another one; a kind of labels fits any."""
    if data.task and name not in (data.task, *KINDS):
        raise InputError(f"{option} {name}: {data.path} holds {data.task}; give {option} {data.task}, or other --data")
