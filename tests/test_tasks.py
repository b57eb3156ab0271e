"""The tasks' losses against plain loops, what is scored and what is not, and that a prediction knows no neighbours."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raypro.config import InputError
from raypro.core.batch import ContactLabel, LabelledBatch
from raypro.data.labelled import LabelledData
from raypro.evaluate import task_plots
from raypro.probe_tasks import PROBES, require_labels
from raypro.tasks.classification import Classification
from raypro.tasks.contacts import Contacts, candidate_pairs, truth
from raypro.tasks.regression import Regression
from raypro.tasks.residues import ResidueClassification
from raypro.tasks.tape import TASKS as NAMED
from raypro.tasks.tape import require_task
from tests.label_files import STABILITY, run, to_json
from tests.small import TINY, batch_of, random_sequences

LENGTHS = (9, 14, 30)
LETTERS = tuple("HEC")


def labelled(labels: Sequence[Any], sequences: Sequence[str] | None = None) -> LabelledBatch:
    batch = batch_of(*(sequences or proteins()))
    return LabelledBatch(batch.tokens, batch.keys, batch.rows, tuple(labels))


def proteins() -> list[str]:
    return [random_sequences(1, n, n, seed=n)[0] for n in LENGTHS]


def residue_labels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-1, 3, n) for n in LENGTHS]


def contact_labels() -> list[ContactLabel]:
    rng = np.random.default_rng(1)
    labels = []
    for n in LENGTHS:
        i, j = np.nonzero(np.triu(rng.random((n, n)) < 0.2, k=1))
        labels.append(ContactLabel(np.stack([i, j], axis=1).astype(np.int32), rng.random(n) < 0.8))
    return labels


TASKS = {
    "regression": (Regression(center=2.0, scale=0.5), [1.0, 2.5, 3.0]),
    "classification": (Classification(classes=("a", "b", "c")), [2, 0, 1]),
    "residues": (ResidueClassification(classes=LETTERS, filters=8), residue_labels()),
    "linear contacts": (Contacts(dropout=0.0), contact_labels()),
    "linear contacts on a pair layer": (Contacts(pair_layer=True, dropout=0.0), contact_labels()),
    "resnet contacts": (Contacts(head="resnet", dropout=0.0), contact_labels()),
}


def model_of(task: Any) -> Any:
    torch.manual_seed(0)
    return task.build(TINY.build()).double().eval()


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    terms = [math.exp(x - top) for x in logits]
    return [t / sum(terms) for t in terms]


def naive_sums(task: Any, outputs: Any, labels: Sequence[Any]) -> list[float]:
    """The sums by plain loops over what the head gave."""
    loss = hits = 0.0
    for b, label in enumerate(labels):
        if isinstance(task, Regression):
            loss += (float(outputs[b]) - (label - task.center) / task.scale) ** 2
        elif isinstance(task, Classification):
            p = softmax(outputs[b].tolist())
            loss -= math.log(p[label])
            hits += p.index(max(p)) == label
        elif isinstance(task, ResidueClassification):
            for position, c in enumerate(label):
                p = softmax(outputs[b, 1 + position].tolist())
                if c >= 0:
                    loss -= math.log(p[c])
                    hits += p.index(max(p)) == c
        else:
            touching = {tuple(pair) for pair in label.pairs.tolist()}
            for i in range(len(label.resolved)):
                for j in range(i + 6, len(label.resolved)):
                    if label.resolved[i] and label.resolved[j]:
                        p = 1 / (1 + math.exp(-float(outputs[b][i, j])))
                        loss -= math.log(p if (i, j) in touching else 1 - p)
    return [loss] if isinstance(task, Regression | Contacts) else [loss, hits]


@pytest.mark.parametrize("name", TASKS)
def test_sums_equal_plain_loops(name: str) -> None:
    task, labels = TASKS[name]
    prepared, model = task.prepare(labelled(labels)), model_of(task)
    with torch.no_grad():
        outputs = task.outputs(model, prepared)
    torch.testing.assert_close(task.sums_of(outputs, prepared).tolist(), naive_sums(task, outputs, labels), rtol=1e-5, atol=1e-6)
    assert task.sums(model, prepared).tolist() == task.sums_of(outputs, prepared).tolist()
    assert len(task.quantities) == len(task.sums(model, prepared))


@pytest.mark.parametrize("name", TASKS)
def test_every_weight_of_the_head_is_trained(name: str) -> None:
    task, labels = TASKS[name]
    model = model_of(task)
    task.sums(model, task.prepare(labelled(labels)))[0].backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None]
    unused = {"encoder.norm.weight", "encoder.norm.bias"} if name == "resnet contacts" else set()
    assert not set(untrained) - unused


@pytest.mark.parametrize("name", TASKS)
def test_a_prediction_does_not_depend_on_neighbours_or_their_order(name: str) -> None:
    task, _ = TASKS[name]
    model, sequences = model_of(task), proteins()
    together = predict(task, model, sequences)
    reversed_ = predict(task, model, sequences[::-1])[::-1]
    alone = [predict(task, model, [s])[0] for s in sequences]
    for one, two, three in zip(together, reversed_, alone, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
        np.testing.assert_allclose(one, three, atol=1e-6)


def predict(task: Any, model: Any, sequences: Sequence[str]) -> list[Any]:
    prepared = task.prepare(labelled((), sequences))  # without labels, as for new sequences
    with torch.no_grad():
        return task.predictions(task.outputs(model, prepared), prepared)


def test_counts_are_what_the_sums_run_over() -> None:
    expected = {
        "regression": {"sequences": 3},
        "classification": {"sequences": 3},
        "residues": {"residues": sum(int((x >= 0).sum()) for x in residue_labels())},
    }
    for name, counts in expected.items():
        task, labels = TASKS[name]
        assert task.prepare(labelled(labels)).counts == counts


@pytest.mark.parametrize("resolved", [[True] * 20, [False] * 20, [True] * 6, [True, False] * 10, [True] * 7 + [False] * 5 + [True] * 3])
def test_candidate_pairs_are_counted_as_one_by_one(resolved: list[bool]) -> None:
    n = len(resolved)
    pairs = sum(resolved[i] and resolved[j] for i in range(n) for j in range(i + 6, n))
    assert candidate_pairs(np.array(resolved)) == pairs
    task, batch = Contacts(), labelled([ContactLabel(np.zeros((0, 2), np.int32), np.array(resolved))], ["A" * n])
    assert task.prepare(batch).counts == {"pairs": pairs}


def test_a_sequence_without_labelled_terms_weighs_nothing_and_is_connected() -> None:
    task = ResidueClassification(classes=LETTERS, filters=8)
    model = model_of(task)
    sums = task.sums(model, task.prepare(labelled([np.full(n, -1) for n in LENGTHS])))
    sums[0].backward()
    assert sums.tolist() == [0.0, 0.0]


def test_regression_predicts_in_the_labels_unit() -> None:
    task, labels = TASKS["regression"]
    prepared, model = task.prepare(labelled(labels)), model_of(task)
    standardised = task.outputs(model, prepared)
    predicted = task.predictions(standardised, prepared)
    np.testing.assert_allclose(predicted, 2.0 + 0.5 * standardised.detach().numpy(), rtol=1e-6)
    shifted = replace(task, center=3.0)
    np.testing.assert_allclose(shifted.predictions(standardised, prepared), np.array(predicted) + 1.0, rtol=1e-6)


def test_contacts_are_scored_by_protein_and_beside_chance() -> None:
    labels = [ContactLabel(np.array([[0, 12], [3, 20], [1, 25]], np.int32), np.ones(30, bool))]
    perfect = truth(labels[0]).astype(np.float32)
    metrics = Contacts().score([perfect], labels)
    candidates = sum(1 for i in range(30) for j in range(i + 12, 30))
    assert metrics["P_at_L5_medium_long"] == pytest.approx(3 / 6)  # L / 5 = 6 pairs are taken, 3 are contacts
    assert metrics["random_precision_medium_long"] == pytest.approx(3 / candidates)


def test_what_tapes_code_counts_has_an_interval_over_proteins_and_so_a_row_of_the_table() -> None:
    empty = ContactLabel(np.zeros((0, 2), np.int32), np.ones(30, bool))
    hit = ContactLabel(np.array([[0, 12]], np.int32), np.ones(30, bool))
    sure = truth(hit).astype(np.float32)
    low, high = Contacts().intervals([sure] * 4, [hit, empty, hit, empty])["P_at_L5_tape_code"]
    assert 0 <= low < 2 / 24 < high <= 4 / 24  # of 24 pairs taken two are contacts; at most all four proteins have one
    alone = Contacts().intervals([sure], [hit])["P_at_L5_tape_code"]
    assert all(math.isnan(value) for value in alone)


@pytest.mark.parametrize(
    ("proteins", "words"),
    [(0, []), (1, ["the only one: p0"]), (2, ["better: p1", "worse: p0"]), (5, ["best: p4", "median: p2", "worst: p0"])],
)
def test_each_protein_is_drawn_once(proteins: int, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = ContactLabel(np.array([[i, i + 12] for i in range(6)], np.int32), np.ones(30, bool))
    maps = [np.zeros((30, 30), np.float32) for _ in range(proteins)]
    for right, scores in enumerate(maps):  # the first none of its six pairs right, the next one, ...
        for i in range(6):
            scores[i, i + 12 + (i >= right)] = 1.0
    examples = SimpleNamespace(labels=[label] * proteins, ids=[f"p{i}" for i in range(proteins)])
    drawn: list[str] = []
    monkeypatch.setattr(task_plots, "contact_maps", lambda maps, name: drawn.extend(title.split(",")[0] for title, *_ in maps))
    monkeypatch.setattr("raypro.evaluate.plots.save", lambda figure, path: path)
    assert len(Contacts().pictures(maps, examples, tmp_path, "test")) == bool(proteins)  # type: ignore[arg-type]
    assert drawn == words


def test_data_of_one_task_are_not_taken_for_another(tmp_path: Path) -> None:
    named = zip(("train", "valid"), STABILITY, strict=True)
    files = [to_json(tmp_path / f"stability_{split}.json", [record]) for split, record in named]
    data = run(files, tmp_path / "named", task="stability").data
    own = run(files, tmp_path / "own", kind="regression", label_column="stability_score").data
    for probe in ("stability", "regression"):
        assert require_labels(probe, data).labels == "regression" and require_labels(probe, own).labels == "regression"
        require_task(probe, data, "--task")
    require_labels("fluorescence", own)  # of what nothing is said may be of any task
    with pytest.raises(InputError, match=r"--probe fluorescence: .*named holds stability; give --probe stability"):
        require_labels("fluorescence", data)
    with pytest.raises(InputError, match=r"--task fluorescence: .*named holds stability; give --task stability"):
        require_task("fluorescence", data, "--task")


def test_secondary_structure_in_eight_classes_is_a_task_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"primary": "ACDEFGHI" + "W" * i, "ss8": [0, 1, 2, 3, 4, 5, 6, 7] + [0] * i, "ss3": [0, 0, 0, 1, 1, 2, 2, 2] + [0] * i}
        for i in (1, 2)
    ]
    files = [to_json(tmp_path / f"secondary_structure_{split}.json", [row]) for split, row in zip(("train", "valid"), rows, strict=True)]
    data = run(files, tmp_path / "d", task="secondary_structure_8").data
    assert json.loads(data.manifest.options)["task"] in NAMED and "secondary_structure_8" in PROBES
    assert NAMED["secondary_structure_8"]().fitted_to(LabelledData.open(data.path)).classes == tuple("GHIBESTC")
    with pytest.raises(InputError, match="give --probe secondary_structure_8"):
        require_labels("secondary_structure", data)
