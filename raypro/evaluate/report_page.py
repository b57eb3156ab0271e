"""The report as one page: HTML that needs nothing from outside, and as CSV in long form.

Every text that comes from a store is escaped; addresses of runs are made by us (:attr:`raypro.evaluate.report_scores.Trained.link`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from raypro.evaluate.published import Published, parameters_of
from raypro.evaluate.report_filling import Row
from raypro.evaluate.report_rows import said_in_train, shown, table_section
from raypro.evaluate.report_scores import Score, best_baseline, interval, verdict
from raypro.evaluate.report_style import SCRIPT, STYLE
from raypro.evaluate.report_tables import MISSING, Column, Table

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser is told to refuse whatever the page would ask for."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page."""

    title: str
    """What it shows."""
    about: str
    """More of it, in a sentence; may be empty."""
    html: str
    """The figure: SVG, or an img with its data."""
    wide: bool = False
    """Whether it takes the page's width."""


@dataclass(frozen=True)
class Report:
    """What the page shows."""

    store: str
    """Where the runs are."""
    made: str
    """When, as text."""
    counts: tuple[tuple[str, int], ...]
    """What was run: (what, how many)."""
    tables: tuple[tuple[Table, tuple[Row, ...]], ...]
    """The tables, filled."""
    figures: tuple[tuple[str, tuple[Figure, ...]], ...]
    """(Section, its figures)."""
    linked: bool = False
    """Whether figures lead to the runs' pages."""
    left_out: tuple[str, ...] = ()
    """Runs that no table shows, each with why."""


def page(report: Report) -> str:
    """Return the page."""
    sections = [_paper(paper, list(group)) for paper, group in groupby(report.tables, key=lambda pair: pair[0].paper)]
    sections += [_figures(name, figures) for name, figures in report.figures]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>Protein language models, compared</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body>{_opening(report)}<main>{''.join(sections)}</main>{_closing(report)}<script>{SCRIPT}</script></body></html>\n"


def rows_of_csv(report: Report) -> list[dict[str, object]]:
    """Return one row a cell that holds a figure, ours or a published one."""
    return [
        {"paper": table.paper, "table": table.name, "row": row.method, "about": row.about, "column": column.name}
        | _csv_cell(column, row.scores.get(column.name), row.published.get(column.name))
        for table, rows in report.tables
        for row in rows
        for column in table.columns
        if column.name in row.scores or column.name in row.published
    ]


def _csv_cell(column: Column, score: Score | None, published: Published | None) -> dict[str, object]:
    known = best_baseline(score, column.higher) if score else None
    low, high = interval(score) if score else (None, None)
    return {
        "published": published.value if published else None,
        "ours": score.value if score else None,
        "low": low,
        "high": high,
        "deviation": score.deviation if score else None,
        "seeds": score.seeds if score else None,
        "baseline": known[1] if known else None,
        "baseline_name": known[0] if known else None,
        "verdict": verdict(score, column.higher) if score else None,
        "trials": score.model.trials if score else None,
        "parameters": score.model.parameters if score else None,
        "published_parameters": parameters_of(published.paper, published.row) if published else None,
        "residues": score.model.residues if score else None,
        "minutes": score.model.minutes if score else None,
        "checksum": score.model.checksum if score else None,
        "data_checksum": score.data_checksum if score else None,
        "identical_in_corpus": score.overlap[0] if score and score.overlap else None,
        "near_in_corpus": score.overlap[1] if score and score.overlap else None,
        "in_train": score.in_train or None if score else None,
        "fitted": score.fitted or None if score else None,
        "run_id": " ".join(score.model.run_ids) if score else None,
        "source": published.source if published else None,
    }


def _opening(report: Report) -> str:
    counts = "".join(f"<div><dt>{escape(what)}</dt><dd>{many:,}</dd></div>" for what, many in report.counts)
    contents = []
    for paper, group in groupby(report.tables, key=lambda pair: pair[0].paper):
        entries = "".join(f'<li><a href="#{table.key}">{escape(table.name)}</a></li>' for table, _ in group)
        contents.append(f'<li><a href="#{_anchor(paper)}">{escape(paper)}</a><ol>{entries}</ol></li>')
    contents += [f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name, figures in report.figures if figures]
    return (
        "<header><h1>Protein language models, compared</h1>"
        '<p class="lead">Encoders, objectives and baselines on the same tasks, beside the figures that their papers print. '
        f'Made {escape(report.made)} from the runs in <span class="sans">{escape(report.store)}</span>.</p>'
        f'<dl class="counts">{counts}</dl></header>'
        f'<section id="summary"><h2>In short</h2>{_summary(report)}</section>'
        f"<section><h2>How to read the tables</h2>{_legend(report.linked)}</section>"
        f'<nav aria-label="Contents"><h2>Contents</h2><ol>{"".join(contents)}</ol></nav>'
    )


LEGEND = """<ul class="plain">
<li>Every row is a method. WHERE Beneath a figure: its 95 % interval; of a mean ± deviation over seeds that of the mean, by Student's
t, and the number of seeds. <span class="sans">best of 12 trials</span>: of a sweep, chosen by validation;
<span class="sans">newest of 2</span>: nothing chose between them.</li>
<li><span class="poor">▾ not better</span> than the strongest baseline that the run was set beside, which is named with its figure;
<span class="soft">≈ not clearly better</span>: the intervals of both reach that far. What has neither mark is better, or had no
baseline. <span class="sans">not pre-trained</span>: the same encoder from random weights, fine-tuned on the same data.</li>
<li><span class="sans">equal tokens</span>, <span class="sans">equal time</span>: runs of a comparison that were held to the same number
of residues, or to the same minutes. Compare each with its like.</li>
<li><em>Rows in italics</em> are those baselines, and what is only published. An empty cell was not run, or was not seen in the paper. A
published figure beside ours is of the same method, not of the same model: its encoder may be larger (the size stands beneath it), and the
authors trained it on a corpus of theirs.</li>
<li>Residues and time are those of the pre-training up to the checkpoint that was taken, and of fine-tuning; of several seeds the mean. What
an adversarial run's noiser learned from are no residues seen, but its time counts.</li>
<li><span class="sans">in corpus</span>: sequences of the test split that the pre-training corpus holds, identical + nearly so;
<span class="sans">overlap not measured</span>: nobody has looked (<span class="sans">raypro corpus overlap</span>, before the run);
<span class="sans">cannot be measured</span>: the corpus of the encoder is not known, or families were probed, which are no labelled data.
<span class="sans poor">in train</span>: sequences of the test split that the task's own training data hold, so that the figure is too
good.</li>
<li>A click on the head of a column sorts; so does Enter on it.</li></ul>"""


def _legend(linked: bool) -> str:
    where = "Every figure of ours leads to its run." if linked else "The run of each figure is named at the end of its row."
    return LEGEND.replace("WHERE", where)


def _summary(report: Report) -> str:
    """Return what each model is better at than its baselines, and what not: the columns that matter, each result once."""
    models: dict[tuple[str, str], dict[tuple[object, ...], str]] = {}
    found: Counter[str] = Counter()
    for table, rows in report.tables:
        for row in rows:
            for column in table.columns:
                score = row.scores.get(column.name)
                said = verdict(score, column.higher) if score and column.main else ""
                if score and said:
                    judged = models.setdefault((row.method, row.about), {})
                    key = (score.stage, score.task, score.split, score.metric, score.probe, score.data, score.data_checksum)
                    found[said] += key not in judged
                    judged.setdefault(key, _judged(table, column, score))
    if not models:
        return "<p>No run that could be set beside a baseline was found.</p>"
    lead = (
        f"<p>Of {found.total():,} results {found['better']:,} are better than every baseline that they were set beside, "
        f"{found['unclear']:,} not clearly so, and {found['not better']:,} are not.</p>"
    )
    listed = "".join(
        f"<li><strong>{escape(method)}</strong> <small>{escape(about)}</small><ul>{''.join(judged.values())}</ul></li>"
        for (method, about), judged in models.items()
    )
    return f'{lead}<ul class="verdicts">{listed}</ul>'


def _judged(table: Table, column: Column, score: Score) -> str:
    name, known = best_baseline(score, column.higher) or ("", 0.0)
    said = verdict(score, column.higher)
    kind, sign = {"better": ("good", "✓"), "unclear": ("soft", "≈"), "not better": ("poor", "▾")}[said]
    what = (
        column.name
        if table.stage == "fine-tuning" or column.alone
        else f"{table.short or table.name}: {column.name}"
        if len(table.columns) > 1
        else table.name
    )
    mark = f'<span class="{kind}" aria-hidden="true">{sign}</span><span class="hidden">{said}:</span>'
    leaked = f' <small class="poor">{said_in_train(score)}</small>' if score.in_train else ""
    return (
        f"<li>{mark} {escape(what)} <b>{shown(score.value, column)}</b> <small>{escape(name)} {shown(known, column)}</small>{leaked}</li>"
    )


def _paper(paper: str, tables: Sequence[tuple[Table, Sequence[Row]]]) -> str:
    note = f'<p class="soft">{escape(MISSING[paper])}</p>' if paper in MISSING else ""
    sections = "".join(table_section(table, rows) for table, rows in tables)
    return f'<section id="{_anchor(paper)}"><h2>{escape(paper)}</h2>{note}{sections}</section>'


def _figures(name: str, figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    drawn = "".join(
        f"<figure><figcaption>{escape(f.title)}{f' <small>{escape(f.about)}</small>' if f.about else ''}</figcaption>{f.html}</figure>"
        for f in figures
    )
    wide = " wide" if figures[0].wide else ""
    return f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2><div class="figures{wide}">{drawn}</div></section>'


def _closing(report: Report) -> str:
    sources: dict[str, None] = {}
    for _, rows in report.tables:
        for row in rows:
            sources |= {figure.source: None for figure in row.published.values()}
    listed = "".join(f"<li>{escape(source)}</li>" for source in sources)
    read = f"<p>Published figures were read in:</p><ul>{listed}</ul>" if listed else ""
    names = "; ".join(escape(name) for name in report.left_out)
    left = f"<p>Runs that are not shown: {names}.</p>" if names else ""
    return f"<footer>{read}{left}<p>All figures in long form: report.csv, beside this page.</p></footer>"


def _anchor(name: str) -> str:
    return "at-" + "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
