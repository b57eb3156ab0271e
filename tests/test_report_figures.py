"""The report's charts: their marks and frame, and which measures have one."""

import pytest

from raypro.evaluate.report_figures import Series, lines, numbered_points, round_marks, short
from raypro.evaluate.report_filling import Row, fill
from raypro.evaluate.report_scores import Score, Trained
from raypro.evaluate.report_tables import TABLES, Column, Table
from raypro.report_pictures import over_parameters


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (14.4, 18.2, [14, 15, 16, 17, 18, 19]), (0.5, 0.5, [0.5, 0.6]), (0.0, 0.0, [0, 0.2])],
)
def test_marks_are_round_and_hold_the_range(low, high, expected):
    found = round_marks(low, high, 5)
    assert found[:2] == pytest.approx(expected[:2]) and found[0] <= low and found[-1] >= high and len(found) <= 7


def test_counts_are_short():
    assert [short(value) for value in (12, 1500, 1.7e6, 999_900, 196_566_670, 2.5e9)] == ["12", "1.5 k", "1.7 M", "1 M", "197 M", "2.5 G"]


def test_each_measure_has_its_chart_though_columns_have_the_same_name():
    def table(task: str, data: str = "") -> tuple[Table, list[Row]]:
        model = [Trained(name, parameters=size) for name, size in (("a", 100), ("b", 1000))]
        column = Column("linear: ρ", task, "spearman", probe="linear regression", data=data)
        rows = [Row(m.method, scores={column.name: Score(m, "probe", task, "test", "spearman", 0.5)}) for m in model]
        return Table("Paper", task, "About.", "probe", (column,)), rows

    tables = [table("stability"), table("fluorescence"), table("stability")]
    assert [figure.title for figure in over_parameters(tables)] == ["stability: linear: ρ", "fluorescence: linear: ρ"]
    assert len(over_parameters([table("own regression", data) for data in ("wells", "mine")])) == 2


def test_without_a_figure_of_ours_no_chart_is_drawn():
    assert over_parameters([(table, fill(table, ())) for table in TABLES]) == []


def test_charts_lie_within_their_frame_and_escape_names():
    drawn = lines([Series("<b>", ((0.0, 1.0), (10.0, 3.0))), Series("other", ((5.0, 2.0),))], "tokens", "loss", ("chance", 4.0))
    assert drawn.count("<polyline") == 2 and "&lt;b&gt;" in drawn and "<b>" not in drawn
    points = numbered_points([Series("a", ((1e6, 0.3),)), Series("b", ((1e8, 0.7),), hollow=True)], "parameters", "rho")
    places = [float(part.split('"')[1]) for part in points.split(" c")[1:] if part.startswith(("x=", "y="))]
    assert len(places) == 4 and all(0 < place < 440 for place in places)
    near = numbered_points([Series("a", ((796e3, 0.3),)), Series("b", ((797e3, 0.3),))], "parameters", "rho")
    one, other = (float(part.split('"')[1]) for part in near.split(" c")[1:] if part.startswith("x="))
    assert other - one < 1  # a thousandth more is no distance
    assert numbered_points([Series("alone", ((5e6, 0.0),))], "parameters", "rho")  # one point, no range
