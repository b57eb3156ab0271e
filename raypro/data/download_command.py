"""``raypro task download``: TAPE's published data (Rao et al. 2019), as its README and ``download_data.sh`` name them."""

import re
from pathlib import Path
from typing import Literal, get_args

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from raypro.config import InputError
from raypro.data.download import Checksum, digest_of, fetch
from raypro.data.unpacking import unpack

TapeTask = Literal["stability", "fluorescence", "remote_homology", "secondary_structure", "contacts"]
Form = Literal["lmdb", "json"]

SERVER = "https://s3.amazonaws.com/songlabdata/proteindata"
ENDINGS = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")
_FOLDERS: dict[Form, str] = {"lmdb": "data_pytorch", "json": "data_raw_pytorch"}
_ARCHIVES: dict[TapeTask, str] = {**{task: task for task in get_args(TapeTask)}, "contacts": "proteinnet"}
_MD5 = {
    "stability": "aa1e06eb5a59e0ecdae581e9ea029675",
    "fluorescence": "d63d1d51ec8c20ff0d981e4cbd67457a",
    "remote_homology": "1d687bdeb9e3866f77504d6079eed00a",
    "secondary_structure": "2f61e8e09c215c032ef5bc8b910c8e97",
}
"""MD5 of LMDB archives, as TorchDrug (``torchdrug/datasets``) has them; TAPE publishes none, and none is known of the others."""


def address_of(task: TapeTask, form: Form) -> str:
    """Return where TAPE publishes a task's data."""
    return f"{SERVER}/{_FOLDERS[form]}/{_ARCHIVES[task]}.tar.gz"


def download_command(
    task: tyro.conf.Positional[TapeTask],
    /,
    out: Path,
    form: Form = "lmdb",
    address: str | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
) -> None:
    """Download one of TAPE's data sets and unpack it, for ``raypro task import``; broken off, the same command goes on.

    Args:
        task: which.
        out: the folder for the archive and what is in it.
        form: lmdb, TAPE's own, which need raypro's extra of that name; json, larger, which need nothing.
        address: where the archive is; TAPE's own server where missing.
        sha256: what the archive's content must come to; replaces the checksum that is known.
        overwrite: download and unpack again what is there already.
    """
    suffix = "_json" if form == "json" and address is None else ""  # TAPE calls the archives of both forms the same
    address = address or address_of(task, form)
    archive, folder = _places(address, out.expanduser(), suffix)
    expected = _expected(task, address, sha256)
    console = Console()
    there = archive.is_file() and not overwrite
    if folder.exists() and not overwrite and not there:
        raise InputError(f"{folder}: there already, without the archive that it came from; give another --out, or --overwrite")
    if there:
        _as_before(archive, expected).require(archive, str(archive), "download it again by --overwrite")
    else:
        _fetch_shown(address, archive, expected)
    digest = digest_of(archive, "sha256")
    _checksum_file(archive).write_text(f"{digest}  {archive.name}\n")
    if overwrite or not folder.exists():
        unpack(archive, folder)
    verified = "as expected" if expected else "there is no published one to compare it with"
    console.print(f"sha256 {digest} ({verified}), written to {_checksum_file(archive)}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"{'there already' if there else 'downloaded'}: {folder}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"next: raypro task import {folder} --task {task} --out FOLDER", soft_wrap=True, highlight=False, markup=False)


def _places(address: str, out: Path, suffix: str) -> tuple[Path, Path]:
    """Return the archive and the folder that it is unpacked to, called by the last part of the address; make the folder of both."""
    name = address.partition("?")[0].rpartition("/")[2]
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    stem = name.removesuffix(ending) if ending else ""
    if not stem or stem.startswith("."):
        raise InputError(f"{address}: not the address of an archive: its last part would be a name such as stability.tar.gz")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); give another --out") from None
    return out / f"{stem}{suffix}{ending}", out / f"{stem}{suffix}"


def _expected(task: TapeTask, address: str, sha256: str | None) -> Checksum | None:
    """Return what the archive must come to, where that is known."""
    if sha256 is not None:
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise InputError(f"sha256: {sha256!r} is none: it has 64 hexadecimal digits")
        return Checksum("sha256", sha256)
    return Checksum("md5", _MD5[task]) if task in _MD5 and address == address_of(task, "lmdb") else None


def _fetch_shown(address: str, archive: Path, expected: Checksum | None) -> None:
    """Download with a progress bar."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(escape(archive.name), total=None)
        fetch(
            address,
            archive,
            expected,
            shown=lambda here, size: progress.update(bar, completed=here, total=size),
            say=lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False),
        )


def _checksum_file(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def _as_before(archive: Path, expected: Checksum | None) -> Checksum:
    """Return what an archive that is there must come to: what is expected, else what it came to when it was downloaded, else anything."""
    if expected:
        return expected
    try:
        return Checksum("sha256", _checksum_file(archive).read_text().split()[0])
    except (OSError, IndexError):
        return Checksum("sha256", digest_of(archive, "sha256"))
