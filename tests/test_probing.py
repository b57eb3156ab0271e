"""``raypro evaluate``: an encoder beside its baselines; what may choose; what is written; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from raypro import probe_tasks
from raypro.config import InputError
from raypro.core.alphabet import STANDARD
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.encoders.onehot import OneHotShape
from raypro.core.encoders.transformer import TransformerShape
from raypro.data.labelled import LabelledData
from raypro.evaluate.baselines import TYPES
from raypro.probe_tasks import evaluate_families, evaluate_labelled
from raypro.representations import WINDOW, random_weights
from tests.small import hydrophobic_share, random_sequences, write_labelled
from tests.test_representations import encoder_of

HYDROPHOBIC = "AILMFVWY"
NAMES = ["this encoder", "random weights", "one-hot", "composition", "k-mers"]
SIZES = {"train": 60, "valid": 20, "test": 20}
PATCHES = CPCProtShape(embedding=4, filters=(6, 8), kernels=(4, 8))


def classes_of(folder: Path, sizes: dict[str, int] = SIZES) -> LabelledData:
    """Proteins rich in hydrophobic residues, or not."""
    splits = {}
    for number, (split, size) in enumerate(sizes.items()):
        sequences = random_sequences(size, 12, 40, seed=number)
        rich = ["rich" if sum(c in HYDROPHOBIC for c in s) / len(s) > 0.4 else "poor" for s in sequences]
        splits[split] = {"sequence": sequences, "label": rich}
    return write_labelled(folder, "classification", splits, ("poor", "rich"))


def residues_of(folder: Path, sizes: dict[str, int] = SIZES) -> LabelledData:
    """H for a residue after a hydrophobic one, E for others, the first residue not scored."""
    splits = {}
    for number, (split, size) in enumerate(sizes.items()):
        sequences = random_sequences(size, 12, 40, seed=number)
        labels = ["-" + "".join("H" if c in HYDROPHOBIC else "E" for c in s[:-1]) for s in sequences]
        splits[split] = {"sequence": sequences, "label": labels}
    return write_labelled(folder, "residue_classification", splits, ("H", "E"))


def family_table(path: Path, families: int = 4, members: int = 10) -> Path:
    """Families of few letters each: the composition tells them apart."""
    rng, rows = np.random.default_rng(0), ["id\tfamily\tsequence"]
    for number in range(families):
        letters = list(STANDARD[4 * number : 4 * number + 5])
        rows += [f"p{number}_{i}\tf{number}\t{''.join(rng.choice(letters, 30))}" for i in range(members)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_numbers_have_two_probes_of_each_representation(tmp_path: Path) -> None:
    found = evaluate_labelled(encoder_of(), "regression", hydrophobic_share(tmp_path / "data", SIZES))
    assert [(f.representation, f.probe) for f in found.findings] == [
        (name, probe) for name in NAMES for probe in ("linear regression", "k nearest neighbours")
    ]
    for finding in found.findings:
        assert set(finding.scores) == set(finding.intervals) == {"valid", "test"} and len(finding.predictions["test"]) == 20
        for metric in ("spearman", "mse"):
            low, high = finding.intervals["test"][metric]
            assert low <= finding.scores["test"][metric] <= high
    assert found.findings[6].scores["test"]["spearman"] > 0.99  # the label is a linear function of the composition
    assert {"linear_regression_spearman_test", "k_nearest_neighbours_mse_valid"} <= set(found.metrics)
    assert found.metrics["linear_regression_mse_test"] == found.findings[0].scores["test"]["mse"]


def test_without_baselines_only_the_encoder_is_probed(tmp_path: Path) -> None:
    found = evaluate_labelled(encoder_of(), "classification", classes_of(tmp_path / "data"), baselines=False)
    assert {finding.representation for finding in found.findings} == {"this encoder"}
    assert found.about == {"this encoder": "its weights as they are; mean"}


@pytest.mark.parametrize("kind", ["regression", "classification", "residue_classification"])
def test_the_mean_of_one_hot_residues_is_the_composition(kind: str, tmp_path: Path) -> None:
    """An encoder that passes residues through, pooled by the mean, finds what the composition finds; of a residue, less."""
    make = {"regression": hydrophobic_share, "classification": classes_of, "residue_classification": residues_of}[kind]
    found = evaluate_labelled(encoder_of(OneHotShape()), kind, make(tmp_path / "data", SIZES))
    own, last = ([f for f in found.findings if f.representation == name] for name in ("this encoder", "composition"))
    if kind == "residue_classification":
        by_name = {f.representation: f.scores["test"]["accuracy"] for f in found.findings}
        assert by_name["one-hot"] == 1.0 > by_name["composition"] > by_name["this encoder"]
        return
    for one, other in zip(own, last, strict=True):
        assert one.setting == other.setting
        for metric, value in one.scores["test"].items():
            assert value == pytest.approx(other.scores["test"][metric], abs=1e-4), metric


@pytest.mark.parametrize(("kind", "make"), [("classification", classes_of), ("residue_classification", residues_of)])
def test_nothing_of_the_test_split_reaches_fit_or_choice(kind: str, make: Any, tmp_path: Path) -> None:
    whole = make(tmp_path / "a", SIZES)
    other = make(tmp_path / "b", SIZES)
    columns = pq.read_table(other.path / "test.parquet").to_pydict()
    swap = str.maketrans("HE", "EH") if kind != "classification" else {}
    labels = [{"rich": "poor", "poor": "rich"}.get(label, label.translate(swap)) for label in columns["label"]]
    parts = {s: pq.read_table(other.path / f"{s}.parquet").select(["sequence", "label"]).to_pydict() for s in ("train", "valid")}
    parts["test"] = {"sequence": columns["sequence"], "label": labels}
    changed = write_labelled(tmp_path / "c", kind, parts, other.manifest.classes)
    one, two = (evaluate_labelled(encoder_of(), kind, data) for data in (whole, changed))
    for a, b in zip(one.findings, two.findings, strict=True):
        assert (a.setting, a.tried) == (b.setting, b.tried)
        assert all(np.array_equal(p, q) for p, q in zip(a.predictions["test"], b.predictions["test"], strict=True))
        assert a.scores["valid"] == b.scores["valid"] and a.scores["test"] != b.scores["test"]


def test_residues_are_those_of_scikit_learn_by_hand(tmp_path: Path) -> None:
    """One-hot windows filled in loops, standardised, a logistic regression: the same choice and the same probabilities."""
    data = residues_of(tmp_path / "data")
    found = {f.representation: f for f in evaluate_labelled(encoder_of(), "secondary_structure", data).findings}["one-hot"]
    rows: dict[str, list[Any]] = {}
    for split in ("train", "valid", "test"):
        examples = data.read(split)
        for sequence, label in zip(examples.sequences, examples.labels, strict=True):
            for place in range(len(sequence)):
                x = np.zeros((WINDOW, TYPES))
                for offset in range(WINDOW):
                    at = place + offset - WINDOW // 2
                    if 0 <= at < len(sequence):
                        x[offset, STANDARD.index(sequence[at])] = 1
                if label[place] >= 0:
                    rows.setdefault(split, []).append((x.reshape(-1), label[place]))
    (x, y), (v, vy), (t, _) = ((np.array([x for x, _ in part]), np.array([y for _, y in part])) for part in rows.values())
    scaler = StandardScaler().fit(x)
    models = {c: LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x), y) for c in (1.0, 0.01, 0.0001)}
    accuracy = {f"C = {c:g}": model.score(scaler.transform(v), vy) for c, model in models.items()}
    assert found.tried == pytest.approx(accuracy) and found.setting == max(accuracy, key=lambda c: accuracy[c])
    expected = models[float(found.setting.split()[-1])].predict_proba(scaler.transform(t))
    predicted = np.concatenate([p[1:] for p in found.predictions["test"]])  # of each protein the first residue is not scored
    np.testing.assert_allclose(predicted, expected, atol=5e-3)


def test_what_is_beyond_an_encoders_positions_is_left_out_and_said(tmp_path: Path) -> None:
    sequences = [*random_sequences(30, 12, 20), "A" * 21]
    splits = {split: {"sequence": sequences, "label": [float(len(s)) for s in sequences]} for split in SIZES}
    encoder = encoder_of(TransformerShape(1, 8, 2, 16, positions="learned", longest=20))
    found = evaluate_labelled(encoder, "stability", write_labelled(tmp_path / "data", "regression", splits), baselines=False)
    assert "valid: 1 sequences left out: the encoder has vectors for 1 to 20 residues only" in found.notes
    assert found.train_size == 30


def test_residues_that_are_fitted_are_bounded_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("TRAIN_PROTEINS", 30), ("VALID_PROTEINS", 7), ("TRAIN_RESIDUES", 200)):
        monkeypatch.setattr(probe_tasks, name, most)
    found = evaluate_labelled(encoder_of(), "residue_classification", residues_of(tmp_path / "data"))
    assert found.about["one-hot"] == "the 11 residues around one"
    assert found.train_size == 200 and "fitted to 200 residues of 30 training proteins, chosen by 7" in found.notes
    assert len(found.splits["valid"].ids) == 7 and len(found.splits["test"].ids) == 20


def test_what_is_shorter_than_a_patch_is_left_out_everywhere_and_said(tmp_path: Path) -> None:
    sequences = random_sequences(30, 12, 40)
    splits = {split: {"sequence": [*sequences, "ACD"], "label": [float(len(s)) for s in sequences] + [9.0]} for split in SIZES}
    found = evaluate_labelled(encoder_of(PATCHES), "stability", write_labelled(tmp_path / "data", "regression", splits))
    assert "test: 1 sequences left out: the encoder has vectors for 11 residues or more only" in found.notes
    assert {len(f.predictions["test"]) for f in found.findings} == {30} and found.train_size == 30
    too_short = write_labelled(tmp_path / "short", "regression", {s: {"sequence": ["ACD"], "label": [1.0]} for s in SIZES})
    with pytest.raises(InputError, match="train: no sequence of 11 residues or more"):
        evaluate_labelled(encoder_of(PATCHES), "stability", too_short)


def test_families_are_asked_of_the_nearest_neighbour(tmp_path: Path) -> None:
    found = evaluate_families(encoder_of(OneHotShape()), family_table(tmp_path / "f.tsv"), members=10)
    accuracy = {f.representation: f.scores["test"]["accuracy"] for f in found.findings}
    assert list(accuracy) == NAMES and accuracy["this encoder"] == accuracy["composition"] == 1.0
    assert found.train_size == 28 and len(found.splits["test"].ids) == 12
    assert found.notes[0].startswith("the 4 largest families (no more have 10 distinct sequences)") and "by chance 0.250" in found.notes[0]
    for finding in found.findings:
        hits = np.array(finding.predictions["test"]) == np.array(found.splits["test"].labels)
        assert finding.scores["test"]["accuracy"] == hits.mean()


def test_what_is_fitted_and_predicted_may_be_bounded_and_is_said(tmp_path: Path) -> None:
    data = hydrophobic_share(tmp_path / "data", SIZES)
    found = evaluate_labelled(encoder_of(), "regression", data, fitted=15, predicted=8)
    assert found.train_size == 15 and {name: len(split.ids) for name, split in found.splits.items()} == {"valid": 8, "test": 8}
    assert {"train: 15 of 60 sequences, drawn at random", "test: 8 of 20 sequences, drawn at random"} <= set(found.notes)
    assert set(evaluate_labelled(encoder_of(), "regression", data, fitted=15, predicted=8, tests=False).splits) == {"valid"}
    whole = evaluate_labelled(encoder_of(), "regression", data, baselines=False, fitted=60, predicted=20)
    assert whole.train_size == 60 and not any("drawn at random" in note for note in whole.notes)


def test_encoders_of_one_shape_have_the_same_baselines(tmp_path: Path) -> None:
    data = hydrophobic_share(tmp_path / "data", SIZES)
    one, other = encoder_of(), random_weights(encoder_of(), seed=7)
    whole, first = (evaluate_labelled(encoder, "regression", data) for encoder in (other, one))
    joined = evaluate_labelled(other, "regression", data, baselines=False).beside_baselines_of(first)
    said = [[(f.representation, f.probe, f.scores) for f in found.findings] for found in (joined, whole)]
    assert said[0] == said[1]
    assert joined.about == whole.about and joined.own[0].scores != first.own[0].scores
