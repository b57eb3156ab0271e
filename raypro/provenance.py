"""Where a result comes from: the versions and the commit of the code that made it."""

import getpass
import hashlib
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

    A submitted job runs from a copy without a repository: there it is what ``$RAYPRO_COMMIT`` says. None where that is not set, and
    where there is no git or no commit.
    """
    handed_over = None if folder else os.environ.get("RAYPRO_COMMIT")
    folder = folder or Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return handed_over
    return (done.stdout.strip() if done.returncode == 0 else "") or handed_over


def source_digest(folder: Path | None = None) -> str:
    """Return a digest of the Python files below ``folder`` (default: raypro's own), by name and content: equal for equal code.

    It says which code a run was made by, where there is no commit or where files differ from it.
    """
    folder, digest = folder or Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def identity_tags() -> dict[str, str]:
    """Return who runs what: the tags that MLflow's own columns User, Source and Version show."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container
        user = str(os.getuid())
    commit = git_commit()
    known = {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    known["source_digest"] = source_digest()
    return known | ({"mlflow.source.git.commit": commit} if commit else {})
