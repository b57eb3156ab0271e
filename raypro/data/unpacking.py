"""Archives that are unpacked whole or not at all, and never beyond their folder."""

import lzma
import os
import tarfile
import zlib
from pathlib import Path

from raypro.config import InputError
from raypro.data.download import require_space
from raypro.data.place import building_folder, take_place

_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive (compressed or not) to ``folder``, which is there only when it is whole; one that is there is replaced.

    Where all of the archive is in one folder, ``folder`` is that one.

    Raises:
        InputError: no archive, a damaged one, one with anything but files and folders in it or with members that would leave the folder,
            or a full disk.
    """
    with building_folder(folder) as building:
        new, whole = building / "new", building / "whole"
        new.mkdir()
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    _require_harmless(archive, member)
                    require_space(new, member.size)
                    tar.extract(member, new, filter="data")
                while tar.fileobj.read(_CHUNK):  # to the end of what is compressed, where its checksum stands
                    pass
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{archive}: cannot be unpacked ({reason}); is it whole, and an archive? --overwrite downloads it again"
            ) from None
        inside = list(new.iterdir())
        if not inside:
            raise InputError(f"{archive}: nothing in it; is the address right?")
        os.rename(inside[0] if len(inside) == 1 and inside[0].is_dir() else new, whole)
        take_place(whole, folder)


def _require_harmless(archive: Path, member: tarfile.TarInfo) -> None:
    """Data are files in folders: there is no use for links and devices, and the names of some archives lead elsewhere."""
    if member.name.startswith("/") or ".." in Path(member.name).parts:
        raise InputError(f"{archive}: refused: {member.name!r} would be written outside its folder; do not trust this archive")
    if not (member.isfile() or member.isdir()):
        raise InputError(f"{archive}: refused: {member.name!r} is neither a file nor a folder; do not trust this archive")
