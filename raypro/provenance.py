"""Where a result comes from: the versions and the commit of the code that made it."""

import getpass
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("raypro", "torch", "ray", "mlflow", "pyarrow", "numpy", "safetensors", "scikit-learn", "scipy", "matplotlib")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, without importing them; "absent" where one is missing."""
    import raypro

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {"raypro": raypro.__version__}  # a job runs raypro from its working folder, installed or not


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the code in ``folder`` (default: of raypro itself), "-dirty" appended where files differ from it.

    None where there is no git, no repository (a submitted job runs from a copy) or no commit.
    """
    folder = folder or Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def identity_tags() -> dict[str, str]:
    """Return who runs what: the tags that MLflow's own columns User, Source and Version show."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container
        user = str(os.getuid())
    commit = git_commit()
    known = {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    return known | ({"mlflow.source.git.commit": commit} if commit else {})
