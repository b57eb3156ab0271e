"""What a person says of labelled data that are to be imported."""

import dataclasses
from dataclasses import dataclass

from raypro.config import InputError
from raypro.data.label_records import KIND_FORMS, TASKS, Form, Kind, TaskName


@dataclass(frozen=True)
class ImportOptions:
    """What the fields of the sources are, and how they are split where nothing says it."""

    task: TaskName | None = None
    """One of TAPE's tasks: sets the kind and the names of the fields, TAPE's own and those of plain tables."""
    kind: Kind | None = None
    """The kind of labels of data of your own: a number, a class, a class for each residue, or contacts."""
    sequence_column: str | None = None
    """Field of the sequences; primary or sequence where missing."""
    label_column: str | None = None
    """Field of the labels; the task's, or label, where missing. Of contacts: tertiary (coordinates) or contact_i (beside contact_j)."""
    mask_column: str | None = None
    """Field that holds 1 for each residue that is scored (or resolved) and 0 for the others."""
    id_column: str | None = None
    """Field of the names of the sequences; id where missing. A record without one is called after its file and row."""
    split_column: str | None = None
    """Field that holds train, valid or the name of a test set; split where missing. The names of the files go before it."""
    valid_share: float = 0.1
    """Share of the sequences that becomes valid, by a seeded hash of the sequence, where nothing says how to split."""
    test_share: float = 0.1
    """Share of the sequences that becomes test in that case."""
    seed: int = 0
    """Seed of that hash."""
    keep_overlaps: bool = False
    """Keep what is also in a later split, as the published splits have it: only to compare with figures that were reached so."""

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be."""
        if not (0 <= self.valid_share and 0 <= self.test_share and self.valid_share + self.test_share < 1):
            raise InputError(
                f"valid_share: {self.valid_share} and test_share {self.test_share} leave nothing to train on; give smaller shares"
            )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed: {self.seed}; give a number from 0 to 2^64 - 1")

    @property
    def form(self) -> Form:
        """How the records are to be read.

        Raises:
            InputError: neither or both of task and kind are given, or a mask for labels that have none.
        """
        if (self.task is None) == (self.kind is None):
            tasks, kinds = ", ".join(TASKS), ", ".join(KIND_FORMS)
            raise InputError(f"task: say what the labels are by one of --task ({tasks}) and --kind ({kinds})")
        form = TASKS[self.task] if self.task else KIND_FORMS[self.kind or "regression"]
        if self.mask_column and form.kind in ("regression", "classification"):
            raise InputError(f"mask_column: {self.mask_column}: only labels of residues and contacts have a mask; leave it out")
        columns = {"sequence": self.sequence_column, "label": self.label_column, "mask": self.mask_column}
        return dataclasses.replace(form, **{name: (column,) for name, column in columns.items() if column})
