"""What the papers report: figures that ours stand beside. Each one was read in the source that it names; what was not seen is not here.

Of He et al. 2021, Lu et al. 2020 and McDermott et al. 2020 only few figures are: their tables were not at hand.
"""

from dataclasses import dataclass

TAPE = "TAPE (Rao et al. 2019)"
PMLM = "PMLM (He et al. 2021)"
CPCPROT = "CPCProt (Lu et al. 2020)"

_LEADERBOARD = "https://github.com/songlab-cal/tape, README.md, Leaderboard (commit 0465499)"
_REQUIREMENTS = "as stated in the project's requirements"


@dataclass(frozen=True)
class Published:
    """A figure of a paper: one cell of a table."""

    paper: str
    """Short name, authors and year."""
    table: str
    """The table; where its number was not seen, what it shows."""
    row: str
    """Whose figure it is, as the source names it."""
    column: str
    """What is measured, as the source names it."""
    value: float
    """The figure: a share or a coefficient, not per cent; parameters are counted one by one."""
    source: str
    """Where it was read."""


_TASKS: dict[tuple[str, str], dict[str, float]] = {
    ("secondary structure", "accuracy (3-class)"): {
        "One Hot + Alignment": 0.80,
        "LSTM": 0.75,
        "ResNet": 0.75,
        "Transformer": 0.73,
        "Bepler": 0.73,
        "UniRep": 0.73,
        "One Hot": 0.69,
    },
    ("contact prediction", "L/5 medium + long range"): {
        "One Hot + Alignment": 0.64,
        "Bepler": 0.40,
        "LSTM": 0.39,
        "Transformer": 0.36,
        "UniRep": 0.34,
        "ResNet": 0.29,
        "One Hot": 0.29,
    },
    ("remote homology", "top 1 accuracy"): {
        "LSTM": 0.26,
        "UniRep": 0.23,
        "Transformer": 0.21,
        "Bepler": 0.17,
        "ResNet": 0.17,
        "One Hot + Alignment": 0.09,
        "One Hot": 0.09,
    },
    ("fluorescence", "Spearman's rho"): {
        "Transformer": 0.68,
        "LSTM": 0.67,
        "UniRep": 0.67,
        "Bepler": 0.33,
        "ResNet": 0.21,
        "One Hot": 0.14,
    },
    ("stability", "Spearman's rho"): {
        "Transformer": 0.73,
        "UniRep": 0.73,
        "ResNet": 0.73,
        "LSTM": 0.69,
        "Bepler": 0.64,
        "One Hot": 0.19,
    },
}
"""(Task, metric) -> model -> figure, all pre-trained but for one-hot: the leaderboards that TAPE's authors keep beside their code."""

_PARAMETERS: dict[str, dict[str, float]] = {
    TAPE: {"Transformer": 38e6, "ResNet": 48e6, "LSTM": 44e6, "UniRep": 18e6},
    PMLM: {"PMLM base": 87e6, "PMLM large": 250e6, "PMLM xl": 713e6},
    CPCPROT: {"CPCProt": 1.7e6, "CPCProt GRU large": 8.4e6, "CPCProt LSTM": 71e6},
}

PUBLISHED: tuple[Published, ...] = (
    *(Published(TAPE, task, row, column, value, _LEADERBOARD) for (task, column), rows in _TASKS.items() for row, value in rows.items()),
    Published(CPCPROT, "stability", "CPCProt", "Spearman's rho", 0.65, _REQUIREMENTS),
    *(
        Published(paper, "parameters", row, "number of parameters", value, _REQUIREMENTS)
        for paper, rows in _PARAMETERS.items()
        for row, value in rows.items()
    ),
)
"""Every figure, those of a table together."""


def parameters_of(paper: str, row: str) -> float | None:
    """Return the number of parameters of a published row's encoder; None where it was not seen."""
    return _PARAMETERS.get(paper, {}).get(row)
