"""One table of the report as HTML: heads that sort, a published column where there is something published, costs and data at the end."""

from collections.abc import Iterable, Sequence
from html import escape

from raypro.evaluate.published import Published, parameters_of
from raypro.evaluate.report_figures import short
from raypro.evaluate.report_filling import Row
from raypro.evaluate.report_scores import Score, Trained, best_baseline, interval, verdict
from raypro.evaluate.report_tables import OWN, Column, Table

CONTRAST, FAMILIES = "contrastive", "families"
"""The one probe whose sequences are the corpus' own, held out, and the one whose sequences are no labelled data."""
SIGNS = {"better": ("", ""), "unclear": ("≈", "not clearly better than"), "not better": ("▾", "not better than"), "": ("", "")}


def table_section(table: Table, rows: Sequence[Row]) -> str:
    """Return a table with its title, as a section of the page."""
    about = f'<p class="soft">{escape(table.about)} {_notes(table)}</p>'
    head = f'<section id="{table.key}"><h3 id="{table.key}-title">{escape(table.name)}</h3>{about}'
    if not rows:
        return f"{head}<p><em>Not run yet.</em></p></section>"
    both = {column.name for column in table.columns if any(column.name in row.published for row in rows)}
    unused = {column.name for column in table.columns if not any(column.name in {**row.published, **row.scores} for row in rows)}
    body = "".join(_row(table, row, both, unused) for row in rows)
    box = f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{table.key}-title">'
    return f"{head}{box}<table>{_table_head(table, both, unused)}<tbody>{body}</tbody></table></div></section>"


def _notes(table: Table) -> str:
    """Return what a reader of a table has to know of its figures: whether the paper's were at hand, and where intervals are missing."""
    notes = []
    if table.paper != OWN:
        known = [column.name for column in table.columns if column.published]
        if not known:
            notes.append("None of the paper's figures for it was at hand.")
        elif len(known) < len(table.columns):
            notes.append(f"Of the paper's figures those of {len(known)} of its {len(table.columns)} columns were at hand.")
    if table.stage == "pre-training":
        notes.append(
            "One run each, whose spread over the sequences was not logged: there is no interval, and marks go by the figures alone."
        )
    return " ".join(notes)


def _table_head(table: Table, both: set[str], unused: set[str]) -> str:
    top, below, place = [], [], 1
    for column in table.columns:
        first = "descending" if column.higher else "ascending"
        if column.name in both:
            top.append(f'<th colspan="2" scope="colgroup">{escape(column.name)}</th>')
            below += [_sorter(place, "published", first), _sorter(place + 1, "ours", first)]
            place += 2
        else:
            kind = "unused" if column.name in unused else ""
            top.append(_sorter(place, column.name, first, rows=2 if both else 1, kind=kind))
            place += 1
    for name in ("parameters", "residues seen", "time, min"):
        top.append(_sorter(place, name, "ascending", rows=2 if both else 1))
        place += 1
    span = ' rowspan="2"' if both else ""
    top.append(f'<th class="text" scope="col"{span}>trained on, tested on</th>')
    method = _sorter(0, "method", "ascending", rows=2 if both else 1, kind="first")
    second = f"<tr>{''.join(below)}</tr>" if below else ""
    return f"<thead><tr>{method}{''.join(top)}</tr>{second}</thead>"


def _sorter(place: int, name: str, first: str, rows: int = 1, kind: str = "") -> str:
    span = f' rowspan="{rows}"' if rows > 1 else ""
    about = f' class="{kind}"' if kind else ""
    return (
        f'<th scope="col"{about}{span} data-column="{place}" data-first="{first}" aria-sort="none">'
        f'<button type="button">{escape(name)}</button></th>'
    )


def _row(table: Table, row: Row, both: set[str], unused: set[str]) -> str:
    kind = "baseline" if row.baseline else "" if row.scores else "published"
    about = f"<small>{escape(row.about)}</small>" if row.about else ""
    cells = [f'<th scope="row">{escape(row.method)}{about}</th>']
    for column in table.columns:
        if column.name in both:
            cells.append(_published(column, row.published.get(column.name), beside=bool(row.scores)))
        cells.append('<td class="unused"></td>' if column.name in unused else _ours(column, row.scores.get(column.name)))
    models = [score.model for score in row.scores.values() if not score.model.baseline]
    costs = _costs(models)
    if not row.scores:  # of what is only published, the size of its encoder
        sizes = {parameters_of(table.paper, figure.row) for figure in row.published.values()}
        costs[0] = sorted(size for size in sizes if size is not None)
    cells += [_range(values) for values in costs]
    cells.append(f'<td class="text">{_places(row.scores.values())}</td>')
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _published(column: Column, figure: Published | None, beside: bool) -> str:
    """Return the cell of a published figure; ``beside`` one of ours it says that encoder and corpus are the authors'."""
    if figure is None:
        return '<td class="published"></td>'
    size = parameters_of(figure.paper, figure.row)
    about = f"<small>{short(size)}, authors’ corpus</small>" if beside and size else "<small>authors’ model</small>" if beside else ""
    text = f"{figure.value:.{min(column.digits, 2)}f}{about}"
    return f'<td class="published" data-value="{figure.value}" title="{escape(figure.source)}">{text}</td>'


def _ours(column: Column, score: Score | None) -> str:
    if score is None:
        return '<td class="ours"></td>'
    sign, words = SIGNS[verdict(score, column.higher)]
    known = best_baseline(score, column.higher)
    text = shown(score.value, column)
    if score.deviation is not None and score.seeds > 1:
        text += f" ± {score.deviation:.{column.digits}f}"
    address = score.model.link
    linked = f'<a href="{escape(address)}">{text}</a>' if address.startswith(("http://", "https://")) else text
    small = "".join(f"<small>{escape(line)}</small>" for line in _beneath(column, score))
    if score.in_train:
        small += f'<small class="poor">{said_in_train(score)}</small>'
    if sign and known:
        kind = "poor" if sign == "▾" else "soft"
        beaten = f'<span aria-hidden="true">{sign}</span><span class="hidden">{words}</span> {escape(known[0])} {shown(known[1], column)}'
        small = f'<small class="{kind}">{beaten}</small>{small}'
    return f'<td class="ours" data-value="{score.value}">{linked}{small}</td>'


def _beneath(column: Column, score: Score) -> list[str]:
    """Return what stands beneath a figure: its interval, what it was chosen from, and what pre-training has seen of the test."""
    low, high = interval(score)
    lines = [] if low is None or high is None else [f"{shown(low, column)} to {shown(high, column)}"]
    if score.seeds > 1:
        lines.append(f"{score.seeds} seeds")
    if score.model.baseline:
        return lines
    if score.model.trials > 1:
        lines.append(f"best of {score.model.trials} trials")
    if score.others:
        many = score.others + 1
        lines.append(f"newest of {many}" if score.chosen_by is None else f"best of {many} on validation")
    if score.overlap:
        lines.append(f"in corpus: {score.overlap[0]:,} + {score.overlap[1]:,}")
    elif score.model.pretrained and score.stage != "pre-training" and score.task != CONTRAST:
        known = score.task != FAMILIES and (score.model.corpus or score.model.checksum)
        lines.append("overlap not measured" if known else "overlap cannot be measured")
    return lines


def said_in_train(score: Score) -> str:
    """Return that the test sequences of a score were trained on, in a few words."""
    return f"{score.in_train:,} in train"


def shown(value: float, column: Column) -> str:
    """Return a figure as a column shows it, with a true minus sign."""
    return f"{value:.{column.digits}f}".replace("-", "−")


def _costs(models: Sequence[Trained]) -> list[list[float]]:
    """Return what is known of parameters, residues and minutes."""
    each = [(model.parameters, model.residues, model.minutes) for model in models]
    return [sorted({float(value) for value in values if value is not None}) for values in zip(*each, strict=True)] if each else [[], [], []]


def _range(values: Sequence[float]) -> str:
    if not values:
        return "<td></td>"
    low, high = short(values[0]), short(values[-1])
    return f'<td data-value="{values[-1]}">{low if low == high else f"{low} to {high}"}</td>'


def _places(scores: Iterable[Score]) -> str:
    """Return the corpus and the labelled data of a row, each with the beginning of its checksum; without addresses, the runs too."""
    lines: dict[str, None] = {}
    for score in scores:
        model = score.model
        if model.corpus:
            lines[f"{model.corpus} {model.checksum[:8]}"] = None
        if score.data:
            lines[f"{score.data} {score.data_checksum[:8]}".strip() + (f", fitted to {score.fitted:,}" if score.fitted else "")] = None
        if model.link and not model.link.startswith(("http://", "https://")) and not model.baseline:
            lines[model.link] = None
    return "".join(f"<small>{escape(line)}</small>" for line in lines)
