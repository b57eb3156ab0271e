"""Downloads from a server that breaks off, changes the file, lies or knows no ranges; and the command."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from raypro.arguments import parse_call
from raypro.config import InputError
from raypro.data import download, download_command
from raypro.data.download import Checksum, fetch
from raypro.data.download_command import TapeTask, address_of
from tests.flaky_server import CONTENT, Handler, Server
from tests.test_unpacking import names, tar_of


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "DELAYS", (0.0,) * 3)
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def get(server: Server, file: Path, attempts: int = 3, **options: Any) -> list[str]:
    said: list[str] = []
    fetch(options.pop("address", server.url()), file, delays=(0.0,) * attempts, say=said.append, **options)
    return said


def test_a_whole_file_comes_with_its_size_told(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    assert get(server, tmp_path / "f", shown=lambda here, size: told.append((here, size))) == []
    assert (tmp_path / "f").read_bytes() == CONTENT and names(tmp_path) == ["f"]
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len(server.asked) == 1 and "range" not in server.asked[0]


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.answers = [100_000, 50_000]
    said = get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert [(a.get("range"), a.get("if-range")) for a in server.asked] == [
        (None, None),
        ("bytes=100000-", '"one"'),
        ("bytes=150000-", '"one"'),
    ]
    assert len(said) == 2 and "broke off after 100,000 of 300,000 bytes" in said[0]


def test_a_later_command_goes_on_where_an_earlier_one_was(server: Server, tmp_path: Path) -> None:
    server.answers = [100_000, 503]
    with pytest.raises(InputError, match="503.*run it again to go on from 100,000 bytes"):
        get(server, tmp_path / "f", attempts=1)
    assert names(tmp_path) == ["f.part", "f.part.json"]
    get(server, tmp_path / "f")
    assert server.asked[-1]["range"] == "bytes=100000-" and (tmp_path / "f").read_bytes() == CONTENT and names(tmp_path) == ["f"]


@pytest.mark.parametrize("validator", ["tag", "changed", "none", "weak"])
def test_a_file_that_was_changed_meanwhile_is_begun_anew(server: Server, validator: str, tmp_path: Path) -> None:
    new = os.urandom(250_000)

    def change(server: Server) -> int:
        server.content = new
        if validator == "tag":
            server.tag = '"two"'
        elif validator == "changed":
            server.changed = "Sun, 02 Jan 2022 00:00:00 GMT"
        return 10**9

    server.tag = {"tag": '"one"', "weak": 'W/"one"'}.get(validator)
    server.changed = "Sat, 01 Jan 2022 00:00:00 GMT" if validator == "changed" else None
    server.answers = [100_000, change]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == new
    assert ("range" in server.asked[1]) == (validator in ("tag", "changed"))  # what nothing vouches for is not asked for


def test_a_server_that_ignores_if_range_is_found_out(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = os.urandom(len(CONTENT))

    def change(server: Server) -> int:
        server.content, server.tag = new, '"two"'
        return 10**9

    monkeypatch.setattr(Handler, "_start", lambda self: int(self.headers["Range"][6:-1]) if "Range" in self.headers else None)
    server.answers = [100_000, change]
    said = get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == new and "changed meanwhile" in said[1]


def test_a_server_without_ranges_gives_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.answers = False, [100_000]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.answers = [299_999]
    with pytest.raises(InputError):
        get(server, tmp_path / "f", attempts=0)
    with (tmp_path / "f.part").open("ab") as part:
        part.write(CONTENT[299_999:])
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and server.asked[-1]["range"] == "bytes=300000-"


def test_a_part_of_another_address_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.answers = [100_000]
    with pytest.raises(InputError):
        get(server, tmp_path / "f", attempts=0)
    get(server, tmp_path / "f", address=server.url("other.tar.gz"))
    assert "range" not in server.asked[-1] and (tmp_path / "f").read_bytes() == CONTENT


def test_attempts_end_where_nothing_new_comes_and_begin_again_where_something_does(server: Server, tmp_path: Path) -> None:
    server.answers = [10_000 + 600] * 8  # more than the attempts, each brings something
    get(server, tmp_path / "f", attempts=2)
    assert (tmp_path / "f").read_bytes() == CONTENT
    server.answers = [503] * 8
    with pytest.raises(InputError, match="503"):
        get(server, tmp_path / "g", attempts=2)
    assert len(server.answers) == 5 and names(tmp_path) == ["f"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_for_good_is_not_asked_again(server: Server, status: int, tmp_path: Path) -> None:
    server.answers = [status]
    with pytest.raises(InputError, match=f"the server answers {status} .*--address") as caught:
        get(server, tmp_path / "f")
    assert len(server.asked) == 1 and "\n" not in str(caught.value) and names(tmp_path) == []


def test_a_redirect_is_followed_and_its_range_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [100_000]
    get(server, tmp_path / "f", address=server.url().replace("/data", "/redirect/data"))
    assert (tmp_path / "f").read_bytes() == CONTENT and server.asked[-1]["range"] == "bytes=100000-"


def test_a_wrong_checksum_leaves_nothing_to_go_on_with(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InputError, match=f"its sha256 is {digest}, not 0000"):
        get(server, tmp_path / "f", expected=Checksum("sha256", "0" * 64))
    assert names(tmp_path) == []
    get(server, tmp_path / "f", expected=Checksum("sha256", digest.upper()))
    get(server, tmp_path / "g", expected=Checksum("md5", hashlib.md5(CONTENT).hexdigest()))
    assert names(tmp_path) == ["f", "g"]


def test_a_file_larger_than_the_disk_is_refused_before_it_comes(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB are needed"):
        get(server, tmp_path / "f")
    assert names(tmp_path) == []


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    def second(server: Server) -> int:
        with pytest.raises(InputError, match="another download of it is under way"):
            get(server, tmp_path / "f")
        return 10**9

    server.answers = [second]
    get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and len(server.asked) == 1


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no connection \\(.*refused.*run it again"):
        fetch("http://127.0.0.1:9/x.tar.gz", tmp_path / "f", delays=(), say=print)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://a/b", "stability.tar.gz", "http:///x", "http://a:b/x", "http://a..b/x", "http://a/b c", ""]
)
def test_what_is_no_address_is_refused_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an address to download from"):
        fetch(address, tmp_path / "f")
    assert names(tmp_path) == []


@pytest.fixture
def published(server: Server, tmp_path: Path) -> Server:
    """Return a server with a small archive as TAPE has it."""
    (tmp_path / "there").mkdir()
    server.content = tar_of(
        tmp_path / "there" / "a", {f"stability/stability_{s}.json": b"[]" for s in ("train", "valid", "test")}
    ).read_bytes()
    return server


def command(*args: str) -> None:
    parse_call(download_command.download_command, args, "raypro task download")()


def test_the_command_downloads_unpacks_and_says_what_is_next(published: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tape"
    command("stability", "--out", str(out), "--address", published.url())
    digest = hashlib.sha256(published.content).hexdigest()
    assert names(out) == ["stability", "stability.tar.gz", "stability.tar.gz.sha256"]
    assert names(out / "stability") == ["stability_test.json", "stability_train.json", "stability_valid.json"]
    assert (out / "stability.tar.gz.sha256").read_text() == f"{digest}  stability.tar.gz\n"
    said = capsys.readouterr().out
    assert digest in said and f"raypro task import {out / 'stability'} --task stability" in said
    command("stability", "--out", str(out), "--address", published.url())  # again: nothing is asked for
    assert len(published.asked) == 1 and "there already" in capsys.readouterr().out


def test_an_archive_that_was_damaged_on_disk_is_noticed_and_replaced_when_told(published: Server, tmp_path: Path) -> None:
    args = ("stability", "--out", str(tmp_path / "tape"), "--address", published.url())
    command(*args)
    archive = tmp_path / "tape" / "stability.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(InputError, match="stability.tar.gz: its sha256 .*--overwrite"):
        command(*args)
    command(*args, "--overwrite")
    assert archive.read_bytes() == published.content and len(published.asked) == 2


def test_a_folder_that_came_from_elsewhere_is_left_alone(published: Server, tmp_path: Path) -> None:
    (tmp_path / "tape" / "stability").mkdir(parents=True)
    (tmp_path / "tape" / "stability" / "mine").write_text("1")
    with pytest.raises(InputError, match="there already, without the archive"):
        command("stability", "--out", str(tmp_path / "tape"), "--address", published.url())
    assert names(tmp_path / "tape" / "stability") == ["mine"] and not published.asked


def test_a_checksum_that_is_given_must_be_met(published: Server, tmp_path: Path) -> None:
    args = ("stability", "--out", str(tmp_path / "tape"), "--address", published.url())
    with pytest.raises(InputError, match="its sha256 is"):
        command(*args, "--sha256", "0" * 64)
    assert names(tmp_path / "tape") == []
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        command(*args, "--sha256", "abc")
    command(*args, "--sha256", hashlib.sha256(published.content).hexdigest())
    assert "stability" in names(tmp_path / "tape")


@pytest.mark.parametrize("name", ["", "stability", "...tar.gz", ".tar.gz", ".hidden.tar.gz", "page.html"])
def test_an_address_that_names_no_archive_is_refused(published: Server, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the address of an archive"):
        command("stability", "--out", str(tmp_path / "tape"), "--address", published.url(name))
    assert not published.asked


def test_the_published_checksum_is_asked_of_the_published_archive(
    published: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_command, "SERVER", published.url("x").removesuffix("/x"))
    with pytest.raises(InputError, match="its md5 is .*, not aa1e06eb5a59e0ecdae581e9ea029675"):
        command("stability", "--out", str(tmp_path / "tape"))
    assert published.asked[0]["path"] == "/data/data_pytorch/stability.tar.gz"
    command("contacts", "--out", str(tmp_path / "tape"), "--form", "json")  # no published checksum
    assert published.asked[1]["path"] == "/data/data_raw_pytorch/proteinnet.tar.gz" and "proteinnet_json" in names(tmp_path / "tape")


def test_addresses_are_those_of_tape() -> None:
    base = "https://s3.amazonaws.com/songlabdata/proteindata/data_pytorch"
    archives = [address_of(task, "lmdb").removeprefix(base) for task in get_args(TapeTask)]
    assert archives == [
        "/stability.tar.gz",
        "/fluorescence.tar.gz",
        "/remote_homology.tar.gz",
        "/secondary_structure.tar.gz",
        "/proteinnet.tar.gz",
    ]


def test_an_unknown_task_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stability"):
        command("stabilty", "--out", str(tmp_path))
