"""The papers' figures as they are kept: one for each cell, in range, with where it was read."""

from dataclasses import fields

import pytest

from raypro.evaluate.published import CPCPROT, PMLM, PUBLISHED, TAPE, Published


def cell(paper: str, table: str, row: str) -> float:
    (found,) = [figure for figure in PUBLISHED if (figure.paper, figure.table, figure.row) == (paper, table, row)]
    return found.value


def test_no_cell_has_two_figures() -> None:
    cells = [(figure.paper, figure.table, figure.row, figure.column) for figure in PUBLISHED]
    assert len(cells) > 30 and len(set(cells)) == len(cells)


@pytest.mark.parametrize("figure", PUBLISHED, ids=lambda f: f"{f.paper}, {f.table}, {f.row}")
def test_figures_are_in_range_and_say_where_they_were_read(figure: Published) -> None:
    if figure.column == "number of parameters":
        assert 1e6 <= figure.value <= 1e9
    else:
        assert -1 < figure.value < 1
    texts = [getattr(figure, field.name) for field in fields(figure) if field.name != "value"]
    assert all(text and text == text.strip() and "_" not in text for text in texts)


def test_figures_that_were_read_are_found_where_they_belong() -> None:
    assert cell(TAPE, "remote homology", "LSTM") == 0.26
    assert cell(TAPE, "stability", "Transformer") == max(f.value for f in PUBLISHED if f.table == "stability") == 0.73
    assert cell(TAPE, "contact prediction", "One Hot + Alignment") == 0.64
    assert cell(CPCPROT, "stability", "CPCProt") == 0.65
    assert cell(PMLM, "parameters", "PMLM xl") == 713e6
