"""``raypro evaluate --probe contrastive``: figures as plain loops give them, batches of one size, what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raypro import contrastive, probing
from raypro.config import InputError
from raypro.contrastive import evaluate_contrastive, objective_of
from raypro.core import checkpoint
from raypro.core.alphabet import PAD, encode
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.objectives.cpc import CPC
from raypro.core.reference.cpc import loop_info_nce, loop_vectors
from raypro.experiment import Experiment
from raypro.job import command_main
from raypro.outbox import read_records
from raypro.probing import evaluate_command
from tests.fine_tuned import save_model, write_fasta
from tests.small import random_sequences, write_corpus
from tests.test_representations import encoder_of

SHAPE = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4))  # patches of 6
OBJECTIVE = CPC(steps_ahead=3, patch_length=6, max_length=80)  # sequences from 30 residues
SEQUENCES = random_sequences(40, 20, 100, seed=3)


def save_cpcprot(run: Path, objective: CPC = OBJECTIVE) -> Path:
    """Save an untrained CPCProt as a run's checkpoint."""
    torch.manual_seed(0)
    path = run / "step_00000007"
    plain = Experiment(name="cpc", corpus="nowhere", objective=objective, encoder=SHAPE).to_plain()
    checkpoint.save(path, objective.build(SHAPE.build()), plain, 7, {"valid/loss": 1.0})
    return path


def plain_figures(sequences: list[str], size: int) -> dict[str, dict[str, float]]:
    """Return what loops over batches, t and k give: "all" and each distance -> accuracy, bound, chance (and the loss, of all)."""
    module = encoder_of(SHAPE).module.double()
    taken = [s[: OBJECTIVE.max_length] for s in sequences if len(s) >= OBJECTIVE.min_length]
    taken = taken[: len(taken) // size * size]
    total = {name: torch.zeros(OBJECTIVE.steps_ahead, dtype=torch.float64) for name in ("loss", "correct", "log_n", "terms")}
    chance = 0.0
    for start in range(0, len(taken), size):
        batch = taken[start : start + size]
        residues = torch.full((len(batch), max(map(len, batch))), PAD)
        for row, sequence in enumerate(batch):
            residues[row, : len(sequence)] = torch.from_numpy(encode(sequence).astype(np.int64))
        whole = [len(sequence) // 6 for sequence in batch]
        found = loop_info_nce(*loop_vectors(module, residues, 6), whole, OBJECTIVE.steps_ahead, OBJECTIVE.t_min)
        total = {name: value + found[name].detach() for name, value in total.items()}
        for t in range(OBJECTIVE.t_min, max(whole) - OBJECTIVE.steps_ahead):
            chance += sum(t + OBJECTIVE.steps_ahead < patches for patches in whole) > 1  # n terms of 1 / n
    rows = {f"{k + 1} ahead": k for k in range(OBJECTIVE.steps_ahead)} | {"all": slice(None)}
    terms = float(total["terms"][0])
    return {
        name: {
            "accuracy": float(total["correct"][k].sum() / total["terms"][k].sum()),
            "bound": float((total["log_n"][k] - total["loss"][k]).sum() / total["terms"][k].sum()),
            "chance": chance / terms,
            **({"loss": float(total["loss"].sum() / total["terms"].sum())} if name == "all" else {}),
        }
        for name, k in rows.items()
    }


def test_the_figures_are_those_of_plain_loops(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": SEQUENCES[:3], "valid": SEQUENCES, "test": SEQUENCES[::-1]})
    encoder = encoder_of(SHAPE)
    encoder.module.double()
    found = evaluate_contrastive(encoder, OBJECTIVE, corpus.path, baselines=False, batch=10)
    assert list(found.splits) == ["valid", "test"] and [f.probe for f in found.findings] == ["all", "1 ahead", "2 ahead", "3 ahead"]
    for split, sequences in (("valid", SEQUENCES), ("test", SEQUENCES[::-1])):
        expected = plain_figures(sequences, 10)
        for finding in found.findings:
            assert finding.scores[split] == pytest.approx(expected[finding.probe], rel=1e-9), (split, finding.probe)
            low, high = finding.intervals[split]["accuracy"]
            assert low <= finding.scores[split]["accuracy"] <= high
    long_enough = sum(len(s) >= 30 for s in SEQUENCES)
    assert len(found.splits["valid"].ids) == long_enough // 10 * 10 < long_enough
    assert found.notes[0] == f"valid: {long_enough // 10} batches of 10 distinct sequences of 30 residues or more"


def test_a_file_is_shuffled_and_a_sequence_is_taken_once(tmp_path: Path) -> None:
    """Twice the same sequence in a batch could not be told apart."""
    file = write_fasta(tmp_path / "f.fasta", {f"p{i}": s for i, s in enumerate([*SEQUENCES, *SEQUENCES])})
    one, two = (evaluate_contrastive(encoder_of(SHAPE), OBJECTIVE, file, baselines=False, seed=seed) for seed in (0, 1))
    sequences = one.splits["test"].sequences
    assert sorted(sequences) == sorted(two.splits["test"].sequences) == sorted(s for s in SEQUENCES if len(s) >= 30)
    assert sequences != two.splits["test"].sequences
    assert math.isnan(one.findings[0].intervals["test"]["accuracy"][0])  # of one batch nothing is known of the spread
    few = evaluate_contrastive(encoder_of(SHAPE), OBJECTIVE, file, baselines=False, most=8)
    assert few.splits["test"].sequences == sequences[:8]


def test_beside_the_encoder_are_random_weights(tmp_path: Path) -> None:
    file = write_fasta(tmp_path / "f.fasta", {f"p{i}": s for i, s in enumerate(SEQUENCES)})
    found = evaluate_contrastive(encoder_of(SHAPE), OBJECTIVE, file)
    assert [f.representation for f in found.findings] == ["this encoder"] * 4 + ["random weights"] * 4
    assert found.about == {"this encoder": "its weights as they are", "random weights": "the same shape, weights drawn with seed 0"}
    assert set(found.metrics) >= {"all_accuracy_test", "all_loss_test", "3_ahead_bound_test", "1_ahead_chance_test"}


def test_the_contrast_is_the_checkpoints_own_without_padding_as_a_sample(tmp_path: Path) -> None:
    path = save_cpcprot(tmp_path / "run", replace(OBJECTIVE, reduction="paper-code"))
    assert objective_of(path, SHAPE) == OBJECTIVE
    fine_tuned = save_model(tmp_path / "tuned", encoder=SHAPE)
    assert objective_of(fine_tuned, SHAPE) == CPC(patch_length=6)


def test_the_command_writes_figures_a_picture_and_the_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probing, "send_pending", lambda run: None)
    monkeypatch.setattr(contrastive, "BATCH", 10)
    path = save_cpcprot(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    corpus = write_corpus(tmp_path / "corpus", {"train": SEQUENCES[:3], "valid": SEQUENCES})
    command_main(evaluate_command, ["--encoder", str(path), "--probe", "contrastive", "--data", str(corpus.path)])
    folder = tmp_path / "run" / "probes" / path.name / "contrastive"
    assert {file.name for file in folder.iterdir()} == {"probes.json", "pictures"}
    assert [file.name for file in (folder / "pictures").iterdir()] == ["beside_baselines.png"]
    figures = json.loads((folder / "probes.json").read_text())
    assert figures["primary"] == "accuracy" and len(figures["probes"]) == 8
    records = [record for record, _ in read_records(tmp_path / "run" / "tracking" / "outbox-probes.jsonl", 0) if record]
    assert records[0]["step"] == 7 and {"probe_contrastive/all_accuracy_valid", "probe_contrastive/2_ahead_bound_valid"} <= set(
        records[0]["values"]
    )
    said = capsys.readouterr().out
    assert "random weights" in said and "1 ahead" in said and "by chance" in said


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    path, other = save_cpcprot(tmp_path / "run"), save_model(tmp_path / "transformer")
    file = write_fasta(tmp_path / "f.fasta", {f"p{i}": s for i, s in enumerate(SEQUENCES)})
    short = write_fasta(tmp_path / "short.fasta", {"a": "ACDEFGHIKL" * 3, "b": "ACDEFGHIKL" * 3, "c": "ACDEF"})
    train = write_corpus(tmp_path / "corpus", {"train": SEQUENCES}).path
    for encoder, data, message in [
        (other, file, "step_00000003 is a Transformer encoder; give a CPCProt checkpoint"),
        (path, short, "test: 1 distinct sequences of 30 residues or more, which a contrast needs"),
        (path, train, "no valid or test split in the corpus"),
        (path, tmp_path / "nothing.fasta", "nothing.fasta: no such file"),
        (path, tmp_path / "run", "run: a folder; give the files in it"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            evaluate_command(encoder, "contrastive", data, out=tmp_path / "out")
        assert "\n" not in str(error.value)
