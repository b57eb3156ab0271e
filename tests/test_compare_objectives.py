"""Objectives compared: what is held equal, what is probed, what the table says, and what is not run again."""

import csv
import importlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from raypro.arguments import parse
from raypro.cluster import compare_objectives as module
from raypro.cluster import comparing
from raypro.cluster.compare_objectives import ObjectiveComparison, compare_objectives, fine_tune_all
from raypro.cluster.comparing import Pretrained, Tuned, run_once
from raypro.cluster.objectives_table import MARK, TUNED, UNCLEAR, Competitor, Measured, Score, report, scores_of_probe
from raypro.config import InputError
from raypro.core import checkpoint
from raypro.core.noiser import GRUNoiserShape
from raypro.core.objectives.adversarial import Adversarial
from raypro.core.objectives.cpc import CPC
from raypro.core.objectives.mlm import MLM
from raypro.core.optimizer import Adam
from raypro.data.corpus import Corpus
from raypro.data.source import read_here
from raypro.experiment import Experiment
from raypro.home import RUN_FILE, run_folder
from raypro.outbox import Outbox
from raypro.pretraining import Pretraining
from raypro.settings import Budget, Probing, Validation
from raypro.space import Space
from raypro.sweep_report import Spread
from raypro.tracking import Sender
from raypro.training import train
from tests.small import TINY, hydrophobic_share, random_sequences, tiny_experiment, write_corpus

ADVERSARIAL = Adversarial(noiser=GRUNoiserShape(8, 8, 1), noiser_steps=1, encoder_steps=1)


def comparison(corpus: Path | str = "corpus", **changes: object) -> ObjectiveComparison:
    runs = tuple(tiny_experiment(Path("unused"), name, objective=o) for name, o in (("mlm", MLM()), ("adversarial", ADVERSARIAL)))
    return replace(ObjectiveComparison("tried", runs, str(corpus), residues=1000, minutes=1e-4), **changes)


def test_residues_or_minutes_are_held_equal_and_all_else_is_the_runs_own() -> None:
    asked = comparison(minutes=2.0)
    asked = replace(asked, runs=(asked.runs[0], replace(asked.runs[1], probe=Probing("stability", "x"))))
    tokens, time = (asked.pretraining(asked.runs[1], setting) for setting in asked.settings)
    assert (tokens.name, tokens.budget) == ("tried-adversarial-tokens", Budget(residues=1000))
    assert (time.name, time.budget) == ("tried-adversarial-time", Budget(minutes=2.0))
    assert tokens.corpus == time.corpus == "corpus"
    same = ("objective", "encoder", "optimizer", "batches", "validation", "workers", "seed")
    assert all(getattr(tokens, name) == getattr(asked.runs[1], name) for name in same)
    assert not tokens.probe.task  # its time would be the run's, or not, by chance
    assert replace(asked, minutes=None).settings == ["tokens"] and replace(asked, residues=None).settings == ["time"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residues": None, "minutes": None}, "residues and minutes: give one or both"),
        ({"residues": 0}, "residues and minutes: .* above 0"),
        ({"runs": comparison().runs[:1]}, "runs: mlm: give two or more"),
        ({"runs": comparison().runs[:1] * 2}, "runs: mlm, mlm: .* a name of its own"),
        ({"probes": (("stabilty", "x"),)}, "probes: stabilty: no probe .*did you mean stability"),
        ({"probes": (("contrastive", "x"),)}, "probes: contrastive: no probe that every encoder can be asked"),
        ({"probes": (("families", "x"), ("families", "y"))}, "probes: families twice"),
        ({"tasks": (("stabilty", "x"),)}, "tasks: stabilty: no such task"),
        ({"fitted": 0}, "fitted: 0 must be 1 or more"),
        ({"name": "a/b"}, "name: 'a/b' must be letters"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        comparison(**changes)


def test_what_cannot_be_run_is_refused_before_anything_starts(tmp_path: Path, raypro_home: Path) -> None:
    corpus = small_corpus(tmp_path / "corpus")
    data, twin = (hydrophobic_share(tmp_path / place / "data", {"train": 8, "valid": 4, "test": 4}).path for place in ("one", "two"))
    (tmp_path / "families.tsv").write_text("id\tfamily\tsequence\na\tf\tACDEFGHIKLMNPQ\n")
    probes = (("regression", str(data)),)
    unfit = replace(comparison().runs[1], objective=CPC())
    for asked, message in (
        (comparison(""), "corpus: give the folder"),
        (comparison(corpus), "probes: give pairs"),
        (comparison(tmp_path / "none", probes=probes), "none"),
        (comparison(corpus, probes=(("secondary_structure", str(data)),)), "needs residue_classification labels, .* holds regression"),
        (comparison(corpus, probes=(("families", str(tmp_path / "families.tsv")),)), "--members 50: 0 of 1 families"),
        (comparison(corpus, probes=probes, tasks=(("contacts", str(data)),)), "contacts"),
        (comparison(corpus, probes=probes, tasks=(("regression", str(twin)),)), "two/data and .*one/data: two folders of one name"),
        (comparison(corpus, probes=probes, runs=(comparison().runs[0], unfit)), "encoder: Transformer has no patches to contrast"),
    ):
        with pytest.raises(InputError, match=message):
            compare_objectives(asked)
    assert not raypro_home.exists()


def competitor(setting: str = "equal tokens", label: str = "mlm") -> Competitor:
    run: Experiment = tiny_experiment(Path("corpus"), f"tried-{label}", objective=MLM())
    return Competitor(setting, label, run, Pretrained(Path("runs/x/step_00000004"), 6, 1234, 90.0))


def probe_of(representation: str, probe: str, on_valid: float, on_test: float) -> dict:
    return {
        "representation": representation,
        "probe": probe,
        "setting": "k = 5",
        "tried": {"k = 1": on_valid - 0.1, "k = 5": on_valid},
        "scores": {"valid": {"accuracy": on_valid}, "test": {"accuracy": on_test, "other": 9.0}},
        "intervals": {"valid": {"accuracy": [0, 1]}, "test": {"accuracy": [on_test - 0.05, on_test + 0.05], "other": [0, 9]}},
    }


def test_each_representation_is_judged_by_its_probe_that_is_best_on_validation() -> None:
    found = [
        probe_of("this encoder", "logistic regression", 0.6, 0.50),
        probe_of("this encoder", "k nearest neighbours", 0.5, 0.70),  # better on test, which must not choose
        probe_of("random weights", "logistic regression", 0.3, 0.45),
        probe_of("random weights", "k nearest neighbours", 0.4, 0.30),
        probe_of("one-hot", "logistic regression", 0.4, 0.40),
    ]
    (score,) = scores_of_probe(competitor(), {"probe": "remote_homology", "primary": "accuracy", "probes": found}, "random weights (mlm)")
    assert (score.split, score.metric, score.method) == ("test", "accuracy", "logistic regression (k = 5)")
    assert score.reached == Measured(0.50, 0.45, 0.55)
    assert {name: measured.value for name, measured in score.baselines.items()} == {"random weights (mlm)": 0.30, "one-hot": 0.40}
    assert score.best_baseline == "one-hot" and score.verdict == "better" and str(score) == "0.500 (0.450 to 0.550)"
    assert str(replace(score, reached=Measured(0.4, 0.3, 0.5))).endswith(MARK)  # as good as its baseline is not better
    assert str(replace(score, reached=Measured(0.47, 0.42, 0.52))).endswith(UNCLEAR)  # ahead by 0.07, and hypot(0.05, 0.05) = 0.071
    assert replace(score, reached=Measured(0.48, 0.43, 0.53)).verdict == "better"


def test_two_seeds_have_a_wide_interval_and_none_where_both_are_the_same() -> None:
    students_t = 12.7062  # of one degree of freedom
    assert Measured(0.5, deviation=0.02, seeds=2).reach == pytest.approx((students_t * 0.02 / 2**0.5,) * 2, rel=1e-5)
    assert Measured(0.5, deviation=0.0, seeds=3).reach == (float("inf"),) * 2 and Measured(0.5).reach == (0, 0)


def test_the_tables_state_costs_figures_and_baselines(tmp_path: Path) -> None:
    competitors = [competitor(), competitor("equal time"), competitor("equal time", "cpcprot")]
    beside = {"random weights (mlm, cpcprot)": Measured(0.4, 0.3, 0.5), "one-hot": Measured(0.55)}
    values = (0.6, 0.5, 0.7)
    scores = [
        Score(c.setting, c.label, "probe", "stability", "test", "spearman", "linear regression", Measured(v, v - 0.1, v + 0.1), beside)
        for c, v in zip(competitors, values, strict=True)
    ]
    tuned = Score(
        "equal time", "mlm", TUNED, "stability", "test", "spearman", "", Measured(0.8, deviation=0.02, seeds=3), {"random": Measured(0.9)}
    )
    outbox = Outbox(tmp_path, "driver")
    report("tried", tmp_path, competitors, [*scores, tuned], ["valid: 10 of 20 sequences"], outbox)
    outbox.close()
    text = (tmp_path / "table.md").read_text()
    tokens, time = text.split("## Equal time")
    n = sum(p.numel() for p in TINY.build().parameters())
    assert f"| mlm | MLM | Transformer | {n:,} |" in tokens and "| 6 | 1,234 | 1.5 |" in tokens
    assert f"| mlm | 0.600 (0.500 to 0.700) {UNCLEAR} |" in tokens and "| one-hot | 0.550 |" in tokens
    assert f"| mlm | 0.500 (0.400 to 0.600) {MARK} | 0.800 ± 0.020 {MARK} |" in time
    assert "| cpcprot | 0.700 (0.600 to 0.800) |  |" in time and "| random |  | 0.900 |" in time and "- valid: 10 of 20 sequences" in time
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["setting"], row["run"], float(row["value"]), row["verdict"]) for row in rows[:3]] == [
        ("equal tokens", "mlm", 0.6, "unclear"),
        ("equal time", "mlm", 0.5, "not better"),
        ("equal time", "cpcprot", 0.7, "better"),
    ]
    assert (rows[3]["how"], rows[3]["seeds"], rows[3]["baseline: random"], rows[3]["baseline: one-hot"]) == (TUNED, "3", "0.9", "")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_every_encoder_is_fine_tuned_beside_random_weights_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(TINY, width=32)
    asked = comparison(tasks=(("regression", "data"),), minutes=None)
    asked = replace(asked, runs=(*asked.runs, replace(asked.runs[0], name="wide", encoder=other)))
    swept: dict[str, Space] = {}

    def sweep(name: str, space: Space, at_once: int | None) -> dict:
        swept[name] = space
        return {"test": Tuned(Spread(0.5 if space.base.start else 0.1, 0.01, 3), {"ridge on one-hot": 0.3 if "wide" not in name else 0.6})}

    monkeypatch.setattr(module, "sweep_once", sweep)
    done = Pretrained(Path("x/step_00000004"), 6, 1234, 90.0)
    scores = fine_tune_all(
        asked, asked.tasks, [Competitor("equal tokens", run.name, asked.pretraining(run, "tokens"), done) for run in asked.runs]
    )
    assert {name: (space.base.start, space.base.encoder) for name, space in swept.items()} == {
        "tried-regression-random-1": (None, TINY),
        "tried-mlm-tokens-regression": (str(done.checkpoint), TINY),
        "tried-adversarial-tokens-regression": (str(done.checkpoint), TINY),
        "tried-regression-random-2": (None, other),
        "tried-wide-tokens-regression": (str(done.checkpoint), other),
    }
    ridge = "ridge on one-hot"
    assert [list(score.baselines) for score in scores] == [
        ["random weights (mlm, adversarial)", ridge],
        ["random weights (mlm, adversarial)", ridge],
        ["random weights (wide)", ridge],
    ]
    assert all(score.reached.value == 0.5 and score.how == TUNED for score in scores)
    assert [score.verdict for score in scores] == ["better", "better", "not better"]  # than ridge, where that is above random weights


def pretrain_here(experiment: Experiment, resume: bool) -> None:
    """What a run leaves, without Ray."""
    run = run_folder(experiment.name)
    run.mkdir(parents=True)
    (run / RUN_FILE).write_text(json.dumps({"experiment": experiment.to_plain(), "data_checksum": ""}))
    with Sender(run, experiment.stage, experiment.name):
        train(Pretraining(experiment, read_here), run, lambda metrics, path: None, None)


def small_corpus(folder: Path) -> Path:
    return write_corpus(folder, {"train": random_sequences(120, 12, 30), "valid": random_sequences(12, 12, 30, seed=1)}).path


def test_the_last_checkpoint_is_compared_whatever_validation_prefers(
    tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "pretrain", pretrain_here)
    run = replace(comparison().runs[0], name="worse", corpus=str(small_corpus(tmp_path / "corpus")), budget=Budget(residues=1000))
    run = replace(run, validation=Validation(every=1), optimizer=Adam(learning_rate=3.0, warmup_steps=0, decay="constant"))
    finished = run_once(run, "tried", "equal tokens")
    *earlier, last = sorted(run_folder("worse").glob("step_*"))
    assert min(checkpoint.load(path).metrics["valid/loss"] for path in earlier) < checkpoint.load(last).metrics["valid/loss"]
    assert finished.checkpoint == last and finished.residues >= 1000


def test_a_comparison_ends_in_tables_and_runs_nothing_twice(tmp_path: Path, raypro_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = hydrophobic_share(tmp_path / "data", {"train": 48, "valid": 16, "test": 16})
    asked = comparison(small_corpus(tmp_path / "corpus"), probes=(("regression", str(data.path)),), fitted=30, predicted=10)
    assert not Corpus.open(asked.corpus).manifest.overlaps
    started: list[str] = []
    monkeypatch.setattr(module, "ray_session", nullcontext)
    monkeypatch.setattr(comparing, "pretrain", lambda run, resume: (started.append(run.name), pretrain_here(run, resume)))
    evaluate = module.evaluate_labelled
    probed: list[bool] = []
    monkeypatch.setattr(module, "evaluate_labelled", lambda *a, **more: (probed.append(more["baselines"]), evaluate(*a, **more))[1])

    scores = compare_objectives(asked)
    names = [f"tried-{label}-{setting}" for setting in ("tokens", "time") for label in ("mlm", "adversarial")]
    assert started == names and probed == [True, False, False, False]  # one shape: its baselines are the same for all
    assert [(score.setting, score.label) for score in scores] == [
        (setting, label) for setting in ("equal tokens", "equal time") for label in ("mlm", "adversarial")
    ]
    untrained = "random weights (mlm, adversarial)"
    assert all(list(score.baselines) == [untrained, "one-hot", "composition", "k-mers"] for score in scores)
    assert len({score.baselines[untrained] for score in scores}) == 1
    rows = list(csv.DictReader((asked.folder / "table.csv").open()))
    assert [int(row["residues"]) >= 1000 for row in rows[:2]] == [True, True]
    assert [int(row["steps"]) for row in rows[2:]] == [2, 2]  # the first look at the clock
    client = mlflow.MlflowClient(f"sqlite:///{raypro_home}/mlflow.db")
    runs = {run.info.run_name: run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])}
    assert {*names, "tried"} == set(runs)
    assert runs[names[2]].data.tags["held equal"] == "equal time" and runs[names[2]].data.tags["comparison"] == "tried"
    assert "probe_regression-data/linear_regression_spearman_test" in runs[names[0]].data.metrics  # by the name of the data, too
    assert {a.path for a in client.list_artifacts(runs["tried"].info.run_id)} >= {"table.csv", "table.md", "comparison.png"}

    assert compare_objectives(asked) == scores and (len(started), len(probed)) == (4, 4)  # all of it is finished
    figures = json.loads((asked.folder / "probes" / names[0] / "regression" / "probes.json").read_text())
    assert figures["predicted"] == {"valid": 10, "test": 10} and figures["encoder"] == str(max(run_folder(names[0]).glob("step_*")))
    assert figures["corpus_overlap"]["test"]["rows"] == 16  # measured before anything was trained
    with pytest.raises(InputError, match="run tried-mlm-tokens exists, finished, and is another experiment"):
        compare_objectives(replace(asked, residues=2000))


@pytest.mark.cluster
def test_a_comparison_on_ray(tmp_path: Path, raypro_home: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run with two players, that is: the other, which is run alike, is trained in this process."""
    on_ray = comparing.pretrain
    monkeypatch.setattr(comparing, "pretrain", lambda run, resume: (on_ray if "adversarial" in run.name else pretrain_here)(run, resume))
    data = hydrophobic_share(tmp_path / "data", {"train": 48, "valid": 16, "test": 16})
    asked = comparison(small_corpus(tmp_path / "corpus"), minutes=None, probes=(("regression", str(data.path)),))
    mlm, adversarial = compare_objectives(asked)
    rows = list(csv.DictReader((asked.folder / "table.csv").open()))
    assert [row["run"] for row in rows] == [mlm.label, adversarial.label] == ["mlm", "adversarial"]
    assert all(1000 <= int(row["residues"]) < 1256 for row in rows)  # the step that reaches it is the last
    assert int(rows[1]["steps"]) > int(rows[0]["steps"])  # of the adversarial run's steps half are the noiser's


def test_the_job_compares_encoders_of_one_size_and_any_field_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "jobs"))
    runs = importlib.import_module("compare_objectives").runs()
    sizes = [Competitor("", run.name, run, Pretrained(Path(), 0, 0, 0.0)).parameters for run in runs]
    assert [run.name for run in runs] == ["mlm", "pmlm", "cpcprot", "adversarial"]
    assert max(alone for alone, _ in sizes) < 1.01 * min(alone for alone, _ in sizes) and all(alone <= every for alone, every in sizes)
    default = ObjectiveComparison("compare-objectives", runs, "")
    args = "--corpus c --residues 5000 --minutes None --probes stability s families f --runs.2.batches.sequences 8".split()
    found = parse(ObjectiveComparison, args, default=default)
    assert (found.corpus, found.residues, found.minutes, found.probes) == ("c", 5000, None, (("stability", "s"), ("families", "f")))
    assert found.runs[2].batches.sequences == 8 and found.runs[:2] == runs[:2]
