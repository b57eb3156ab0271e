"""Every job and preset can be built, and takes a step; bad input gets one line."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import psutil
import pytest
import torch

import raypro
from raypro.cli import COMMANDS, main
from raypro.cluster.checks import listens
from raypro.data.source import read_here
from raypro.data.synthetic import build_synthetic
from raypro.experiment import Experiment
from raypro.job import pretrain_main
from raypro.outbox import Outbox
from raypro.pretraining import Pretraining
from raypro.provenance import source_digest
from raypro.settings import Budget
from raypro.summary import affordable_sequences, conclude
from raypro.training import train
from tests.processes import left_after
from tests.small import TINY, random_sequences, write_corpus

ROOT = Path(__file__).resolve().parent.parent
TINY_RUN = "--encoder.layers 1 --encoder.width 16 --encoder.heads 2 --encoder.hidden 32 --budget.steps 2 --validation.every 2".split()


@pytest.fixture
def jobs_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "jobs"))


@pytest.mark.parametrize("job", ["pretrain_mlm", "pretrain_pmlm", "pretrain_cpcprot", "pretrain_adversarial", "pretrain_next_token"])
def test_every_preset_is_an_experiment_that_can_be_built(job: str, jobs_path: None) -> None:
    for preset in importlib.import_module(job).PRESETS.values():
        experiment = preset()
        assert Experiment.from_plain(experiment.to_plain()) == experiment
        with torch.device("meta"):
            experiment.objective.build(experiment.encoder.build())


@pytest.mark.cluster
def test_each_job_takes_a_step_on_the_demonstration_corpus(
    jobs_path: None, raypro_home: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    build_synthetic(raypro_home / "demo-corpus", sequences=200)  # instead of the full one, which the job would make
    for job in ("pretrain_mlm", "pretrain_pmlm"):
        pretrain_main(importlib.import_module(job).PRESETS, [*TINY_RUN, "--name", job, "--validation.sequences", "64"])
        said = capsys.readouterr().out
        assert f"What {job} learned" in said and "perplexity" in said
    assert "families never seen" in said
    steps = ["--budget.steps", "2", "--validation.every", "2", "--validation.sequences", "64"]
    pretrain_main(importlib.import_module("pretrain_cpcprot").PRESETS, [*steps, "--name", "contrast"])
    assert "told apart" in capsys.readouterr().out
    pretrain_main(importlib.import_module("pretrain_adversarial").PRESETS, [*steps, "--name", "adversarial", "--tracking.every", "1"])
    assert "masked by the noiser" in capsys.readouterr().out
    pretrain_main(importlib.import_module("pretrain_next_token").PRESETS, [*steps, "--name", "next"])
    assert "perplexity of the next residue" in capsys.readouterr().out
    drawn = {path.stem for path in (raypro_home / "runs" / "adversarial" / "pictures").glob("noiser_*.png")}
    assert drawn == {"noiser_strength", "noiser_habits", "noiser_residues", "noiser_places"}
    assert (raypro_home / "runs" / "pretrain_pmlm" / "pictures" / "contacts_synthetic-00.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--verbose"], "--verbose: options follow a command; raypro --help"),
        (["corpus", "biuld", "x"], "corpus biuld: no such command; did you mean corpus build?"),
        (["corpus", "--overwrite"], "corpus: which\\? known: corpus build, corpus show"),
        (["runs", "lits"], "runs lits: no such command; did you mean runs list?"),
        (["runs list"], "runs list: no such command"),
        ([""], "'': no such command"),
        (["predcit", "--model", "x"], "predcit: no such command; did you mean predict?"),
        (["corpus", "show", "/no/such"], "/no/such: no such corpus folder"),
        (["corpus", "build", "/no/such.fasta", "--out", "new"], "/no/such.fasta: no such file"),
        (["runs", "audit", "nothing"], "error: nothing: no such run"),
        (["runs", "sync", "nothing"], "nothing"),
        (["validate", "/no/such"], "/no/such: not a checkpoint"),
        (["ui", "--prot", "1"], "did you mean --port"),
    ],
)
def test_bad_input_to_a_command_is_one_line_and_exit_status_2(
    args: list[str], message: str, raypro_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1 and re.search(message, said)
    assert not list(tmp_path.glob("*")) or list(tmp_path.glob("*")) == [raypro_home]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "smal"], "--preset: smal: no such preset; did you mean small?"),
        (["--resume", "nothing"], "nothing: no such run"),
        (["--encoder.dropout", "7"], "encoder.dropout: 7.0 must be in"),
        (["--corpus", "/no/such"], "/no/such: no such corpus folder"),
        (["--optimizer.lerning-rate", "1"], "did you mean --optimizer.learning-rate"),
        (["--corpus", "corpus", "--workers.count", "1000"], "1000 workers"),
        (["--corpus", "corpus", "--workers.gpus", "1", "--workers.count", "4"], "0 GPUs|do not fit"),
        (["--corpus", "corpus", "--batches.token-budget", "10"], "token_budget: 10 tokens do not hold one sequence"),
        (["--corpus", "unsplit"], "no sequence in its valid split"),
        (["--corpus", "damaged"], "damaged/train-00000.parquet: its checksum differs"),
    ],
)
def test_bad_input_to_a_job_is_one_line_and_starts_nothing(
    args: list[str],
    message: str,
    jobs_path: None,
    raypro_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus", {"train": random_sequences(20, 5, 20), "valid": random_sequences(5, 5, 20)})
    write_corpus(tmp_path / "unsplit", {"train": random_sequences(20, 5, 20)})
    damaged = write_corpus(tmp_path / "damaged", {"train": random_sequences(20, 5, 20), "valid": random_sequences(5, 5, 20)})
    with (damaged.path / "train-00000.parquet").open("r+b") as file:
        file.write(b"PAR2")
    with pytest.raises(SystemExit) as exit_:
        pretrain_main(importlib.import_module("pretrain_pmlm").PRESETS, args)
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1 and re.search(message, said)
    assert not (raypro_home / "runs").exists()


def test_contact_maps_at_the_end_of_a_run_stay_affordable() -> None:
    assert [affordable_sequences(length) for length in (1, 32, 80, 200, 1000)] == [8, 8, 7, 0, 0]


def test_the_end_of_a_run_draws_contact_maps_where_its_families_are_short_whatever_its_batches_may_hold(
    jobs_path: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = build_synthetic(tmp_path / "corpus", families=1, held_out=0, length=20, sequences=60).path
    small = importlib.import_module("pretrain_pmlm").PRESETS["small"]()
    assert affordable_sequences(small.batches.max_length) == 0
    batches = replace(small.batches, token_budget=small.batches.max_length + 2)
    small = replace(small, corpus=str(corpus), batches=batches, budget=Budget(steps=1), encoder=TINY)
    run = tmp_path / "run"
    run.mkdir()
    train(Pretraining(small, read_here), run, lambda metrics, path: None, None)
    outbox = Outbox(run, "driver")
    conclude(small, run, run / "step_00000001", outbox)
    outbox.close()
    assert "contact maps of long families" not in capsys.readouterr().out
    assert (run / "pictures" / "contacts_synthetic-00.png").stat().st_size > 10_000
    assert "speed/..._per_second" in (run / "tracking" / "outbox-driver.jsonl").read_text()  # what the figures are is in the description


def test_every_command_is_in_the_overview_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for asked, begin in {(): "", ("--help",): "", ("corpus", "-h"): "corpus "}.items():
        main(asked)
        said = capsys.readouterr().out
        assert [name for name in COMMANDS if f"  {name} " in said] == [name for name in COMMANDS if name.startswith(begin)]
        assert all(len(line) < 100 for line in said.splitlines())
    assert all(command.load().__doc__ for command in COMMANDS.values())
    main(["--version"])
    assert capsys.readouterr().out == f"raypro {raypro.__version__}\n"


def test_a_command_imports_what_it_needs_and_no_more() -> None:
    heavy = ("torch", "ray", "mlflow", "sklearn", "matplotlib")
    code = "import sys, raypro.cli; raypro.cli.main([]); {}; print([name for name in sys.argv[1:] if name in sys.modules])"
    for then, loaded in {
        "raypro.cli.COMMANDS['ui'].load()": [],
        "import raypro.cluster.train": ["torch", "ray", "matplotlib"],
    }.items():
        compiler = ("torch._dynamo", "sklearn.base", "mlflow")
        said = subprocess.check_output([sys.executable, "-c", code.format(then), *heavy, *compiler], text=True)
        assert said.splitlines()[-1] == str(loaded)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a head with dashboard and token, as a person would; return the environment of a client of it."""
    port, dashboard, folder = 26379, 28265, Path(f"/tmp/raypro-head-{os.getpid()}")
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAYPRO_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)  # the job must find raypro in the folder that is submitted with it
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = [
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        "--ray-client-server-port=20001",
    ]
    command += [f"--temp-dir={folder}", "--object-store-memory=300000000", "--dashboard-host=127.0.0.1"]
    # ports of its own: the agent of another cluster on this machine (the tests' own) holds the usual ones, and without one no job starts
    command += ["--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=28266", "--dashboard-agent-grpc-port=28267"]
    ray = Path(sys.executable).parent / "ray"
    for _ in range(3):  # on a busy machine a head may give up on its own parts
        process = subprocess.Popen([ray, *command], env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        while process.poll() is None and not listens(f"127.0.0.1:{dashboard}"):
            time.sleep(1)
        if process.poll() is None:
            break
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()  # --block ends what it started, but may wait half a minute for parts of it that are zombies
    for one in left_after(started, 8):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_trains_and_leaves_everything_in_the_home(head: dict[str, str], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": random_sequences(100, 10, 20), "valid": random_sequences(9, 10, 20)})
    ray = Path(sys.executable).parent / "ray"
    job = f"python jobs/pretrain_pmlm.py --name submitted --corpus {corpus.path} {' '.join(TINY_RUN)}".split()
    environment = json.dumps({"env_vars": {"RAYPRO_COMMIT": "handed over"}})  # the copy that is submitted has no repository
    submit = [ray, "job", "submit", "--working-dir", str(ROOT), "--runtime-env-json", environment, "--", *job]
    patience = time.monotonic() + 150  # the head takes seconds until it accepts jobs, on a busy machine a minute
    while True:
        done = subprocess.run(submit, env=head, capture_output=True, text=True, timeout=240)
        waiting = re.search("No available agent|onnection|Failed to connect", done.stderr) and time.monotonic() < patience
        if done.returncode == 0 or not waiting:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    home = tmp_path / "home"
    assert (home / "runs" / "submitted" / "step_00000002" / "model.safetensors").is_file()
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("pretraining").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "submitted") and math.isfinite(run.data.metrics["train/loss"])
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == "handed over" and tags["source_digest"] == source_digest()
