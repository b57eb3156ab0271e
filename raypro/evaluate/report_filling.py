"""Which score, and which published figure, fills which cell of a table of the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raypro.evaluate.published import CPCPROT, PUBLISHED, TAPE, Published
from raypro.evaluate.report_scores import Score
from raypro.evaluate.report_tables import Table


@dataclass(frozen=True)
class Row:
    """One method of a filled table."""

    method: str
    """Its name."""
    about: str = ""
    """Which run, or which data."""
    baseline: bool = False
    """Whether it is there only to be beaten."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Ours, by the column's name."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """The paper's, by the column's name."""


SAME_METHOD: Mapping[tuple[str, str], str] = {
    (TAPE, "One Hot"): "One-hot, frozen",
    (TAPE, "Transformer"): "MLM, Transformer",
    (TAPE, "ResNet"): "MLM, ResNet",
    (TAPE, "LSTM"): "Next token, LSTM",
    (TAPE, "UniRep"): "Next token, UniRep",
    (CPCPROT, "CPCProt"): "CPCProt",
}
"""(Paper, published row) -> our method; whatever else is published has a row of its own. Sizes and corpora may differ: the page says so."""


def fill(table: Table, scores: Iterable[Score], figures: Sequence[Published] = PUBLISHED) -> list[Row]:
    """Return the rows of a table: ours, those with most figures first, the baselines on the same data, then what is published alone.

    A published figure stands beside each of ours of the same method in its column; where there is none, in a row of its own.

    Of several configurations of one method in one cell validation chooses, where it can (:func:`chosen`), and the others are counted.
    """
    cells: dict[tuple[str, str, bool], dict[str, list[Score]]] = {}
    for score in scores:
        model = score.model
        if score.stage != table.stage or (table.only and not model.baseline and model.method not in table.only):
            continue
        for column in table.columns:
            if column.holds(score):
                cells.setdefault((model.method, model.about, model.baseline), {}).setdefault(column.name, []).append(score)
    measured = {
        (name, *data_of(score))
        for (_, _, baseline), by_column in cells.items()
        if not baseline
        for name, found in by_column.items()
        for score in found
    }
    published = _published_rows(table, figures)
    rows, beside = [], set()
    for (method, about, baseline), by_column in sorted(cells.items(), key=lambda item: (item[0][2], -len(item[1]))):
        filled = {name: chosen(found) for name, found in by_column.items() if any((name, *data_of(score)) in measured for score in found)}
        same = next((row for row in published if SAME_METHOD.get((table.paper, row), row) == method), None)
        if filled:
            known = published.get(same, {}) if same and not baseline else {}
            found = {name: figure for name, figure in known.items() if name in filled}
            rows.append(Row(method, about, baseline, filled, found))
            beside |= {(figure.row, name) for name, figure in found.items()}
    alone = {row: {name: f for name, f in found.items() if (row, name) not in beside} for row, found in published.items()}
    return rows + [Row(row, published=found) for row, found in alone.items() if found]


def data_of(score: Score) -> tuple[str, str]:
    """Return which labelled data a score is of: their name and their checksum."""
    return score.data, score.data_checksum


def chosen(found: Sequence[Score]) -> Score:
    """Return one of several configurations, the oldest first: the best on validation if that is known of all of them, else the newest."""
    known = [score.chosen_by for score in found if score.chosen_by is not None]
    if len(known) < len(found):
        return replace(found[-1], others=len(found) - 1, chosen_by=None)
    best = max(reversed(range(len(found))), key=known.__getitem__)
    return replace(found[best], others=len(found) - 1)


def _published_rows(table: Table, figures: Sequence[Published]) -> dict[str, dict[str, Published]]:
    rows: dict[str, dict[str, Published]] = {}
    for column in table.columns:
        for figure in figures:
            if column.published == (figure.table, figure.column) and figure.paper == table.paper:
                rows.setdefault(figure.row, {})[column.name] = figure
    return rows
