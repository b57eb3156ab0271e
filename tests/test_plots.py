"""What is drawn is what was given: marks at their places, numbers in the titles, files that are PNGs."""

from pathlib import Path

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from raypro.evaluate.contacts import contact_precision
from raypro.evaluate.pairs import KL_EDGES
from raypro.evaluate.plots import BLUE, GREEN, ORANGE, column_maps, contact_map, divergence_histogram, learning_curves, save


def marks(figure: Figure, colour: str) -> list[tuple[float, float]]:
    """Return the (x, y) places of a contact map's marks of one colour."""
    rgb = matplotlib.colors.to_rgb(colour)
    scattered = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    found = [c for c in scattered for edge in (c.get_edgecolor(), c.get_facecolor()) if len(edge) and tuple(edge[0][:3]) == rgb]
    return [tuple(place) for c in dict.fromkeys(found) for place in c.get_offsets().tolist()]


def test_contact_map_marks_truth_above_and_predictions_below() -> None:
    """Ten residues, counted from 1: two pairs are ringed, one of them a contact; near pairs and unknown ones never are."""
    truth, scores = np.zeros((10, 10), dtype=bool), np.zeros((10, 10))
    for i, j in ((0, 7), (1, 9)):
        truth[i, j] = truth[j, i] = True
    for i, j, score in ((0, 7, 3.0), (2, 8, 2.0), (1, 9, 1.0), (4, 5, 9.0), (0, 9, np.nan)):
        scores[i, j] = scores[j, i] = score
    figure = contact_map(scores, truth, "Kunitz", contact_precision(scores, truth))
    assert sorted(marks(figure, GREEN)) == [(8, 1), (10, 2)]
    assert marks(figure, BLUE) == [(1, 8)]
    assert marks(figure, ORANGE) == [(3, 9)]
    shown = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(shown)[np.triu_indices(10)].all() and shown[7, 0] == 3.0
    text = figure.axes[0].get_title(loc="left") + figure.axes[0].texts[0].get_text()
    assert "Kunitz" in text and "0.50" in text and "random: 0.20" in text


def test_maps_side_by_side_ring_their_own_best_pairs() -> None:
    """Ten columns, two maps, each with its two best pairs; where contacts are not known, all rings are blue and no truth is drawn."""
    truth, first, second = np.zeros((10, 10), dtype=bool), np.zeros((10, 10)), np.full((10, 10), np.nan)
    truth[0, 7] = truth[7, 0] = True
    for scores, i, j, score in ((first, 0, 7, 3.0), (first, 2, 8, 2.0), (first, 4, 8, 9.0), (second, 0, 5, 0.1), (second, 1, 9, 0.2)):
        scores[i, j] = scores[j, i] = score
    maps = [("couplings", "norm", first), ("pair head", "nats", second)]
    figure = column_maps(maps, truth, "Kunitz", 5)
    assert sorted(marks(figure, GREEN)) == [(8, 1)] and marks(figure, BLUE) == [(1, 8)] and marks(figure, ORANGE) == [(3, 9)]
    titles = [axes.get_title(loc="left") + axes.texts[0].get_text() for axes in figure.axes[:2]]
    assert "couplings" in titles[0] and "1 are contacts (by chance 0.1)" in titles[0]
    assert "pair head" in titles[1] and "0 are contacts" in titles[1]
    unknown = column_maps(maps[:1], None, "Kunitz", 5)
    assert sorted(marks(unknown, BLUE)) == [(1, 8), (3, 9)] and not marks(unknown, GREEN) and not marks(unknown, ORANGE)
    assert "contacts" not in unknown.axes[0].texts[0].get_text()


def test_contact_map_of_a_short_or_empty_prediction() -> None:
    """Nothing far enough apart, or nothing known, is drawn all the same."""
    for scores in (np.zeros((4, 4)), np.full((9, 9), np.nan)):
        truth = np.zeros(scores.shape, dtype=bool)
        figure = contact_map(scores, truth, "none", contact_precision(scores, truth))
        figure.canvas.draw()


def test_divergence_histogram_shows_shares() -> None:
    """Bars are shares of all pairs, the line is the mean."""
    counts = np.zeros(len(KL_EDGES) - 1, dtype=np.int64)
    counts[[30, 40]] = 1, 3
    axes = divergence_histogram(counts, KL_EDGES, 0.25).axes[0]
    values, edges, _ = axes.patches[0].get_data()
    np.testing.assert_allclose(values[[30, 40]], [0.25, 0.75])
    np.testing.assert_array_equal(edges, KL_EDGES)
    assert axes.lines[0].get_xdata()[0] == 0.25 and "nats" in axes.get_xlabel()


def test_learning_curves_show_both_losses_and_the_floor() -> None:
    """Three lines with their names and units."""
    axes = learning_curves([(1, 3.0), (2, 2.5)], [(2, 2.6)], floor=2.99).axes[0]
    train, valid, floor = axes.lines
    assert train.get_xydata().tolist() == [[1, 3.0], [2, 2.5]] and valid.get_xydata().tolist() == [[2, 2.6]]
    assert set(floor.get_ydata()) == {2.99}
    assert "nats" in axes.get_ylabel() and axes.get_xlabel() == "optimizer step"
    assert [t.get_text() for t in axes.get_legend().get_texts()][:2] == ["training", "validation"]


def test_figures_are_saved_and_leave_no_style_behind(tmp_path: Path) -> None:
    """A PNG, even of nothing; matplotlib's own settings stay as they were."""
    before = dict(matplotlib.rcParams)
    for figure in (learning_curves([], []), divergence_histogram(np.zeros(len(KL_EDGES) - 1, dtype=np.int64), KL_EDGES, float("nan"))):
        assert save(figure, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
