"""``raypro report``: what runs logged stands in the right cells beside what is published, and the page works in a browser."""

import csv
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_browser import Browser
from report_store import EVIL, fill_store

from raypro import tracking
from raypro.cli import main
from raypro.config import InputError
from raypro.report import report_command

TAPE = "TAPE (Rao et al. 2019)"
UI = "http://127.0.0.1:5000"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "INTERVAL", 0.1)
        return fill_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def report(address, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    report_command(out, address=address, ui=UI + "/")
    return out


@pytest.fixture(scope="module")
def cells(report) -> dict[tuple[str, str, str, str], dict[str, str]]:
    with (report / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["paper"], row["row"], row["about"], row["column"]): row for row in rows}


@pytest.fixture(scope="module")
def html(report) -> str:
    return (report / "report.html").read_text()


def test_a_fine_tuned_model_stands_with_its_interval_baseline_costs_and_overlap(cells):
    cell = cells[TAPE, "PMLM, Transformer", "from pmlm", "stability, ρ"]
    assert (cell["ours"], cell["low"], cell["high"], cell["seeds"]) == ("0.6", "0.55", "0.65", "1")
    assert (cell["baseline"], cell["baseline_name"], cell["verdict"]) == ("0.5", "ridge on one-hot", "better")
    assert (cell["parameters"], cell["checksum"], cell["data_checksum"]) == ("800000", "a80a4c5b4e0e", "896d620950eb")
    assert (float(cell["residues"]), float(cell["minutes"])) == (294_490, 5)  # pre-training and fine-tuning
    assert (cell["identical_in_corpus"], cell["near_in_corpus"]) == ("3", "11")
    assert len(cell["run_id"]) == 32


def test_runs_that_differ_in_the_seed_alone_are_one_row(cells):
    cell = cells[TAPE, "Transformer, not pre-trained", "", "stability, ρ"]
    assert float(cell["ours"]) == pytest.approx(0.4) and float(cell["deviation"]) == pytest.approx(0.1 * 2**0.5)
    assert cell["seeds"] == "2" and len(cell["run_id"].split()) == 2
    assert cell["verdict"] == "not better" and cell["checksum"] == ""


def test_a_sweep_stands_with_mean_deviation_and_the_costs_of_its_seeds(cells):
    cell = cells[TAPE, "Convolution, not pre-trained", "", "stability, ρ"]
    assert (cell["ours"], cell["deviation"], cell["seeds"], float(cell["residues"])) == ("0.7", "0.02", "2", 500)
    assert cell["trials"] == "6"
    assert cell["baseline_name"] == "ridge on one-hot"  # the ensemble of the seeds is no baseline


def test_what_is_only_published_has_no_figure_of_ours(cells):
    cell = cells[TAPE, "Transformer", "", "stability, ρ"]
    assert cell["published"] == "0.73" and cell["ours"] == "" and cell["run_id"] == "" and cell["source"]


def test_a_probe_is_judged_by_its_strongest_baseline(cells):
    paper = "CPCProt (Lu et al. 2020)"
    cell = cells[paper, "PMLM, Transformer", "pmlm", "accuracy"]
    assert (cell["ours"], cell["baseline_name"], cell["verdict"]) == ("0.4", "composition", "not better")
    assert (cell["identical_in_corpus"], float(cell["residues"])) == ("", 294_000)
    assert cells[paper, "Composition", "families.tsv", "accuracy"]["ours"] == "0.6"


def test_of_a_probe_both_intervals_count_and_the_residues_of_its_own_checkpoint(cells):
    paper = "CPCProt (Lu et al. 2020)"
    cell = cells[paper, "PMLM, Transformer", "pmlm", "linear: ρ"]
    assert (cell["ours"], cell["baseline"], cell["verdict"]) == ("0.35", "0.3", "unclear")
    assert (cell["identical_in_corpus"], cell["near_in_corpus"], float(cell["residues"])) == ("1", "2", 196_000)
    rival = cells[paper, "Random weights, Transformer", "stab, fitted to 100, 800,000 parameters", "linear: ρ"]
    assert (rival["ours"], rival["parameters"]) == ("0.3", "800000")


def test_what_was_not_measured_is_said(html):
    families = html.split('<section id="cpcprot-nearest-neighbour-s-family">')[1].split("</section>")[0]
    assert families.count("overlap cannot be measured") == 1  # of the encoder, not of its baselines
    assert "in corpus: 1 + 2" in html.split('<section id="cpcprot-stability-static-vectors">')[1].split("</section>")[0]


def test_a_persons_own_data_have_a_table(cells, html):
    cell = cells["This store", "Transformer, not pre-trained", "", "wells: spearman"]
    assert (cell["ours"], cell["baseline"], cell["published"]) == ("0.6", "0.5", "") and ">Your tasks</h3>" in html


def test_the_summary_says_held_out_only_of_what_was(html):
    short = html.split('<section id="summary">')[1].split("</section>")[0]
    aligned = short.split("Direct coupling analysis")[1].split("</ul>")[0]
    assert "label-free contacts at L/5" in aligned and "held out" not in aligned
    assert "held out: perplexity, masked" in short


def test_of_one_experiment_the_pre_training_elsewhere_is_still_known(address, tmp_path):
    report_command(tmp_path / "report", ("fine-tuning",), address)
    with (tmp_path / "report" / "report.csv").open(newline="") as file:
        rows = {(row["row"], row["about"], row["column"]): row for row in csv.DictReader(file)}
    cell = rows["PMLM, Transformer", "from pmlm", "stability, ρ"]
    assert (float(cell["residues"]), cell["checksum"]) == (294_490, "a80a4c5b4e0e")
    assert not [row for row in rows if row[:2] == ("PMLM, Transformer", "pmlm")]  # it is known, and not shown


def test_pre_training_is_judged_by_chance(cells):
    learned = cells["This store", "PMLM, Transformer", "pmlm", "perplexity, masked"]
    assert (learned["baseline"], learned["verdict"]) == ("18.0", "better")
    pairs = cells["PMLM (He et al. 2021)", "PMLM, Transformer", "pmlm", "ACC_pmlm"]
    assert (pairs["baseline_name"], pairs["verdict"]) == ("product of singles", "not better")


def test_an_alignment_stands_beside_the_maps_that_need_none(cells):
    cell = cells["This store", "Direct coupling analysis", "fold", "label-free contacts at L/5"]
    assert (cell["ours"], cell["baseline"], cell["baseline_name"]) == ("0.9", "0.2", "random ranking")
    assert (cell["parameters"], cell["minutes"], cell["residues"]) == ("441", "0.5", "")


def test_text_of_a_store_is_text_on_the_page(html):
    assert EVIL not in html and "&lt;script&gt;" in html


class _Outward(HTMLParser):
    """What a page would fetch, or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag != "a"):
                self.fetched.append(value)
            elif name == "href":
                self.links.append(value)


def test_the_page_asks_for_nothing_from_outside_and_links_to_the_runs(html):
    found = _Outward()
    found.feed(html)
    assert all(value.startswith("data:") for value in found.fetched)
    assert "@import" not in html and "url(" not in html
    outward = [link for link in found.links if not link.startswith("#")]
    assert "Every figure of ours leads to its run" in html
    assert outward and all(link.startswith(f"{UI}/#/experiments/") for link in outward)


def test_runs_that_no_table_shows_are_named_with_why(address, tmp_path):
    report_command(tmp_path / "report", ("others",), address)
    closing = (tmp_path / "report" / "report.html").read_text().split("<footer>")[1]
    assert "(no figure of these tables)" in closing and "(running)" in closing and EVIL not in closing


def test_curves_over_residues_are_drawn(html):
    assert 'aria-label="perplexity of a masked residue over residues"' in html


def test_without_the_address_of_the_pages_runs_are_named(address, tmp_path):
    report_command(tmp_path / "report", ("fine-tuning",), address)
    html = (tmp_path / "report" / "report.html").read_text()
    assert "is named at the end of its row" in html and "leads to its run" not in html
    assert "experiments/" in html and "http://" not in html.split("</style>")[1].split("<footer>")[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experiment": ("fine-tunin",)}, "--experiment fine-tunin: no such experiment.*did you mean fine-tuning"),
        ({"address": "sqlite:////nowhere/mlflow.db"}, "/nowhere/mlflow.db: no such MLflow store"),
        ({"address": "http://127.0.0.1:9"}, "http://127.0.0.1:9: does not answer"),
        ({"ui": "javascript:alert(1)"}, "--ui javascript:alert"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(address, tmp_path, given, message):
    with pytest.raises(InputError, match=message) as caught:
        report_command(tmp_path / "report", **{"address": address, **given})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_file_that_is_no_store_is_said(tmp_path):
    (tmp_path / "mlflow.db").write_text("these are not the runs")
    with pytest.raises(InputError, match="cannot be read as an MLflow store"):
        report_command(tmp_path / "report", address=f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_folder_is_replaced_only_where_it_is_a_report_and_that_is_asked_for(address, tmp_path):
    out = tmp_path / "report"
    report_command(out, address=address)
    (out / "report.html").write_text("old")
    with pytest.raises(InputError, match="there is a report already.*--overwrite"):
        report_command(out, address=address)
    assert (out / "report.html").read_text() == "old"
    report_command(out, address=address, overwrite=True)
    assert "<table>" in (out / "report.html").read_text()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no report"):
        report_command(out, address=address, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_an_empty_experiment_makes_a_page_that_says_so(address, tmp_path):
    report_command(tmp_path / "report", ("empty",), address)
    html = (tmp_path / "report" / "report.html").read_text()
    assert "No run that could be set beside a baseline" in html and "Not run yet." in html


def test_the_command_ends_with_2_on_bad_input(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "--out", str(tmp_path / "report"), "--address", f"sqlite:///{tmp_path}/none.db"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_the_tables_sort_and_nothing_is_wrong(report, tmp_path):
    head = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]

    def opened(fragment: str) -> tuple[list[str], str]:
        address = (report / "report.html").as_uri() + fragment
        done = subprocess.run([str(CHROMIUM), *head, "--dump-dom", address], capture_output=True, text=True, timeout=120)
        assert "CONSOLE" not in done.stderr  # neither an error of the script nor a request that the page's policy refused
        table = done.stdout.split('<section id="tape-the-five-tasks">')[1].split("</table>")[0]
        return [row.split("<")[0] for row in table.split('<th scope="row">')[1:]], table

    rows, table = opened("")
    assert table.count('aria-sort="none"') > 5 and 'aria-sort="descending"' not in table
    place = _place_of("stability", table)
    by_score, sorted_table = opened(f"#sort=tape-the-five-tasks.{place}")
    assert by_score[:3] == ["Convolution, not pre-trained", "PMLM, Transformer", "Ridge on one-hot"] and set(by_score) == set(rows)
    assert sorted_table.count('aria-sort="descending"') == 1
    by_name, _ = opened("#sort=tape-the-five-tasks.0")
    assert by_name == sorted(rows, key=str.lower)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_click_on_a_head_sorts_down_and_the_next_one_up(report, html, tmp_path):
    table = html.split('<section id="tape-the-five-tasks">')[1].split("</table>")[0]
    place = _place_of("stability", table)
    head = f'#tape-the-five-tasks th[data-column="{place}"]'
    cells = f"Array.from(document.querySelectorAll('#tape-the-five-tasks tbody tr'), row => row.cells[{place}].dataset.value ?? null)"
    with Browser(CHROMIUM, (report / "report.html").as_uri(), tmp_path / "profile") as browser:
        before = browser.value(cells)
        known = sorted(float(value) for value in before if value is not None)
        empty = [None] * (len(before) - len(known))
        for order, expected in (("descending", known[::-1]), ("ascending", known), ("descending", known[::-1])):
            browser.click(f"{head} button")
            assert browser.value(f"document.querySelector('{head}').getAttribute('aria-sort')") == order
            assert [
                value if value is None else float(value) for value in browser.value(cells)
            ] == expected + empty  # what is empty stays last
    assert len(known) == 4 and empty and known != known[::-1]


def _place_of(task: str, table: str) -> int:
    """Return the place of the column "ours" of a task whose head has two."""
    heads = table.split("<thead>")[1].split("</thead>")[0]
    before = heads.split(f">{task}")[0]
    pairs, single = before.count('colspan="2"'), before.count('rowspan="2"') - 1  # the method's own head has place 0
    return 2 * pairs + single


def test_of_the_runs_of_other_programs_only_what_reads_as_ours_is_shown(address, tmp_path):
    report_command(tmp_path / "report", ("others",), address)
    with (tmp_path / "report" / "report.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [row["ours"] for row in cells if row["ours"]] == ["2.5"]  # the one number that could be read as ours
