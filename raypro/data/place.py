"""The folder of data that are being built: beside its place, which it takes only when it is whole."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raypro.config import InputError
from raypro.data.corpus import MANIFEST, Manifest

_OLD = "old"


@contextmanager
def building_folder(out: Path) -> Iterator[Path]:
    """Give the empty folder in which ``out`` is built; it is gone afterwards, and what a killed build left is cleared first.

    Raises:
        InputError: it cannot be made, or another build has it.
    """
    folder = out.parent / f".{out.name}.building"
    descriptor = _locked(folder, out)
    try:
        _put_back(folder, out)
        for left in folder.iterdir():
            shutil.rmtree(left)
        yield folder
    finally:
        _put_back(folder, out)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def require_free(out: Path, overwrite: bool, manifest: type = Manifest) -> None:
    """Raise InputError if ``out`` is anything but nothing, an empty folder, or one with such a manifest that may be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    what, there = ("corpus", "is a corpus") if manifest is Manifest else ("labelled data", "are labelled data")
    try:
        kind = json.loads((out / MANIFEST).read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != manifest.__name__:
        raise InputError(f"{out}: there already, and no {what}; give another folder")
    if not overwrite:
        raise InputError(f"{out}: there {there} already; give another folder, or --overwrite")


def take_place(new: Path, out: Path) -> None:
    """Rename the finished folder to its name; one that is replaced goes only then."""
    if out.exists():
        os.rename(out, new.parent / _OLD)
    os.rename(new, out)


def _locked(folder: Path, out: Path) -> int:
    """Make a folder and lock it; return the descriptor that holds the lock, which goes with the process, however it ends."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another build has just ended
            continue
        except OSError as error:
            raise InputError(f"{out}: cannot be made ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise InputError(f"{out}: another build is writing it; wait for it, or give another folder") from None
        if folder.is_dir() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)  # of a folder that another build has just removed


def _put_back(folder: Path, out: Path) -> None:
    """Give back its place to what was to be replaced, where a build ended between the two renames of :func:`take_place`."""
    if (folder / _OLD).exists() and not out.exists():
        os.rename(folder / _OLD, out)
