"""``raypro encoder import``: weights that others published become a checkpoint, from which everything else goes on."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.imports import read_cpcprot
from raypro.core.objectives.cpc import CPC
from raypro.experiment import Experiment


def import_encoder(file: Path, out: Path) -> Path:
    """Write the weights of a CPCProt of its authors as a checkpoint; return its folder.

    Raises:
        InputError: the file holds something else, or ``out`` is taken.
    """
    if out.exists():
        raise InputError(f"--out {out}: exists; choose another place, or remove it")
    shape, weights = read_cpcprot(file)
    objective = CPC(patch_length=shape.patch_length)
    model = objective.build(shape.build())
    model.encoder.load_state_dict(weights)
    plain = Experiment(name="cpcprot", corpus=f"imported from {file.name}", objective=objective, encoder=shape).to_plain()
    checkpoint.save(out.absolute(), model, plain, step=0, metrics={})
    return out


def import_encoder_command(
    file: tyro.conf.Positional[Path], /, out: Path, source: Annotated[Literal["cpcprot"], tyro.conf.arg(name="from")] = "cpcprot"
) -> None:
    """Turn published weights into a checkpoint, running no code from the file.

    Args:
        file: the weights: of CPCProt the authors' best.ckpt.
        out: folder of the checkpoint to make.
        source: whose weights they are.
    """
    print(f"{import_encoder(file, out)}: {source} encoder; use it wherever --encoder wants a checkpoint")
