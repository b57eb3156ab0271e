"""Archives that are damaged, or would leave their folder, are refused and leave what was there."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from raypro.config import InputError
from raypro.data.unpacking import unpack


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tar_of(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_the_one_folder_of_an_archive_is_the_folder(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", {"stability": member(tarfile.DIRTYPE), "stability/x.lmdb/data.mdb": b"1", "stability/y": b"2"})
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "x.lmdb" / "data.mdb").read_bytes() == b"1" and names(tmp_path / "out") == ["x.lmdb", "y"]
    unpack(tar_of(tmp_path / "b.tar.gz", {"x": b"3", "old/y": b"4"}), tmp_path / "out")
    assert names(tmp_path / "out") == ["old", "x"] and names(tmp_path) == ["a.tar.gz", "b.tar.gz", "out"]


HOSTILE: dict[str, dict[str, bytes | tarfile.TarInfo]] = {
    "outside": {"../evil": b"x"},
    "outside, further in": {"a/../../evil": b"x"},
    "absolute": {"/tmp/evil": b"x"},
    "neither a file nor a folder: symlink": {"link": member(tarfile.SYMTYPE, "/etc")},
    "neither a file nor a folder: symlink and through it": {"link": member(tarfile.SYMTYPE, ".."), "link/evil": b"x"},
    "neither a file nor a folder: hard link": {"link": member(tarfile.LNKTYPE, "../../evil")},
    "neither a file nor a folder: fifo": {"pipe": member(tarfile.FIFOTYPE)},
    "neither a file nor a folder: device": {"device": member(tarfile.CHRTYPE)},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", {"harmless": b"1", **HOSTILE[kind]})
    with pytest.raises(InputError, match="refused: .*do not trust") as caught:
        unpack(archive, tmp_path / "in" / "out")
    assert ("neither" in kind) == ("neither" in str(caught.value))
    assert names(tmp_path) == ["a.tar.gz", "in"] and names(tmp_path / "in") == []


def damaged(tmp_path: Path, how: str) -> Path:
    path = tar_of(tmp_path / "a.tar.gz", {"x/data": os.urandom(200_000), "x/more": b"1"})
    whole = path.read_bytes()
    if how == "cut":
        path.write_bytes(whole[:100_000])
    elif how == "bits":
        path.write_bytes(whole[:50_000] + bytes(1000) + whole[51_000:])
    elif how == "page":
        path.write_text("<html>not here</html>")
    elif how == "gzip of text":
        path.write_bytes(gzip.compress(b"hello" * 1000))
    elif how == "empty archive":
        tar_of(path, {})
    return path


@pytest.mark.parametrize("how", ["cut", "bits", "page", "gzip of text", "empty archive"])
def test_a_damaged_archive_leaves_what_was_there(how: str, tmp_path: Path) -> None:
    archive, out = damaged(tmp_path, how), tmp_path / "out"
    out.mkdir()
    (out / "before").write_text("1")
    with pytest.raises(InputError, match="cannot be unpacked|nothing in it") as caught:
        unpack(archive, out)
    assert "\n" not in str(caught.value) and names(tmp_path) == ["a.tar.gz", "out"] and names(out) == ["before"]
