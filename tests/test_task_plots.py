"""The tasks' pictures show the numbers that they were given, and are drawn of little and of nothing too."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from raypro.evaluate.plots import BLUE, GREEN, ORANGE, save
from raypro.evaluate.task_plots import MANY, against_baselines, confusion, contact_maps, scatter, sweep
from tests.test_plots import marks

NAN = float("nan")


def texts(axes: Axes) -> list[str]:
    return [axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_scatter_has_measured_across_and_predicted_up() -> None:
    axes = scatter(np.array([1.0, 2.0, 4.0]), np.array([10.0, 30.0, 20.0]), "test").axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[10, 1], [30, 2], [20, 4]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("measured", "predicted")
    line = axes.lines[0].get_xydata()
    assert (line[:, 0] == line[:, 1]).all() and axes.get_xlim() == axes.get_ylim()
    title, said = texts(axes)
    assert title == "test" and "ρ 0.500" in said and "3 proteins" in said and "error 374," in said  # (81 + 784 + 256) / 3


def test_scatter_of_many_counts_each_protein_once() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, MANY + 1))
    axes = scatter(x, y, "many").axes[0]
    assert axes.collections[0].get_array().sum() == MANY + 1


def test_confusion_matrix_writes_shares_of_the_true_class() -> None:
    """Row 0: 3 of 4 right; row 1: 1 of 2; class 2 never occurs and has neither colour nor text."""
    axes = confusion(np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]]), ("H", "E", "C"), "cb513").axes[0]
    share = axes.images[0].get_array()
    np.testing.assert_allclose(share[:2], [[0.75, 0.25, 0], [0.5, 0.5, 0]])
    assert np.ma.getmaskarray(share)[2].all()
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[0, 0] == "75 %\n3" and written[1, 0] == "25 %\n1" and written[0, 1] == "50 %\n1"
    assert not any(row == 2 for _, row in written) and any("accuracy 0.667 of 6" in text for text in texts(axes))
    assert [t.get_text() for t in axes.get_yticklabels()] == ["H", "E", "C"] and axes.get_ylabel() == "true"


def test_of_many_classes_the_most_frequent_confusions_are_listed() -> None:
    counts = 50 * np.eye(40, dtype=np.int64)
    counts[3, 7], counts[2, 9], counts[9, 2], counts[5, 6] = 4, 9, 4, 1
    counts[9, 9] = 0
    axes = confusion(counts, [f"c{i}" for i in range(40)], "test").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["c2 → c9", "c9 → c2", "c3 → c7"]
    assert [bar.get_width() for bar in axes.patches] == [9, 4, 4]
    assert texts(axes)[1:4] == ["9 of 59", "4 of 4", "4 of 54"]


@pytest.mark.parametrize("classes", [3, 15, 40])
def test_confusion_of_nothing_and_of_perfection_is_drawn(classes: int, tmp_path: Path) -> None:
    for counts in (np.zeros((classes, classes), np.int64), np.eye(classes, dtype=np.int64)):
        figure = confusion(counts, [f"class {i}" for i in range(classes)], "test")
        assert save(figure, tmp_path / "figure.png").stat().st_size > 1000
    if classes == 40:
        counts[0, 1] = 1
        assert [t.get_text() for t in confusion(counts, list(map(str, range(40))), "once").axes[0].get_yticklabels()] == ["0 → 1"]


def one_protein() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twenty residues, the last five unresolved: three pairs are ringed; the surest are too near or not resolved."""
    scores, truth = np.full((20, 20), 0.01), np.zeros((20, 20), dtype=bool)
    for i, j, p in ((0, 5, 0.9), (0, 19, 0.95), (0, 12, 0.8), (1, 14, 0.7), (2, 14, 0.6)):
        scores[i, j] = scores[j, i] = p
    for i, j in ((0, 12), (2, 14), (4, 8)):
        truth[i, j] = truth[j, i] = True
    return scores, truth, np.arange(20) < 15


def test_contact_maps_ring_the_surest_resolved_pairs() -> None:
    figure = contact_maps([("best: a", *one_protein()), ("worst: b", *one_protein())], "valid")
    assert sorted(marks(figure, GREEN)) == [(9, 5), (13, 1), (15, 3)]
    assert sorted(marks(figure, BLUE)) == [(1, 13), (3, 15)] and marks(figure, ORANGE) == [(2, 15)]
    assert texts(figure.axes[1])[0] == "worst: b" and "of the 3 surest" in texts(figure.axes[0])[1] and "2 are" in texts(figure.axes[0])[1]
    shown = [axes.images[0] for axes in figure.axes[:2]]
    assert np.ma.getmaskarray(shown[0].get_array())[15:].all() and shown[0].get_array()[12, 0] == 0.8
    assert [image.get_clim() for image in shown] == [(0.0, 0.6)] * 2
    assert {patch.get_y() for patch in figure.axes[0].patches} >= {15.5}


def test_contact_maps_share_one_scale() -> None:
    scores, truth, resolved = one_protein()
    figure = contact_maps([("a", scores, truth, resolved), ("b", scores / 6, truth, resolved)], "valid")
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(0.0, 0.6)}


def test_contact_maps_of_a_short_or_unresolved_protein(tmp_path: Path) -> None:
    for length, resolved in ((5, True), (30, False)):
        maps = [("best", np.zeros((length, length)), np.zeros((length, length), bool), np.full(length, resolved))]
        assert save(contact_maps(maps, "valid"), tmp_path / "figure.png").stat().st_size > 1000


def test_bars_of_the_model_and_of_baselines() -> None:
    """A baseline without the metric on a split has no bar; the model's interval is a line."""
    scores, intervals = {"valid": 0.7, "test_family": -0.2}, {"valid": {"spearman": (0.6, 0.75)}, "test_family": {"spearman": (-0.3, NAN)}}
    figure = against_baselines("spearman", scores, intervals, {"ridge": {"valid": {"spearman": 0.5}, "test_family": {"mse": 1.0}}})
    axes = figure.axes[0]
    heights = {label: [bar.get_height() for bar in bars] for bars, label in zip(axes.containers, legend_of(figure), strict=True)}
    assert heights["this model"] == [0.7, -0.2] and heights["ridge"][0] == 0.5 and np.isnan(heights["ridge"][1])
    assert [line.get_ydata().tolist() for line in axes.lines if len(set(line.get_ydata())) == 2] == [[0.6, 0.75]]
    assert [text.get_text() for text in axes.texts][:3] == ["0.70", "-0.20", "0.50"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["valid", "test\nfamily"]
    assert axes.containers[0][0].get_facecolor()[:3] == to_rgb(BLUE)


TRIALS = [
    {"rate": rate, "pooling": pooling, "decay": decay} for rate in (1e-4, 1e-3) for pooling in ("mean", "max") for decay in (0.0, 0.01)
]


def test_sweep_shows_each_finished_trial_on_each_axis() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, NAN, 0.7, 0.6]
    figure = sweep(TRIALS, scores, "spearman", "stability")
    rate, pooling, decay = figure.axes
    points = rate.collections[0].get_offsets().tolist()
    assert points == [[t["rate"], s] for t, s in zip(TRIALS, scores, strict=True) if s == s]
    assert rate.get_xscale() == "log" and decay.get_xscale() == "linear"
    assert rate.lines[0].get_xydata().tolist() == [[1e-4, 0.4], [1e-3, 0.7]]
    assert pooling.lines[0].get_xydata().tolist() == [[0, 0.5], [1, 0.7]]
    assert [t.get_text() for t in pooling.get_xticklabels()] == ["mean", "max"]
    assert [t.get_text() for t in decay.get_xticklabels()] == ["0", "0.01"]
    assert rate.collections[1].get_offsets().tolist() == [[1e-3, 0.7]]
    title = figure.get_suptitle()
    assert "7 trials" in title and "best 0.700" in title and "1 failed" in title


def test_values_drawn_at_random_are_in_their_places_and_not_joined() -> None:
    drawn = np.random.default_rng(0).uniform(0.1, 0.5, 20)
    axes = sweep([{"dropout": float(x)} for x in drawn], drawn.tolist(), "accuracy", "x").axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 0], drawn)
    assert not axes.lines and axes.get_xscale() == "linear"


@pytest.mark.parametrize(("trials", "scores"), [([], []), ([{"rate": 0.1}], [NAN]), ([{"rate": None}, {"rate": 1}], [0.1, 0.1])])
def test_a_sweep_with_little_to_show_is_drawn(trials: list[dict[str, object]], scores: list[float], tmp_path: Path) -> None:
    assert save(sweep(trials, scores, "accuracy", "x"), tmp_path / "figure.png").stat().st_size > 1000


def test_pictures_of_nothing_leave_no_style_behind(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    nothing, unknown = np.array([]), np.array([NAN])
    for figure in (scatter(nothing, nothing, "none"), scatter(unknown, np.array([1.0]), "nan"), against_baselines("a", {}, {}, {})):
        assert save(figure, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
