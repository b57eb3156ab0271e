"""What probes look at, by hand, and how it is laid out."""

from typing import Any

import numpy as np
import pytest
import torch

from raypro import representations
from raypro.config import InputError
from raypro.encoder import LoadedEncoder
from raypro.evaluate import probe_plots
from raypro.evaluate.baselines import TYPES
from raypro.representations import WINDOW, Composition, Encoded, KMers, OneHot, random_weights, residue_chunks, with_baselines
from tests.small import TINY, random_sequences


def encoder_of(shape: Any = TINY, seed: int = 3) -> LoadedEncoder:
    torch.manual_seed(seed)
    return LoadedEncoder(shape.build().eval(), shape, torch.device("cpu"))


def test_one_hot_and_composition_by_hand() -> None:
    one_hot = OneHot(2).of_sequences(["CA", "A"]).toarray()
    assert one_hot.shape == (2, 2 * TYPES) and np.argwhere(one_hot).tolist() == [[0, 1], [0, TYPES], [1, 0]]
    (windows,) = OneHot(2).of_residues(["CAX"])
    half = WINDOW // 2
    expected = [[(half - r + p) * TYPES + kind for p, kind in enumerate((1, 0, TYPES - 1))] for r in range(3)]
    assert [np.flatnonzero(row).tolist() for row in windows] == [sorted(places) for places in expected]
    shares = Composition().of_sequences(["CAAX", "A"])
    assert shares[0, [0, 1, TYPES - 1]].tolist() == [0.5, 0.25, 0.25] and shares.sum() == 2.0
    (around,) = Composition().of_residues(["A" * half + "C" + "D" * 20])
    assert around[0, :3].tolist() == pytest.approx([half / (half + 1), 1 / (half + 1), 0.0])
    assert around[half, :3].tolist() == pytest.approx([half / WINDOW, 1 / WINDOW, half / WINDOW])


def test_k_mers_by_hand() -> None:
    """A is 0, C is 1 and D is 2 of 20: AC is the run 1, CD the run 22; X is in no run."""
    shares = KMers().of_sequences(["ACDXACC", "acd", "A", "AXC"])
    assert shares.shape == (4, 400)
    assert {int(run): float(shares[0, run]) for run in np.flatnonzero(shares[0])} == {1: 0.5, 21: 0.25, 22: 0.25}
    assert shares[1, [1, 22]].tolist() == [0.5, 0.5] and not shares[2:].any()
    assert np.flatnonzero(KMers(3).of_sequences(["ACD"])[0]).tolist() == [22]
    single = KMers(1).of_sequences(["CAAX", "X"])
    assert single[0, :2].tolist() == pytest.approx([2 / 3, 1 / 3]) and not single[1].any()
    with pytest.raises(InputError, match="k: 4 is not 1, 2 or 3"):
        KMers(4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_k_mers_around_a_residue_are_those_of_its_window(k: int) -> None:
    sequences = ["MKXVLAYTWMKVLAYTWACDEFGHIKLM", "AC", "A", ""]
    for sequence, around in zip(sequences, KMers(k).of_residues(sequences), strict=True):
        half = WINDOW // 2
        windows = [sequence[max(0, at - half) : at + half + 1] for at in range(len(sequence))]
        np.testing.assert_allclose(around, KMers(k).of_sequences(windows), atol=1e-6)


def test_random_weights_are_the_seeds_and_not_the_encoders() -> None:
    encoder, sequences = encoder_of(), random_sequences(3, 10, 20)
    before = torch.random.get_rng_state()
    one, again, other = (random_weights(encoder, seed).embed(sequences) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one, again) and not np.allclose(one, other, atol=1e-3) and one.shape == encoder.embed(sequences).shape
    assert not np.allclose(one, encoder.embed(sequences), atol=1e-3)


def test_one_hot_is_cut_where_a_probe_would_have_too_many_weights() -> None:
    positions = [
        with_baselines(encoder_of(), None, longest, outputs)[2].positions for longest, outputs in [(50, 1), (9999, 1), (9999, 1195)]
    ]
    assert positions == [50, 512, 39]


def test_chunks_hold_all_sequences_in_order_and_few_residues(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(40, 1, 30) + ["A" * 500]
    parts = [sequences[part] for part in residue_chunks(sequences, 60)]
    assert [s for part in parts for s in part] == sequences
    assert all(sum(map(len, part)) <= 60 or len(part) == 1 for part in parts) and list(residue_chunks([])) == []
    monkeypatch.setattr(representations, "CHUNK", 7)
    encoder = encoder_of()
    np.testing.assert_allclose(Encoded("", "", encoder, "mean").of_sequences(sequences), encoder.embed(sequences), atol=1e-5)


def test_a_layout_is_its_seeds_and_takes_vectors_of_any_kind() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) + 30])
    places = probe_plots.lay_out(vectors, seed=1)
    assert places.shape == (40, 2) and np.array_equal(places, probe_plots.lay_out(vectors, seed=1))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(40, np.inf))
    assert ((apart.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()  # every one's neighbour is of its own group
    assert probe_plots.lay_out(OneHot(5).of_sequences(random_sequences(10, 3, 8))).shape == (10, 2)
    assert not probe_plots.lay_out(np.ones((5, 3))).any()
    with pytest.raises(ValueError, match="expected 3 to"):
        probe_plots.lay_out(vectors[:2])


def test_fifty_families_are_told_apart() -> None:
    names = [f"f{i}" for i in range(50)]
    figure = probe_plots.family_maps([("a", np.random.default_rng(0).normal(size=(100, 2)))], np.arange(100) % 50, names, "all")
    looks = {(c.get_facecolor().tobytes(), c.get_paths()[0].vertices.tobytes()) for c in figure.axes[0].collections}
    assert len(looks) == 50 and len(figure.legends[0].get_texts()) == 50
