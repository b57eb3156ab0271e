"""The commands that measure a checkpoint: ``raypro validate`` and ``raypro contacts``."""

import math
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from raypro.config import InputError
from raypro.data.corpus import Corpus
from raypro.evaluate.alignment import read_alignment, read_contacts
from raypro.home import RUN_FILE
from raypro.summary import log_findings
from raypro.tracking import send_pending
from raypro.validation import Findings, load_model, validate_alignment, validate_model

Folder = tyro.conf.Positional[Path]


def validate_command(checkpoint: Folder, /, corpus: str | None = None, out: Path | None = None, sequences: int = 32) -> None:
    """Measure a checkpoint on held-out data: Table 2, Figure 3 and, where contacts are known, the label-free contact maps.

    Args:
        checkpoint: a folder step_... of a run.
        corpus: the corpus; the one it was trained on where missing.
        out: folder for the pictures; ``validation/step_...`` in the run's where missing.
        sequences: sequences of each family that its contact map is averaged over.
    """
    model = load_model(checkpoint)
    opened = Corpus.open(corpus or model.experiment.corpus)
    run = checkpoint.absolute().parent
    _conclude(run, model.step, validate_model(model, opened, out or run / "validation" / checkpoint.name, sequences), "validation")


def contacts_command(
    checkpoint: Folder, alignment: Folder, contacts: Folder, /, out: Path | None = None, sequences: int = 32, seed: int = 0
) -> None:
    """Score the contact map that a checkpoint's pair head implies, without labels, for an aligned family with known contacts.

    Args:
        checkpoint: a folder step_... of a run.
        alignment: the family's alignment: A3M, aligned FASTA or Stockholm, plain or gzip.
        contacts: its contacts, tab-separated: columns i and j from 1, distance in angstrom.
        out: folder for the picture; ``validation/step_...`` in the run's where missing.
        sequences: sequences of the family that the map is averaged over.
        seed: of their choice.
    """
    model, family = load_model(checkpoint), read_alignment(alignment)
    known = read_contacts(contacts, family.width)
    name = alignment.name.split(".")[0]
    run = checkpoint.absolute().parent
    findings = validate_alignment(model, family, known, name, out or run / "validation" / checkpoint.name, sequences, seed)
    _conclude(run, model.step, findings, f"contacts_{name}")


def _conclude(run: Path, step: int, findings: Findings, folder: str) -> None:
    """Print what was found and, where the checkpoint lies in a run's folder, add it to the run in MLflow."""
    table = Table("metric", "value")
    for name, value in findings.metrics.items():
        if not math.isnan(value):  # a range of separations without a pair
            table.add_row(name, f"{value:.4f}")
    console = Console()
    console.print(table)
    for picture in findings.pictures:
        console.print(str(picture), soft_wrap=True, highlight=False)
    if (run / RUN_FILE).is_file():
        log_findings(run, step, findings, folder)
        try:
            send_pending(run)
        except InputError as error:
            console.print(f"not in MLflow yet: {error}; raypro runs sync {run.name} sends it", soft_wrap=True, highlight=False)
