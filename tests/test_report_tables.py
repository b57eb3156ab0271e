"""The report's tables: which score fills which cell, and what is better than its baseline."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from raypro.cluster.train import describe_experiment
from raypro.core.encoders.transformer import TransformerShape
from raypro.core.objectives.mlm import MLM
from raypro.data.labelled import LabelledData, LabelledManifest
from raypro.evaluate.published import PUBLISHED, Published
from raypro.evaluate.report_filling import SAME_METHOD, Row, fill
from raypro.evaluate.report_rows import _beneath, table_section
from raypro.evaluate.report_scores import Score, Trained, best_baseline, interval, verdict
from raypro.evaluate.report_tables import TABLES, Column, Table, method_name, own_tables
from raypro.experiment import Experiment
from raypro.mlflow_store import RunRecord
from raypro.outbox import Outbox, read_records
from raypro.report_fields import at_step, by_split_of, configuration, floor_of, mean_of, number, numbers, pair, step_of

COLUMN = Column("stability", "stability", "spearman", published=("stability", "rho"))
TABLE = Table("Paper", "Table 1", "About.", "fine-tuning", (COLUMN,))


def score(value: float = 0.5, method: str = "MLM, Transformer", baseline: bool = False, **fields) -> Score:
    model = Trained(method, fields.pop("about", ""), ("id",), baseline=baseline)
    return Score(model, fields.pop("stage", "fine-tuning"), "stability", fields.pop("split", "test"), "spearman", value, **fields)


@pytest.mark.parametrize(
    ("fields", "higher", "expected"),
    [
        ({"baselines": (("a", 0.4), ("b", 0.45))}, True, "better"),
        ({"baselines": (("a", 0.4), ("b", 0.6))}, True, "not better"),
        ({"baselines": (("a", 0.5),)}, True, "not better"),  # as good is not better
        ({"baselines": (("a", 0.4),), "low": 0.39, "high": 0.6}, True, "unclear"),
        ({"baselines": (("a", 0.4),), "low": 0.41, "high": 0.6}, True, "better"),
        ({"baselines": (("a", 0.6), ("b", 0.9))}, False, "better"),  # of errors the lowest is the strongest
        ({"baselines": (("a", 0.6), ("b", 0.4))}, False, "not better"),
        ({"baselines": (("a", 0.6),), "low": 0.45, "high": 0.61}, False, "unclear"),
        ({"baselines": (("a", 0.4),), "deviation": 0.1, "seeds": 4}, True, "unclear"),  # 3.18 * 0.1 / 2 = 0.16
        ({"baselines": (("a", 0.4),), "deviation": 0.1, "seeds": 16}, True, "better"),  # 2.13 * 0.1 / 4 = 0.05
        ({"baselines": (("a", 0.4),), "deviation": 0.0, "seeds": 3}, True, "unclear"),  # nothing is known of the spread
        ({"baselines": (("a", 0.6),), "deviation": 0.0, "seeds": 3}, True, "not better"),
        (
            {"baselines": (("a", 0.4),), "low": 0.42, "high": 0.58, "reaches": {"a": (0.0, 0.08)}},
            True,
            "unclear",
        ),  # hypot(0.08, 0.08) = 0.11
        ({"baselines": (("a", 0.4),), "low": 0.42, "high": 0.58, "reaches": {"a": (0.08, 0.0)}}, True, "better"),  # the other way
        ({"baselines": (("a", 0.4),), "reaches": {"a": (math.inf, math.inf)}}, True, "unclear"),  # nothing is known of the rival's spread
        ({"baselines": (("a", 0.4),), "low": 0.42, "high": 0.58, "reaches": {"b": (0.0, 0.08)}}, True, "better"),  # another's interval
        ({}, True, ""),
        ({"baselines": (("a", 0.4),), "baseline": True}, True, ""),
    ],
)
def test_a_score_is_judged_by_its_strongest_baseline_and_its_interval(fields, higher, expected):
    assert verdict(score(**fields), higher) == expected


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (30, 2.0452)])
def test_the_interval_of_a_mean_over_seeds_is_by_students_t(seeds, quantile):
    reach = quantile * 0.3 / seeds**0.5  # the printed table of t at 97.5 %
    assert interval(score(deviation=0.3, seeds=seeds)) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-4)


def test_an_interval_is_not_known_of_one_seed_or_of_equal_ones():
    assert interval(score(low=0.1, high=0.9, deviation=0.3, seeds=9)) == (0.1, 0.9)
    assert interval(score(deviation=0.3, seeds=1)) == interval(score(deviation=0.0, seeds=3)) == (None, None)
    assert best_baseline(score(baselines=(("a", 1.0), ("b", 2.0))), False) == ("a", 1.0)


def test_of_several_configurations_validation_chooses_and_the_others_are_counted():
    found = [score(0.9, chosen_by=0.1), score(0.4, chosen_by=0.8), score(0.7, chosen_by=0.2)]
    [row] = fill(TABLE, found, ())
    assert (row.scores["stability"].value, row.scores["stability"].others) == (0.4, 2)
    assert "best of 3 on validation" in table_section(TABLE, [row])


def test_where_validation_does_not_know_all_configurations_the_newest_stands_and_is_called_so():
    [row] = fill(TABLE, [score(0.9, chosen_by=0.9), score(0.4), score(0.7, chosen_by=0.1)], ())
    assert (row.scores["stability"].value, row.scores["stability"].others) == (0.7, 2)
    assert "newest of 3" in table_section(TABLE, [row]) and "on validation" not in table_section(TABLE, [row])


def cell(given: Score) -> str:
    """Return the HTML of a score's cell."""
    return table_section(TABLE, [Row("method", scores={"stability": given})]).split('<td class="ours"')[1].split("</td>")[0]


def test_beneath_a_mean_over_seeds_stand_its_interval_and_the_trials_that_it_was_chosen_from():
    model = Trained("MLM", trials=12)
    text = cell(replace(score(0.5, deviation=0.1, seeds=3), model=model))
    assert "0.500 ± 0.100" in text and "<small>0.252 to 0.748</small>" in text and "3 seeds" in text and "best of 12 trials" in text


def test_an_overlap_that_was_not_measured_is_not_an_empty_one():
    known, unknown = Trained("MLM", corpus="natural", pretrained=True), "overlap not measured"
    assert unknown in cell(replace(score(), model=known)) and unknown not in cell(score())  # random weights have seen nothing
    measured = cell(replace(score(overlap=(0, 2)), model=known))
    assert unknown not in measured and "in corpus: 0 + 2" in measured
    imported, families = cell(replace(score(), model=Trained("MLM", pretrained=True))), replace(score(), task="families", model=known)
    assert "cannot be measured" in imported and _beneath(COLUMN, families) == ["overlap cannot be measured"]


def test_the_page_says_of_each_table_which_published_figures_were_at_hand():
    none = "None of the paper's figures for it was at hand."
    said = {(table.paper, table.name): table_section(table, [Row("m")]).split("</p>")[0] for table in TABLES}
    assert none in said["PMLM (He et al. 2021)", "Table 3"] and none in said["CPCProt (Lu et al. 2020)", "Contrastive accuracy"]
    assert "those of 5 of its 9 columns" in said["TAPE (Rao et al. 2019)", "The five tasks"]
    assert (
        "at hand" not in said["CPCProt (Lu et al. 2020)", "End to end"] and "at hand" not in said["This store", "What pre-training learned"]
    )


def test_a_published_figure_beside_ours_says_whose_model_it_is():
    table = next(table for table in TABLES if table.name == "The five tasks")
    rows = fill(table, [score(0.5, method="MLM, Transformer")])
    text = table_section(table, rows)
    assert "0.73<small>38 M, authors’ corpus</small>" in text
    alone = text.split("UniRep</th>")[1].split("</tr>")[0]
    assert ">18 M</td>" in alone and "authors" not in alone  # its size stands where sizes stand


def test_a_persons_own_tasks_have_a_table_with_a_column_for_each_split():
    model = Trained("MLM, Transformer")
    found = [Score(model, "fine-tuning", "own regression", split, "spearman", 0.5, data="wells") for split in ("valid", "test", "test_far")]
    found += [Score(model, "fine-tuning", "own regression", "test", metric, 0.1, data="mine") for metric in ("spearman", "mse")]
    found += [Score(model, "probe", "own classification", "test", "accuracy", 0.6, data="kinds", probe="logistic regression")]
    found += [score()]
    primary = {"regression": "spearman", "classification": "accuracy", "residue_classification": "accuracy"}
    tuned, probed = own_tables(found, primary)
    assert [column.name for column in tuned.columns] == ["wells: spearman", "wells, test_far: spearman", "mine: spearman"]
    assert [column.name for column in probed.columns] == ["kinds, logistic regression: accuracy"]
    [row] = fill(tuned, found, ())
    assert {name: given.value for name, given in row.scores.items()} == dict.fromkeys([c.name for c in tuned.columns], 0.5) | {
        "mine: spearman": 0.1
    }
    assert own_tables([score()], primary) == ()


def test_published_figures_stand_beside_the_same_method_and_alone_where_there_is_none(monkeypatch):
    monkeypatch.setitem(SAME_METHOD, ("Paper", "TAPE's"), "MLM, Transformer")
    figures = [Published("Paper", "stability", row, "rho", value, "source") for row, value in (("TAPE's", 0.7), ("UniRep", 0.6))]
    figures.append(Published("Another paper", "stability", "TAPE's", "rho", 0.1, "source"))
    rows = fill(TABLE, [score(0.5), score(0.3, "MLM, Transformer", about="frozen"), score(0.2, "One-hot", baseline=True)], figures)
    assert [(row.method, row.about, row.baseline) for row in rows] == [
        ("MLM, Transformer", "", False),
        ("MLM, Transformer", "frozen", False),
        ("One-hot", "", True),
        ("UniRep", "", False),
    ]
    assert [row.published["stability"].value if row.published else None for row in rows] == [0.7, 0.7, None, 0.6]


def test_a_published_figure_stands_beside_ours_only_in_the_columns_that_were_run(monkeypatch):
    monkeypatch.setitem(SAME_METHOD, ("Paper", "TAPE's"), "MLM, Transformer")
    other = Column("contacts", "contacts", "P_at_L5", published=("contacts", "L/5"))
    figures = [
        Published("Paper", *where, value, "source")
        for where, value in ((("stability", "TAPE's", "rho"), 0.7), (("contacts", "TAPE's", "L/5"), 0.3))
    ]
    rows = fill(replace(TABLE, columns=(COLUMN, other)), [score(0.5)], figures)
    assert [(row.method, list(row.scores), list(row.published)) for row in rows] == [
        ("MLM, Transformer", ["stability"], ["stability"]),
        ("TAPE's", [], ["contacts"]),
    ]


def test_a_score_of_another_split_stage_or_method_stays_out():
    strangers = [score(split="valid"), score(stage="probe"), score(method="CPCProt")]
    only = Table("Paper", "Table 1", "About.", "fine-tuning", (COLUMN,), only=("MLM, Transformer",))
    assert fill(only, strangers, ()) == []
    assert [row.method for row in fill(TABLE, strangers, ())] == ["CPCProt"]


def test_baselines_stand_only_where_something_stands_to_beat_them():
    assert fill(TABLE, [score(baseline=True)], ()) == []


def test_baselines_on_data_that_no_row_of_the_table_read_stay_out():
    only = Table("Paper", "Table 1", "About.", "fine-tuning", (COLUMN,), only=("MLM, Transformer",))
    ridges = [score(0.2, "Ridge", True, about=data, data=data) for data in ("here", "elsewhere")]
    found = [score(data="here"), score(method="Convolution", data="elsewhere"), *ridges]
    assert [(row.method, row.about) for row in fill(only, found, ())] == [("MLM, Transformer", ""), ("Ridge", "here")]


def test_tables_have_names_of_their_own_and_find_their_published_figures():
    assert len({table.key for table in TABLES}) == len(TABLES)
    known = {(figure.paper, figure.table, figure.column) for figure in PUBLISHED}
    for table in TABLES:
        assert len({column.name for column in table.columns}) == len(table.columns)
        for column in table.columns:
            assert column.published is None or (table.paper, *column.published) in known
    assert all((paper, row) in {(figure.paper, figure.row) for figure in PUBLISHED} for paper, row in SAME_METHOD)


def test_every_published_task_figure_has_a_cell():
    placed = {id(figure) for table in TABLES for row in fill(table, (), PUBLISHED) for figure in row.published.values()}
    assert [figure for figure in PUBLISHED if id(figure) not in placed and figure.table != "parameters"] == []


def test_methods_are_named_by_objective_and_encoder():
    assert method_name("PMLM", "Transformer") == "PMLM, Transformer"
    assert method_name("CPCProt", "CPCProt", frozen=True) == "CPCProt, frozen"
    assert method_name(None, "Convolution") == "Convolution, not pre-trained"
    assert method_name(None, "One-hot", frozen=True) == "One-hot, frozen"
    assert method_name("MLM", "Transformer", equal_time=True) == "MLM, Transformer, equal time"


@pytest.mark.parametrize(
    ("value", "expected"), [("0.5", 0.5), (2, 2.0), ("nan", None), (math.inf, None), (True, None), ("x", None), (None, None), ([1], None)]
)
def test_only_finite_numbers_are_read(value, expected):
    assert number(value) == expected


def test_what_is_not_of_the_form_is_left_out():
    assert numbers({"a": 1, "b": "x", "c": None}) == {"a": 1.0} and numbers([1]) == {}
    assert pair([0.1, 0.2]) == (0.1, 0.2) and pair([0.1]) == pair("ab") == pair([0.1, None]) == (None, None)
    assert mean_of([1.0, 3.0]) == 2 and mean_of([1.0, None]) is None and mean_of([]) is None


def test_what_was_counted_by_a_step_lies_between_two_loggings():
    curve = [(100, 1000.0), (200, 3000.0)]
    assert [at_step(curve, step) for step in (0, 50, 100, 150, 200, 250)] == [0, 500, 1000, 2000, 3000, 3000]
    assert at_step([], 100) is None
    assert [step_of(path) for path in ("/runs/mlm/step_00000300", "step_7", "esm2", "/runs/step_00000300/imported", "None")] == [
        300,
        7,
        None,
        None,
        None,
    ]


def run(params=(), tags=(), metrics=()) -> RunRecord:
    return RunRecord("id", "run", "experiment", "1", "FINISHED", None, 0, None, dict(params), dict(tags), dict(metrics))


def test_a_configuration_is_all_but_seed_name_and_surrounding():
    one = run({"name": "a", "seed": "0", "workers.count": "1", "optimizer.learning_rate": "0.1"}, {"data_checksum": "x"})
    same = run({"name": "b", "seed": "1", "workers.count": "2", "optimizer.learning_rate": "0.1"}, {"data_checksum": "x"})
    assert configuration(one) == configuration(same)
    assert configuration(run({"optimizer.learning_rate": "0.2"}, {"data_checksum": "x"})) != configuration(one)
    assert configuration(run({"optimizer.learning_rate": "0.1"}, {"data_checksum": "y"})) != configuration(one)


def test_without_a_file_of_scores_the_metrics_of_test_splits_are_taken():
    metrics = {"best_valid/spearman": 0.7, "test/spearman": 0.5, "test_cb513/accuracy": 0.6, "valid/loss": 1.0}
    assert by_split_of(metrics) == {"valid": {"spearman": 0.7}, "test": {"spearman": 0.5}, "test_cb513": {"accuracy": 0.6}}


def test_what_pre_training_has_to_beat():
    metrics = {
        "valid_chance/perplexity": math.e**2,
        "valid_contacts/random_precision_medium_long": 0.03,
        "valid_contrast/chance_cpc": 0.002,
    }
    assert floor_of("table2", "L_pmlm", metrics) == (("residue frequencies", pytest.approx(4.0)),)
    assert floor_of("contacts", "P_at_L5_medium_long", metrics) == (("random ranking", 0.03),)
    assert floor_of("contrast", "accuracy_cpc", metrics) == (("chance", 0.002),)
    assert floor_of("table2", "perplexity", {}) == floor_of("table2", "ACC_mlm", metrics) == ()


def test_runs_log_the_number_of_weights_of_their_encoder(tmp_path):
    outbox = Outbox(tmp_path, "driver")
    experiment = Experiment("small", "corpus", MLM(), TransformerShape(layers=1, width=16, heads=2, hidden=32))
    describe_experiment(outbox, experiment)
    [params] = [
        record["values"] for record, _ in read_records(tmp_path / "tracking" / "outbox-driver.jsonl", 0) if record["kind"] == "params"
    ]
    assert params["parameters"] == str(sum(weight.numel() for weight in experiment.encoder.build().parameters()))


@pytest.mark.parametrize(
    ("options", "task"), [('{"task": "contacts"}', "contacts"), ('{"task": null}', ""), ("{}", ""), ("no JSON", ""), ("[]", "")]
)
def test_labelled_data_know_the_task_that_they_were_imported_as(options, task):
    manifest = LabelledManifest(1, "now", "contacts", "label", (), (), "", "", options, "", ())
    assert LabelledData(Path("data"), manifest).task == task
