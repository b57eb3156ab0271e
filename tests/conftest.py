"""What all tests share: a quiet, quick, repeatable surrounding that touches nothing of the person who runs them."""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SURROUNDING = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # child processes find raypro uninstalled
    "OMP_NUM_THREADS": "1",  # the order of a sum, and so its last bits, depends on the number of threads
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a finished or dead worker is seen sooner than after the usual 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process less for every run: this node is not taken away
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; silences its warning
    "RAY_AUTH_MODE": "token",
    "HF_HUB_OFFLINE": "1",  # nothing is downloaded
}
NOT_INHERITED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")


def pytest_configure(config: pytest.Config) -> None:
    """Set the surrounding before anything imports torch or ray: raypro's home and Ray's token lie in a folder of this session."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C, and hands that on
    folder = Path(tempfile.mkdtemp(prefix="raypro-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    token = folder / "ray_auth_token"
    token.write_text(secrets.token_hex(16))
    for name in NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ.update(SURROUNDING, RAYPRO_HOME=str(folder / "home"), RAY_AUTH_TOKEN_PATH=str(token))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that start clusters first: quick ones fill the time beside the last. Skip what needs a GPU where torch sees none."""
    clusters = {item.path for item in items if item.get_closest_marker("cluster")}
    items.sort(key=lambda item: item.path not in clusters)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="torch sees no GPU here"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, whatever ran before it."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Connect to a Ray cluster of this session's own: one node, two CPUs, no dashboard; gone at the end."""
    import ray

    from raypro.cluster.session import KEEP_IDLE

    small = {"num_cpus": 2, "object_store_memory": 300 * 2**20}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, _system_config=KEEP_IDLE, **small)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data: $RAYPRO_SHARED_DATA, else ../shared/data beside the repository; skip where it is missing."""
    folder = Path(os.environ.get("RAYPRO_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (RAYPRO_SHARED_DATA names another folder)")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a raypro home that a file's tests share."""
    folder = tmp_path_factory.mktemp("home")
    before, os.environ["RAYPRO_HOME"] = os.environ["RAYPRO_HOME"], str(folder)
    yield folder
    os.environ["RAYPRO_HOME"] = before


@pytest.fixture
def raypro_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty raypro home for one test."""
    home = tmp_path / "home"
    monkeypatch.setenv("RAYPRO_HOME", str(home))
    return home
