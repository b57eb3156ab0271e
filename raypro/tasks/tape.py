"""The tasks by the names that they are asked for: TAPE's five (Rao et al. 2019), and a user's own by the kind of label."""

from collections.abc import Callable
from typing import Any

from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification

TASKS: dict[str, Callable[[], Any]] = {
    "stability": Regression,
    "fluorescence": Regression,
    "remote_homology": Classification,
    "secondary_structure": ResidueClassification,
    "contacts": Contacts,
    "regression": Regression,
    "classification": Classification,
    "residue_classification": ResidueClassification,
}
