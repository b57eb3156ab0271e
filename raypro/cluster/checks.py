"""What `raypro doctor` checks: one function a check, each says what it found and what to do about it."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from packaging.requirements import Requirement

from raypro.address import listens, silence_of, tracking_address
from raypro.cluster.resources import Node, ask, worker_cpus
from raypro.config import InputError
from raypro.data.corpus import Corpus
from raypro.home import home as home_folder
from raypro.provenance import versions
from raypro.settings import Workers

Outcome = Literal["pass", "warn", "fail"]
LOW_DISK, TOO_LOW_DISK = 10 * 2**30, 2**30
"""Bytes free in raypro's home below which a person is warned, and below which a run will not get far."""


@dataclass(frozen=True)
class Check:
    """What one check found, and what to do about it."""

    name: str
    outcome: Outcome
    found: str
    advice: str = ""


def packages() -> Iterator[Check]:
    """Compare the packages with what raypro asks for; look for the parts of Ray that its bare installation lacks."""
    found = versions()
    try:
        wanted = [Requirement(line) for line in metadata.requires("raypro") or []]
    except metadata.PackageNotFoundError:  # a submitted job runs raypro from its working folder, uninstalled
        wanted = []
    named = {requirement.name: requirement for requirement in wanted if requirement.marker is None}
    wrong = [name for name, version in found.items() if version == "absent" or (name in named and version not in named[name].specifier)]
    listing = ", ".join(f"{name} {version}" for name, version in found.items())
    advice = f"install what is missing or of another version ({', '.join(wrong)}): pip install -e ." if wrong else ""
    yield Check("packages", "fail" if wrong else "pass", listing, advice)
    if find_spec("aiohttp_cors") is None or find_spec("opencensus") is None:
        yield Check(
            "ray[default]", "fail", "the dashboard's packages are absent", "pip install 'ray[default]': without it no `ray job submit`"
        )


def authentication() -> Check:
    """Say whether a cluster started or asked from this shell would want a token, and whether there is one."""
    name, mode = "authentication", os.environ.get("RAY_AUTH_MODE")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode == "token" and token:
        return Check(name, "pass", "RAY_AUTH_MODE=token, and there is a token")
    if mode == "token":
        return Check(name, "fail", f"RAY_AUTH_MODE=token, but no token ({file})", "ray get-auth-token --generate")
    if mode is None and token:
        return Check(name, "warn", "a token, but RAY_AUTH_MODE is unset: `ray job submit` would get 401", "export RAY_AUTH_MODE=token")
    advice = "before `ray start`: ray get-auth-token --generate; export RAY_AUTH_MODE=token"
    return Check(name, "warn", "none: whoever reaches a cluster started from here runs code on it", advice)


def leftover_cluster() -> Check:
    """Find the note of a cluster that is gone, over which starting Ray stumbles."""
    file = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    name, address = "leftover cluster", file.read_text().strip() if file.is_file() else ""
    if not address or listens(address):
        return Check(name, "pass", f"a cluster at {address}" if address else "none")
    return Check(name, "warn", f"{file} names {address}, where nothing answers", f"rm {file}")


def resources(nodes: list[Node], workers: Workers, probing: float = 0.0) -> Check:
    """Ask of the nodes what a run would ask of them; see :func:`raypro.cluster.resources.worker_cpus`."""
    there = ", ".join(f"{node.address}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes)
    try:
        cpus = worker_cpus(workers, nodes, probing)
    except InputError as error:
        found, _, advice = str(error).removeprefix("workers: ").partition("; ")
        return Check("resources", "fail", found, advice)
    return Check("resources", "pass", f"{there}; {workers.count} workers of {cpus:g} CPUs and {workers.gpus:g} GPUs fit")


def gpus(nodes: list[Node], connected: bool) -> Check:
    """Ask torch, on every node with GPUs, whether it sees them."""
    name, advice = "torch and GPUs", "install a torch build for the GPU's driver on it (pytorch.org)"
    if not connected:
        import torch

        driver, seen = Path("/dev/nvidiactl").exists(), torch.cuda.is_available()
        if driver and not seen:
            return Check(name, "fail", f"there is an NVIDIA driver, torch {torch.__version__} sees no GPU", advice)
        return Check(name, "pass", f"torch sees {torch.cuda.device_count()} GPUs")

    def sees_gpu() -> bool:
        import torch

        return torch.cuda.is_available()

    with_gpus = [node for node in nodes if node.gpus > 0]
    answers = ask(with_gpus, sees_gpu, num_gpus=0.01)
    blind = [address for address, seen in answers.items() if seen is False]
    silent = [address for address, seen in answers.items() if seen is not True and seen is not False]
    if blind:
        return Check(name, "fail", f"torch sees no GPU on {', '.join(blind)}", advice)
    if silent:
        return Check(name, "warn", f"no answer from {', '.join(silent)}", "look again when their GPUs are free")
    return Check(name, "pass", f"torch sees the GPUs of {len(with_gpus)} nodes" if with_gpus else "no node has GPUs")


def home() -> Check:
    """Write a file into raypro's home."""
    folder, asked = home_folder(), os.environ.get("RAYPRO_HOME", "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("home", "fail", f"{folder} is not writable ({error.strerror})", "set RAYPRO_HOME to a folder that is")
    if asked and not Path(asked).expanduser().is_absolute():
        return Check(
            "home", "warn", f"RAYPRO_HOME={asked} is relative: another folder for every working folder", f"export RAYPRO_HOME={folder}"
        )
    return Check("home", "pass", str(folder))


def shared_storage(nodes: list[Node]) -> Check:
    """Write a file here and read it on every node: checkpoints are written by one and read by all."""
    probe, content = home_folder() / f".probe-{secrets.token_hex(8)}", secrets.token_hex(8)

    def read(path: str) -> str | None:
        file = Path(path)
        return file.read_text() if file.is_file() else None

    probe.write_text(content)
    try:
        answers = ask(nodes, read, str(probe))
    finally:
        probe.unlink()
    without = [address for address, answer in answers.items() if answer != content]
    if without:
        return Check(
            "shared storage",
            "fail",
            f"{home_folder()} is not the same folder on {', '.join(without)}",
            "set RAYPRO_HOME to a folder all nodes share",
        )
    return Check("shared storage", "pass", f"{home_folder()} is one folder on {len(nodes)} nodes")


def disk() -> Check:
    """Look at the space left where runs are written."""
    folder = next(parent for parent in (home_folder(), *home_folder().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    outcome: Outcome = "fail" if free < TOO_LOW_DISK else "warn" if free < LOW_DISK else "pass"
    return Check(
        "disk", outcome, f"{free / 2**30:.0f} GiB free in {folder}", "" if outcome == "pass" else "make room, or set RAYPRO_HOME elsewhere"
    )


def tracking() -> Check:
    """Ask the tracking address whether it answers."""
    address, asked = tracking_address(), os.environ.get("MLFLOW_TRACKING_URI", "")
    why = silence_of(address)
    if why:
        advice = "start it, or unset MLFLOW_TRACKING_URI; a run goes on without it, `raypro runs sync` sends its records later"
        return Check("tracking", "warn", f"{address} does not answer: {why}", advice)
    if asked.startswith("sqlite:") and asked != address:
        return Check(
            "tracking", "warn", f"{asked} is relative: another store for every working folder", f"export MLFLOW_TRACKING_URI={address}"
        )
    if "://" not in address or address.startswith("file:"):
        return Check(
            "tracking", "fail", f"{address}: MLflow no longer writes to plain folders", "unset MLFLOW_TRACKING_URI, or name a server"
        )
    return Check("tracking", "pass", address)


def corpus(path: str) -> Check:
    """Open the corpus."""
    try:
        opened = Corpus.open(path)
    except InputError as error:
        found, _, advice = str(error).partition("; ")
        return Check("corpus", "fail", found, advice)
    rows = {split: opened.rows(split) for split in ("train", "valid", "test")}
    return Check("corpus", "pass", f"{opened.path}: " + ", ".join(f"{count:,} {split}" for split, count in rows.items()))


def dashboard(address: str | None) -> Check:
    """Ask the cluster's dashboard, which `ray job submit` and sweeps go through, whether it answers."""
    advice = "start the head with ray[default] installed, and without --include-dashboard=false"
    if not address:
        return Check("dashboard", "fail", "the cluster has none: no `ray job submit`, no sweeps", advice)
    try:
        urlopen(f"http://{address}/api/version", timeout=5).close()
    except HTTPError:
        pass  # it answers: it wants a token
    except OSError as error:
        return Check("dashboard", "fail", f"http://{address} does not answer ({getattr(error, 'reason', error)})", advice)
    return Check("dashboard", "pass", f"http://{address}")
