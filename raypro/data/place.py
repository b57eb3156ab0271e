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


@contextmanager
def building_folder(out: Path) -> Iterator[Path]:
    """Give the empty folder in which ``out`` is built; it is gone afterwards, and what a killed build left is cleared first."""
    folder = out.parent / f".{out.name}.building"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror})") from None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
    except OSError:
        os.close(descriptor)
        raise InputError(f"{out}: another build is writing it; wait for it, or give another folder") from None
    try:
        for left in folder.iterdir():
            shutil.rmtree(left)
        yield folder
    finally:
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
    old = new.parent / "old"
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
