"""Probes of a run's checkpoints: what is found, recorded once, refused before a run begins; what ranks a sweep's trials."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypro import checkpoint_probe
from raypro.checkpoint_probe import (
    FAILED,
    WRITER,
    last_failure,
    probe_and_record,
    probe_checkpoint,
    recorded,
    require_probing,
)
from raypro.cluster.probe import probes_of
from raypro.cluster.resources import Node, worker_cpus
from raypro.cluster.trial import probed
from raypro.cluster.worker import probe_is_due
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.encoders.cpcprot import CPCProtShape
from raypro.core.objectives.cpc import CPC
from raypro.data.labelled import LabelledData
from raypro.encoder import load_encoder
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.outbox import read_records
from raypro.own_process import in_own_process
from raypro.probe_tasks import evaluate_labelled
from raypro.settings import Probing, Workers
from raypro.space import Space
from raypro.summary import draw_probes
from raypro.sweep import Demand, Result, Sweep
from raypro.training import RECORD
from tests.fine_tuned import save_model, write_fasta
from tests.small import hydrophobic_share, random_sequences, tiny_experiment, tiny_fine_tuning, write_corpus
from tests.test_probing import classes_of, family_table, residues_of

SIZES = {"train": 60, "valid": 30, "test": 20}
STABILITY = Probing("stability", "nowhere")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe in this process, which is quicker."""
    monkeypatch.setattr(checkpoint_probe, "in_own_process", lambda function, *args, seconds: function(*args))


def outbox_records(run: Path) -> list[Any]:
    return [record for record, _ in read_records(run / "tracking" / f"outbox-{WRITER}.jsonl", 0) if record]


@pytest.mark.parametrize(
    ("task", "make", "metric"),
    [
        ("stability", hydrophobic_share, "spearman"),
        ("classification", classes_of, "accuracy"),
        ("secondary_structure", residues_of, "accuracy"),
    ],
)
def test_what_is_found_is_what_evaluate_finds_on_validation(task: str, make: Any, metric: str, tmp_path: Path) -> None:
    path, data = save_model(tmp_path / "run"), make(tmp_path / "data", SIZES)
    probing = Probing(task, str(data.path), examples=1000)
    expected = evaluate_labelled(load_encoder(path), task, LabelledData.open(data.path), baselines=False)
    (data.path / "test.parquet").unlink()  # the test split is not looked at
    found = probe_checkpoint(path, probing)
    assert found[probing.metric] == max(finding.scores["valid"][metric] for finding in expected.findings)
    for finding in expected.findings:
        name = finding.probe.replace(" ", "_")
        assert found[f"probe/{task}/{name}_{metric}"] == pytest.approx(finding.scores["valid"][metric], abs=1e-6)


def test_fewer_examples_are_drawn_alike_every_time(tmp_path: Path) -> None:
    path, data = save_model(tmp_path / "run"), hydrophobic_share(tmp_path / "data", SIZES)
    few, again, all_of_them = (probe_checkpoint(path, Probing("stability", str(data.path), examples=n)) for n in (20, 20, 1000))
    assert few == again != all_of_them


def test_families_and_the_contrast_can_be_followed_too(tmp_path: Path) -> None:
    families = Probing("families", str(family_table(tmp_path / "f.tsv")), examples=500)
    found = probe_checkpoint(save_model(tmp_path / "run"), families)
    assert set(found) == {"probe/families/accuracy", "probe/families/nearest_neighbour_accuracy"}
    shape, objective = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4)), CPC(steps_ahead=2, patch_length=6)
    experiment = tiny_experiment(tmp_path, objective=objective, encoder=shape)
    path = tmp_path / "cpc" / "step_00000001"
    checkpoint.save(path, objective.build(shape.build()), experiment.to_plain(), 1, {})
    file = write_fasta(tmp_path / "f.fasta", {f"p{i}": s for i, s in enumerate(random_sequences(30, 40, 60))})
    found = probe_checkpoint(path, Probing("contrastive", str(file), examples=20))
    assert found["probe/contrastive/accuracy"] == found["probe/contrastive/all_accuracy"]
    assert {"probe/contrastive/all_loss", "probe/contrastive/2_ahead_bound", "probe/contrastive/all_chance"} <= set(found)


def test_a_checkpoint_is_recorded_once(tmp_path: Path, here: None) -> None:
    """Ray asks again for what was being probed when a run was killed."""
    path = tmp_path / "step_00000040"
    asked = []

    def probe(of: str | Path, probing: Probing) -> dict[str, float]:
        asked.append(of)
        return {probing.metric: 0.0, "probe/stability/linear_regression_mse": 2.0}

    one, two = (probe_and_record(path, STABILITY, probe) for _ in range(2))
    assert one == two == recorded(tmp_path)[40] and asked == [str(path)]
    assert [record["kind"] for record in outbox_records(tmp_path)] == ["metrics"] and last_failure(tmp_path) is None
    probe_and_record(path, replace(STABILITY, task="fluorescence"), probe)  # another task is another curve
    assert len(asked) == 2


def test_a_failure_is_a_tag_and_no_error(tmp_path: Path, here: None) -> None:
    def probe(of: str | Path, probing: Probing) -> dict[str, float]:
        raise ValueError("two\nlines")

    assert probe_and_record(tmp_path / "step_00000002", STABILITY, probe) == {} and recorded(tmp_path) == {}
    assert last_failure(tmp_path) == "step 2: two lines"
    assert outbox_records(tmp_path)[0]["values"] == {FAILED: "step 2: two lines"}


def test_whatever_a_probe_does_is_an_answer() -> None:
    for function, args, why in [(os._exit, (9,), "its process died"), (int, ("x",), "ValueError: invalid literal")]:
        with pytest.raises(RuntimeError, match=why):
            in_own_process(function, *args, seconds=200)
    with pytest.raises(RuntimeError, match="not done after 0.1 s"):
        in_own_process(time.sleep, 60, seconds=0.1)
    assert in_own_process(os.getppid, seconds=200) == os.getpid()


def test_what_cannot_be_probed_is_refused_before_a_run_begins(tmp_path: Path, raypro_home: Path) -> None:
    data = hydrophobic_share(tmp_path / "data", SIZES).path
    no_valid = hydrophobic_share(tmp_path / "no_valid", {"train": 5, "test": 5}).path
    train = write_corpus(tmp_path / "corpus", {"train": random_sequences(4, 10, 20)}).path
    shape = CPCProtShape(embedding=4, filters=(6, 8), kernels=(3, 4))
    cpc = tiny_experiment(tmp_path, objective=CPC(patch_length=6), encoder=shape)
    for experiment, task, where, message in [
        (tiny_experiment(tmp_path), "stabilty", data, "probe: stabilty: no such probe; did you mean stability?"),
        (tiny_experiment(tmp_path), "remote_homology", data, "probe: remote_homology: needs classification labels, .* holds regression"),
        (tiny_experiment(tmp_path), "stability", tmp_path / "nothing", "probe: .*nothing: no such folder of labelled data"),
        (tiny_experiment(tmp_path), "stability", no_valid, "probe: .*no valid split"),
        (tiny_experiment(tmp_path), "families", tmp_path / "nothing", "probe: .*nothing: no such file"),
        (tiny_experiment(tmp_path), "contrastive", train, "probe: contrastive asks which patch comes next"),
        (cpc, "contrastive", train, "probe: .*no valid split in the corpus"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            require_probing(replace(experiment, probe=Probing(task, str(where))))
        assert "\n" not in str(error.value)
    for wrong in ({"task": "stability"}, {"data": "folder"}, {"every": 0}, {"examples": 1}, {"cpus": 0.0}):
        with pytest.raises(InputError, match="^probe: "):
            Probing(**wrong)


def test_the_place_of_the_data_does_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hydrophobic_share(tmp_path / "data", SIZES)
    monkeypatch.chdir(tmp_path)
    found = require_probing(tiny_experiment(tmp_path, probe=Probing("stability", "data")))
    assert found.probe == Probing("stability", str(tmp_path / "data"))
    nothing = tiny_experiment(tmp_path)
    assert require_probing(nothing) is nothing and probes_of(nothing) is None and probes_of(tiny_fine_tuning(tmp_path)) is None


def test_the_command_line_sets_a_probe(tmp_path: Path, raypro_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus", {split: random_sequences(20, 10, 20) for split in ("train", "valid")}).path
    presets = {"tiny": lambda: tiny_experiment(corpus)}
    for args, message in [
        (["--probe.task", "stability"], "probe: give task and data, or neither"),
        (["--probe.task", "stability", "--probe.data", str(tmp_path / "x")], "probe: "),
        (["--probe.every", "no"], "probe.every"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            pretrain_main(presets, args)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    assert not (raypro_home / "runs").exists()


@pytest.mark.parametrize(("every", "due"), [(1, [2, 4, 6, 8]), (2, [4, 8]), (3, [6])])
def test_each_so_many_th_checkpoint_is_due(every: int, due: list[int], tmp_path: Path) -> None:
    experiment = tiny_experiment(tmp_path, probe=replace(STABILITY, every=every))
    (tmp_path / RECORD).mkdir()
    found = []
    for step in (2, 4, 6, 8):
        for worker in (0, 1):
            (tmp_path / RECORD / f"step_{step:08d}.worker_{worker}.jsonl").touch()
        if probe_is_due(experiment, tmp_path):
            found.append(step)
    assert found == due
    assert not probe_is_due(tiny_experiment(tmp_path), tmp_path) and not probe_is_due(tiny_fine_tuning(tmp_path), tmp_path)


def test_cpus_are_kept_for_probes() -> None:
    two = [Node("", "here", 2.0, 0.0)]
    assert worker_cpus(Workers(), two) == 1.0 and worker_cpus(Workers(), two, 0.5) == 0.5
    said = r"1 workers of 1.5 CPUs do not leave 0.5 of the 2 CPUs to probe checkpoints .*; lower --workers.cpus or --probe.cpus"
    with pytest.raises(InputError, match=said):
        worker_cpus(Workers(cpus=1.5), two, 0.5)
    with pytest.raises(InputError, match="to probe checkpoints"):  # a probe lies within one node
        worker_cpus(Workers(cpus=0.1), 4 * two, 3.0)


def test_the_curve_is_drawn(tmp_path: Path, here: None) -> None:
    experiment = tiny_experiment(tmp_path, probe=STABILITY)
    (tmp_path / "pictures").mkdir()
    assert draw_probes(experiment, tmp_path) == ()
    for step in (10, 20):
        probe_and_record(tmp_path / f"step_{step:08d}", STABILITY, lambda path, probing: {probing.metric: 0.5})
    (picture,) = draw_probes(experiment, tmp_path)
    assert picture.name == "probe_stability.png" and picture.stat().st_size > 5000


def test_trials_are_ranked_by_what_a_probe_finds(tmp_path: Path, raypro_home: Path) -> None:
    data = hydrophobic_share(tmp_path / "data", SIZES).path
    base = tiny_experiment(tmp_path, probe=Probing("stability", str(data)))
    path = tmp_path / "trial_0000" / "step_00000008"
    checkpoint.save(path, base.objective.build(base.encoder.build()), base.to_plain(), 8, {"valid/loss": 3.0})
    result = probed(path.parent, base, Result("finished", score=3.0, step=8, metrics={"valid/loss": 3.0}))
    rho = probe_checkpoint(path, base.probe)[base.probe.metric]
    assert result.score == rho == recorded(path.parent)[8][base.probe.metric]
    assert result.metrics["valid/loss"] == 3.0 and result.metrics["probe/stability/spearman"] == rho
    assert probed(path.parent, tiny_experiment(tmp_path), result) is result

    def sign(of: Experiment) -> int:
        return Sweep.begin("s", Space(of, {"optimizer.learning_rate": (1e-3, 1e-4)}), "", Demand(1.0, 0.0), "").sign

    assert (sign(base), sign(tiny_experiment(tmp_path))) == (1, -1)
    with pytest.raises(InputError, match="axes: probe.every: all trials of a sweep share their probe"):
        Space(base, {"probe.every": (1, 2)})
