"""The lowest floors stand alone: importing them loads nothing of the floors above, nor what only those need."""

import subprocess
import sys

import pytest

IMPORT_ALL_OF_CORE = """
import importlib, pkgutil
import raypro.core
for module in pkgutil.walk_packages(raypro.core.__path__, "raypro.core."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # it comes with torch's builds for GPUs, and only kernels need it
            raise
"""
NOT_IN_CORE = {"ray", "mlflow", "pyarrow", "pandas", "transformers"}


def loaded_by(statements: str, suspects: set[str]) -> set[str]:
    """Return which of the ``suspects`` a fresh Python has loaded after the ``statements``."""
    report = "\nimport sys\nprint('LOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", statements + report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return suspects & set(done.stdout.split("LOADED", 1)[1].split())


def test_core_loads_torch_and_numpy_only():
    assert loaded_by(IMPORT_ALL_OF_CORE, NOT_IN_CORE) == set()


@pytest.mark.parametrize("module", ["raypro.outbox", "raypro.tracking"])
def test_a_worker_records_without_paying_for_mlflow(module):
    assert loaded_by(f"import {module}", {"mlflow", "ray", "pandas"}) == set()


def test_the_check_can_fail():
    assert loaded_by("import raypro.data.corpus", {"pyarrow", "mlflow"}) == {"pyarrow"}
