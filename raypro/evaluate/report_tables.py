"""The tables of the report: which there are, and which scores their columns hold. :mod:`raypro.evaluate.report_filling` fills them.

Rows and columns are those that the papers' tables, as far as they were at hand, and the project's requirements name. A cell that was not
run stays empty, and so does a published figure that was not seen (:mod:`raypro.evaluate.published`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from raypro.evaluate.published import CPCPROT, PMLM, TAPE
from raypro.evaluate.report_scores import Score, Stage

ADVERSARIAL = "Adversarial (McDermott et al. 2020)"
OWN = "This store"

NOT_PRETRAINED, FROZEN, EQUAL_TIME = "not pre-trained", "frozen", "equal time"
"""Words of a method's name (:func:`method_name`)."""
OWN_KINDS = ("regression", "classification", "residue_classification")
"""What a person's own data are asked for as, where they are of none of the papers' tasks."""


@dataclass(frozen=True)
class Column:
    """One metric of a table."""

    name: str
    """What its head says."""
    task: str
    """The task, or the group of metrics, of a :class:`Score`."""
    metric: str
    """Its metric."""
    splits: tuple[str, ...] = ("test",)
    """Splits that it may be on: names that data from different places give the same one."""
    probe: str = ""
    """Its probe."""
    higher: bool = True
    """Whether higher is better."""
    digits: int = 3
    """Decimals that are shown."""
    published: tuple[str, str] | None = None
    """(Table, column) of the paper's figures."""
    main: bool = True
    """Whether the summary names it; of what says nearly the same one is enough."""
    data: str = ""
    """Name of the labelled data, where the task alone does not say what is measured."""
    alone: bool = False
    """Whether its name says all in the summary, and the table's would be wrong of some of its scores."""

    def holds(self, score: Score) -> bool:
        """Return whether a score belongs here."""
        same = (score.task, score.metric, score.probe) == (self.task, self.metric, self.probe)
        return same and score.split in self.splits and self.data in ("", score.data)


@dataclass(frozen=True)
class Table:
    """One table of a paper."""

    paper: str
    """Short name, authors and year."""
    name: str
    """Which table."""
    about: str
    """What it shows, a sentence or two."""
    stage: Stage
    """What is done with the encoders."""
    columns: tuple[Column, ...]
    """Its metrics."""
    short: str = ""
    """Its name in the summary, before a column's."""
    only: tuple[str, ...] = ()
    """Methods that it has rows for; none: all."""

    @property
    def key(self) -> str:
        """A name for addresses within the page."""
        return "-".join("".join(c if c.isalnum() else " " for c in f"{self.paper.split(' (')[0]} {self.name}".lower()).split())


_CONTACTS = Column("contacts, medium + long at L/5", "contacts", "P_at_L5_medium_long")
_TASKS = (
    Column("secondary structure, CB513", "secondary_structure", "accuracy", ("cb513", "test_cb513")),
    Column("secondary structure, TS115", "secondary_structure", "accuracy", ("ts115", "test_ts115")),
    Column("secondary structure, CASP12", "secondary_structure", "accuracy", ("casp12", "test_casp12")),
    _CONTACTS,
    Column("remote homology, fold", "remote_homology", "accuracy", ("test", "test_fold_holdout")),
    Column("remote homology, superfamily", "remote_homology", "accuracy", ("test_superfamily_holdout",)),
    Column("remote homology, family", "remote_homology", "accuracy", ("test_family_holdout",)),
    Column("fluorescence, ρ", "fluorescence", "spearman"),
    Column("stability, ρ", "stability", "spearman"),
)


def _published(columns: Iterable[Column], named: Mapping[str, tuple[str, str]]) -> tuple[Column, ...]:
    return tuple(replace(column, published=named.get(column.name)) for column in columns)


def _values(task: str, probe: str, short: str, published: tuple[str, str] | None = None) -> tuple[Column, ...]:
    return (
        Column(f"{short}: ρ", task, "spearman", probe=probe, published=published),
        Column(f"{short}: mean squared error", task, "mse", probe=probe, higher=False, main=False),
    )


def _steps_ahead(metric: str) -> tuple[Column, ...]:
    names = {"all": "all", **{f"{k} ahead": f"{k} ahead" for k in (1, 2, 3, 4)}}
    return tuple(Column(name, "contrastive", metric, ("valid",), probe, main=name == "all") for name, probe in names.items())


_HOMOLOGY = ("test", "test_fold_holdout")
_CLASSES = (
    Column("logistic regression: top 1", "remote_homology", "accuracy", _HOMOLOGY, "logistic regression"),
    Column("top 10", "remote_homology", "top10_accuracy", _HOMOLOGY, "logistic regression", main=False),
    Column("nearest neighbours: top 1", "remote_homology", "accuracy", _HOMOLOGY, "k nearest neighbours"),
)
_RESIDUES = tuple(replace(column, probe="logistic regression") for column in _TASKS[:3])
_EIGHT_CLASSES = tuple(replace(column, task="secondary_structure_8") for column in _TASKS[:3])
_LEARNED = (
    Column("perplexity, masked", "table2", "perplexity", ("valid",), higher=False, digits=2),
    Column("perplexity, next", "next_token", "perplexity", ("valid",), higher=False, digits=2),
    Column("patches told apart", "contrast", "accuracy_cpc", ("valid",)),
    Column("label-free contacts at L/5", "contacts", "P_at_L5_all", ("valid",), alone=True),
    Column("of families never seen", "contacts_unseen", "P_at_L5_all", ("valid",)),
)
_TABLE_2 = (
    Column("L_mlm, nats", "table2", "L_mlm", ("valid",), higher=False, main=False),
    Column("L_pmlm, nats", "table2", "L_pmlm", ("valid",), higher=False, main=False),
    Column("ACC_mlm", "table2", "ACC_mlm", ("valid",), main=False),
    Column("ACC_pmlm", "table2", "ACC_pmlm", ("valid",), main=False),
    Column("ΔACC", "table2", "delta_ACC", ("valid",), digits=4),
    Column("ΔACC / ACC_pmlm", "table2", "delta_ACC_over_ACC_pmlm", ("valid",), main=False),
)

TABLES: tuple[Table, ...] = (
    Table(
        OWN,
        "What pre-training learned",
        "Each pre-training run on held-out sequences, before any task. Contacts without labels are of the families that are named; a "
        "direct coupling analysis is fitted to the very alignment that it is judged on.",
        "pre-training",
        _LEARNED,
        "held out",
    ),
    Table(
        TAPE,
        "The five tasks",
        "Fine-tuned with TAPE's heads and splits, scored once on test. ρ is Spearman's rank correlation.",
        "fine-tuning",
        _published(
            _TASKS,
            {
                "secondary structure, CB513": ("secondary structure", "accuracy (3-class)"),
                "contacts, medium + long at L/5": ("contact prediction", "L/5 medium + long range"),
                "remote homology, fold": ("remote homology", "top 1 accuracy"),
                "fluorescence, ρ": ("fluorescence", "Spearman's rho"),
                "stability, ρ": ("stability", "Spearman's rho"),
            },
        ),
    ),
    Table(
        TAPE,
        "Secondary structure in eight classes",
        "As above, with the eight states of DSSP.",
        "fine-tuning",
        _EIGHT_CLASSES,
        "eight classes",
    ),
    Table(
        TAPE,
        "Secondary structure in eight classes, static vectors",
        "As above, with the eight states of DSSP.",
        "probe",
        tuple(replace(column, probe="logistic regression") for column in _EIGHT_CLASSES),
        "probe, eight classes",
    ),
    Table(
        PMLM,
        "Table 2",
        "Masked residues and pairs of them on held-out sequences. ΔACC: what predicting a pair jointly gains over the product of singles.",
        "pre-training",
        _TABLE_2,
    ),
    Table(
        PMLM,
        "Table 3",
        "Contacts predicted by a head on pairs of vectors: TAPE's measure, and precision at L of long range (24 and more apart).",
        "fine-tuning",
        (_CONTACTS, Column("contacts, long at L", "contacts", "P_at_L_long")),
    ),
    Table(
        CPCPROT,
        "Contrastive accuracy",
        "Is the patch k ahead told apart from those of the other 511 sequences of a batch? Held-out sequences, batches of 512.",
        "probe",
        _steps_ahead("accuracy"),
    ),
    Table(
        CPCPROT,
        "Nearest neighbour's family",
        "Section 4.1: the family of the nearest neighbour among sequences of the largest families (the paper: 120 of each), 70 % known.",
        "probe",
        (Column("accuracy", "families", "accuracy", probe="nearest neighbour"),),
    ),
    Table(CPCPROT, "Secondary structure, static vectors", "A class for each residue by logistic regression.", "probe", _RESIDUES, "probe"),
    Table(CPCPROT, "Remote homology, static vectors", "1,195 folds, hold-out of folds.", "probe", _CLASSES, "remote homology"),
    Table(
        CPCPROT,
        "Stability, static vectors",
        "Rank correlation and error on test, by linear regression and by nearest neighbours.",
        "probe",
        _values("stability", "linear regression", "linear") + _values("stability", "k nearest neighbours", "neighbours"),
        "stability",
    ),
    Table(
        CPCPROT,
        "Fluorescence, static vectors",
        "As for stability.",
        "probe",
        _values("fluorescence", "linear regression", "linear") + _values("fluorescence", "k nearest neighbours", "neighbours"),
        "fluorescence",
    ),
    Table(
        CPCPROT,
        "End to end",
        "Fine-tuned on stability with TAPE's head, scored once on test. ρ is Spearman's rank correlation.",
        "fine-tuning",
        (replace(_TASKS[-1], published=("stability", "Spearman's rho")),),
        only=("CPCProt", f"Convolution, {NOT_PRETRAINED}", f"One-hot, {FROZEN}"),
    ),
    Table(
        ADVERSARIAL,
        "Table 2",
        "Random against adversarial masking: the same encoder, fine-tuned; mean and deviation over fine-tuning seeds. Each figure says of "
        "how many trials validation chose it.",
        "fine-tuning",
        _TASKS,
        only=(
            f"Transformer, {NOT_PRETRAINED}",
            *(name + time for name in ("MLM, Transformer", "Adversarial, Transformer") for time in ("", f", {EQUAL_TIME}")),
        ),
    ),
)
"""The papers' tables, in the order of the page."""

MISSING: Mapping[str, str] = {
    PMLM: "Tables 4 to 7 are left out: which rows and columns they have was not at hand.",
    CPCPROT: "Tables 1, 6 and 7 are left out: their rows and columns were not at hand; probes are in the form of Tables 2 to 5.",
}
"""What of a paper the report cannot show, and why."""


def own_task(kind: str) -> str:
    """Return what a :class:`Score` on a person's own data calls its task, by one of :data:`OWN_KINDS`."""
    return f"own {kind}"


def own_tables(scores: Iterable[Score], primary: Mapping[str, str]) -> tuple[Table, ...]:
    """Return the tables of what was measured on a person's own data: a column for each test split, and each probe of it.

    Args:
        scores: all there are.
        primary: kind of task, one of :data:`OWN_KINDS` -> the metric that matters.
    """
    metrics = {own_task(kind): primary[kind] for kind in OWN_KINDS}
    columns: dict[Stage, dict[Column, None]] = {"fine-tuning": {}, "probe": {}}
    for score in scores:
        if metrics.get(score.task) == score.metric and score.split != "valid":
            words = [score.data, *([] if score.split == "test" else [score.split]), *([score.probe] if score.probe else [])]
            name = f"{', '.join(words)}: {score.metric.replace('_', ' ')}"
            columns[score.stage][Column(name, score.task, score.metric, (score.split,), score.probe, data=score.data)] = None
    about = {
        "fine-tuning": ("Your tasks", "Fine-tuned on data of your own, scored once on their test splits."),
        "probe": ("Your tasks, static vectors", "Simple models on the vectors of frozen encoders, on data of your own."),
    }
    return tuple(Table(OWN, *about[stage], stage, tuple(found)) for stage, found in columns.items() if found)


def method_name(objective: str | None, encoder: str, frozen: bool = False, equal_time: bool = False) -> str:
    """Return what a row of a table is called: ``PMLM, Transformer``, ``Convolution, not pre-trained``.

    Args:
        objective: what the encoder was pre-trained by; None: it was not.
        encoder: its kind.
        frozen: only a head was trained on it.
        equal_time: it was trained for as long as those that it is compared with.
    """
    names = [NOT_PRETRAINED if objective is None and encoder != "One-hot" else "", FROZEN if frozen else ""]
    head = encoder if objective in (None, encoder) else f"{objective}, {encoder}"
    return ", ".join([head, *filter(None, [*names, EQUAL_TIME if equal_time else ""])])
