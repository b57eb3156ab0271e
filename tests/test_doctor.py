"""The doctor finds what is wrong, says what to do, and asks nothing for ever."""

import json
import socket
from importlib import metadata
from pathlib import Path

import pytest

from raypro.cluster import checks, doctor, session, worker
from raypro.cluster.resources import Node, alive_nodes, shortage, worker_cpus
from raypro.config import InputError
from raypro.home import RUN_FILE, run_folder
from raypro.settings import Workers
from tests.small import random_sequences, tiny_experiment, write_corpus

LAPTOP = Node("a", "laptop", 2, 0)
SERVER = Node("b", "server", 8, 2)


@pytest.fixture
def nobody_there() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "fits"),
    [
        ([LAPTOP], 2, 1, 0, True),
        ([LAPTOP], 3, 1, 0, False),
        ([LAPTOP], 4, 0.5, 0, True),
        ([Node("c", "shared", 0.7, 0)], 7, 0.1, 0, True),  # 0.7 / 0.1 is a little less than 7 in floating point
        ([LAPTOP], 1, 1, 1, False),
        ([LAPTOP, SERVER], 2, 4, 1, True),
        ([LAPTOP, SERVER], 3, 1, 1, False),
        ([LAPTOP, SERVER], 1, 9, 0, False),  # 10 in all, but a worker lies within one node
        ([SERVER], 9, 0, 0, True),
    ],
)
def test_workers_fit_or_not(nodes, workers, cpus, gpus, fits):
    assert (shortage(nodes, workers, cpus, gpus) is None) == fits


def test_a_shortage_names_both_numbers_in_one_line():
    line = shortage([LAPTOP, SERVER], 4, 1, 1)
    assert "4 workers of 1 CPUs and 1 GPUs" in line and "10 CPUs and 2 GPUs on 2 nodes" in line and "\n" not in line


@pytest.mark.parametrize(
    ("mode", "token", "outcome", "advice"),
    [
        ("token", True, "pass", ""),
        ("token", False, "fail", "ray get-auth-token --generate"),
        (None, True, "warn", "export RAY_AUTH_MODE=token"),
        (None, False, "warn", "ray get-auth-token --generate; export RAY_AUTH_MODE=token"),
    ],
)
def test_authentication(monkeypatch, tmp_path, mode, token, outcome, advice):
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", mode or "")
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    if token:
        file.write_text("secret")
    check = checks.authentication()
    assert check.outcome == outcome and check.advice.endswith(advice)
    assert "secret" not in check.found


def test_the_note_of_a_dead_cluster_is_found(monkeypatch, tmp_path, nobody_there):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert checks.leftover_cluster().outcome == "pass"
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text(nobody_there)
    assert checks.leftover_cluster().outcome == "warn" and checks.leftover_cluster().advice == f"rm {note}"
    with socket.create_server(("127.0.0.1", 0)) as living:
        note.write_text(f"127.0.0.1:{living.getsockname()[1]}")
        assert checks.leftover_cluster().outcome == "pass"


def not_installed(name: str) -> list[str]:
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("requires", "change", "wrong"),
    [
        (lambda name: ["torch>=2.11,<2.14"], {}, None),
        (lambda name: ["torch>=2.11,<2.14"], {"torch": "2.10.0"}, "torch"),
        (lambda name: ["torch>=2.11,<2.14"], {"scipy": "absent"}, "scipy"),
        (not_installed, {"torch": "absent"}, "torch"),
        (not_installed, {}, None),
    ],
)
def test_a_missing_or_wrong_package_is_named(monkeypatch, requires, change, wrong):
    found = checks.versions()
    monkeypatch.setattr(checks.metadata, "requires", requires)
    monkeypatch.setattr(checks, "versions", lambda: found | change)
    [packages] = checks.packages()
    assert packages.outcome == ("pass" if wrong is None else "fail")
    assert wrong is None or f"({wrong})" in packages.advice


def test_home(raypro_home, monkeypatch, tmp_path):
    assert checks.home().outcome == "pass"
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYPRO_HOME", str(tmp_path / "file" / "home"))
    assert checks.home().outcome == "fail"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYPRO_HOME", "relative")
    assert checks.home().outcome == "warn" and checks.home().advice.endswith(str(tmp_path / "relative"))


@pytest.mark.parametrize(("free", "outcome"), [(2**40, "pass"), (5 * 2**30, "warn"), (2**20, "fail")])
def test_disk(monkeypatch, raypro_home, free, outcome):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    assert checks.disk().outcome == outcome


def test_tracking(raypro_home, monkeypatch, nobody_there):
    assert checks.tracking().outcome == "pass"
    for address, outcome in [
        (f"http://{nobody_there}", "warn"),
        ("sqlite:///here.db", "warn"),
        ("file:///tmp/runs", "fail"),
        ("./mlruns", "fail"),
    ]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert checks.tracking().outcome == outcome, address


def test_dashboard(nobody_there):
    assert checks.dashboard(None).outcome == "fail"
    assert checks.dashboard(nobody_there).outcome == "fail"


def test_what_fails_is_said_and_counts(raypro_home, monkeypatch, capsys, nobody_there):
    monkeypatch.setattr(doctor.ray, "is_initialized", lambda: False)  # whatever cluster an earlier test left connected
    assert doctor.doctor(workers=1, cpus_per_worker=0.5) == 0
    monkeypatch.setenv("RAY_ADDRESS", nobody_there)
    assert doctor.doctor(workers=1, cpus_per_worker=0.5) == 1
    assert "nothing answers at" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.delenv("RAY_ADDRESS")
    assert doctor.doctor(workers=1, cpus_per_worker=0.5, corpus=str(raypro_home / "nowhere")) == 1
    assert doctor.doctor(workers=10_000) == 1


def test_workers_share_what_there_is_and_what_does_not_fit_is_refused():
    one, small = [Node("a", "a", 2, 0)], Node("b", "b", 4, 0)
    assert worker_cpus(Workers(count=2), one) == 0.5
    assert worker_cpus(Workers(count=3), [small, small]) == 2  # an even share, 2.3, would leave room for two
    assert worker_cpus(Workers(count=1, cpus=1.5), one) == 1.5
    for workers, message in (
        (Workers(count=3, cpus=1), "3 workers of 1 CPUs .* 2 CPUs and 0 GPUs on 1 node"),
        (Workers(gpus=1), "1 GPUs each do not fit"),
        (Workers(count=2, cpus=1), "leave none of the 2 CPUs to read the corpus"),
        (Workers(count=17), "17 workers on 2 CPUs; .*--workers.cpus"),
    ):
        with pytest.raises(InputError, match=message):
            worker_cpus(workers, one)


@pytest.mark.cluster
def test_every_node_is_asked_whether_it_sees_the_home(ray_cluster, raypro_home):
    raypro_home.mkdir()
    [node] = alive_nodes()
    assert checks.shared_storage([node]).outcome == "pass"
    elsewhere = Node("ab" * 28, "elsewhere", 1, 0)
    check = checks.shared_storage([node, elsewhere])
    assert check.outcome == "fail" and check.found.endswith("elsewhere")
    assert list(Path(raypro_home).iterdir()) == []


@pytest.mark.cluster
def test_the_doctor_uses_a_session_that_is_open(ray_cluster, raypro_home, capsys):
    assert doctor.doctor() == doctor.doctor(workers=2) == 0
    assert doctor.doctor(workers=2, cpus_per_worker=1) == 1


def test_the_doctor_answers_as_a_run_does(raypro_home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(doctor, "this_machine", lambda: Node("", "this machine", 2, 0))
    monkeypatch.setenv("COLUMNS", "300")  # a narrower table breaks its words
    assert doctor.doctor() == doctor.doctor(workers=2) == doctor.doctor(workers=2, cpus_per_worker=0.5) == 0
    assert "2 workers of 0.5 CPUs" in " ".join(capsys.readouterr().out.split())
    for asked in ({"workers": 2, "cpus_per_worker": 1}, {"workers": 17}, {"gpus_per_worker": 1}):
        assert doctor.doctor(**asked) == 1, asked
    corpus = write_corpus(tmp_path / "corpus", {"train": random_sequences(4, 5, 9), "valid": random_sequences(2, 5, 9)})
    for count, status in ((2, 0), (3, 1)):
        experiment = tiny_experiment(corpus.path, f"run{count}", workers=Workers(count=count))
        run_folder(experiment.name).mkdir(parents=True)
        (run_folder(experiment.name) / RUN_FILE).write_text(json.dumps({"experiment": experiment.to_plain(), "data_checksum": ""}))
        assert doctor.doctor(run=experiment.name) == status
    with pytest.raises(InputError, match="nope: no such run"):
        doctor.doctor(run="nope")


def test_a_cluster_that_does_not_answer_is_one_line_at_once(monkeypatch, nobody_there):
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "init", lambda **options: pytest.fail("Ray would try for more than a minute"))
    for address in (nobody_there, f"ray://{nobody_there}", "localhost:port"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with (
            pytest.raises(InputError, match=f"={address}: no cluster answers there; .*unset RAY_ADDRESS"),
            session.ray_session(),
        ):
            pass
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match="serves `ray job submit` only"), session.ray_session():
        pass


def test_a_worker_has_the_threads_of_its_cpus(monkeypatch):
    monkeypatch.setattr(worker.os, "sched_getaffinity", lambda process: set(range(8)))
    assert [worker.threads(None, count) for count in (1, 2, 3, 20)] == [8, 4, 2, 1]
    assert [worker.threads(cpus, 1) for cpus in (0.5, 1.0, 3.0)] == [1, 1, 3]
