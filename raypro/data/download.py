"""Downloads that go on where they broke off.

While a file is under way, ``NAME.part`` holds what has come and ``NAME.part.json`` which version of it that is. The rest is asked for
with ``Range`` and ``If-Range`` (RFC 9110, sections 13.1.5 and 14), so that a file that was changed meanwhile is begun anew.
"""

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from raypro.config import InputError

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt; an attempt that brought something new starts them again."""
TIMEOUT = 60.0
"""Seconds that a server may be silent."""
_CHUNK = 1 << 18
_PASSING = (408, 425, 429)
"""Refusals of the 400s that may be gone the next time, as those of the 500s may."""

Shown = Callable[[int, int | None], None]
"""Told the bytes that are there, and the size of the whole file where the server says it."""


@dataclass(frozen=True)
class Checksum:
    """What a file's content must come to."""

    algorithm: str
    """sha256 or md5."""
    digest: str
    """Hexadecimal."""

    def require(self, file: Path, name: str, advice: str) -> None:
        """Raise InputError, with what to do, if the content of ``file``, called ``name``, comes to anything else."""
        found = digest_of(file, self.algorithm)
        if found != self.digest.lower():
            or_else = f"{advice}, or give --sha256 {digest_of(file, 'sha256')} if it is what you want"
            raise InputError(f"{name}: its {self.algorithm} is {found}, not {self.digest.lower()}: changed or damaged; {or_else}")


@dataclass(frozen=True)
class _Version:
    """Which version of a file the bytes of a part belong to."""

    address: str
    validator: str | None
    """A strong entity tag, else the time of the last change; None where the server gives neither: then nothing can be resumed."""
    size: int | None


class _Broken(Exception):
    """The connection broke off, or the server could not answer now: worth another attempt."""


def digest_of(file: Path, algorithm: str) -> str:
    """Return the digest of a file's content, hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def fetch(
    address: str,
    file: Path,
    expected: Checksum | None = None,
    shown: Shown = lambda here, size: None,
    delays: Sequence[float] = DELAYS,
    say: Callable[[str], None] = print,
) -> None:
    """Download ``address`` to ``file``, going on with what an earlier attempt left; the file is there only when it is whole.

    Args:
        address: http or https.
        file: where to; one that is there is replaced.
        expected: what its content must come to.
        shown: told how far it is.
        delays: see :data:`DELAYS`.
        say: told why another attempt is made.

    Raises:
        InputError: no such address, a server that does not answer or breaks off again and again, a wrong checksum, a full disk, or
            another download of the same file.
    """
    _require_address(address)
    part = file.with_name(f"{file.name}.part")
    with _alone(part):
        failures, furthest = 0, part.stat().st_size
        while True:
            try:
                _continue(address, part, shown)
                break
            except _Broken as error:
                here = part.stat().st_size
                failures, furthest = (failures, furthest) if here <= furthest else (0, here)
                if failures == len(delays):
                    later = f"to go on from {here:,} bytes" if here else "later"
                    raise InputError(f"{address}: {error}; run it again {later}") from None
                say(f"{address}: {error}; trying again in {delays[failures]:g} s")
                time.sleep(delays[failures])
                failures += 1
        if expected:
            try:
                expected.require(part, address, "try again")
            except InputError:
                _forget(part)  # else the next attempt would find it whole again
                raise
        os.replace(part, file)
        _about(part).unlink(missing_ok=True)


def _continue(address: str, part: Path, shown: Shown) -> None:
    """Ask for what is missing, and add it; raise _Broken if that does not make the file whole."""
    version, here = _version_of(part, address), part.stat().st_size
    headers = {"User-Agent": "raypro", "Accept-Encoding": "identity"}
    if version and here:
        headers |= {"Range": f"bytes={here}-", "If-Range": str(version.validator)}
    try:
        with urlopen(Request(address, headers=headers), timeout=TIMEOUT) as response:
            offered = _offered(address, response)
            if response.status == 206:
                if offered != version or not _starts_at(response, here):
                    _forget(part)
                    raise _Broken("the file was changed meanwhile: begun anew")
            else:
                _forget(part)
                here = 0
                _about(part).write_text(json.dumps(asdict(offered)))
            _append(part, response, here, offered, shown)
    except HTTPError as error:
        if error.code == 416 and version and here:
            if here == version.size:
                return
            _forget(part)
            raise _Broken("the file has become shorter: begun anew") from None
        if error.code in _PASSING or error.code >= 500:
            raise _Broken(f"the server answers {error.code} {error.reason}") from None
        raise InputError(f"{address}: the server answers {error.code} {error.reason}; is the address right? (--address)") from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise InputError(f"{address}: the server's certificate is not trusted ({error.reason.verify_message})") from None
        raise _Broken(f"no connection ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke off ({str(error) or type(error).__name__})") from None


def _append(part: Path, response: Any, here: int, offered: _Version, shown: Shown) -> None:
    require_space(part, (offered.size or here) - here)
    with part.open("ab", buffering=0) as file:
        while chunk := response.read(_CHUNK):
            _write(file, chunk)
            here += len(chunk)
            shown(here, offered.size)
    if offered.size is not None and here < offered.size:
        raise _Broken(f"the connection broke off after {here:,} of {offered.size:,} bytes")
    if offered.size is not None and here > offered.size:
        _forget(part)
        raise _Broken(f"more than the {offered.size:,} bytes that were promised came: begun anew")


def _write(file: Any, chunk: bytes) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise InputError(f"{file.name}: cannot be written ({error.strerror}); what has come stays for the next time") from None


def _offered(address: str, response: Any) -> _Version:
    """Return the version of the file that a response is about."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")  # a weak tag does not vouch for every byte
    if response.status == 206:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        size = response.headers.get("Content-Length", "")
    return _Version(address, validator, int(size) if size.isdecimal() else None)


def _starts_at(response: Any, here: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {here}-")


def _version_of(part: Path, address: str) -> _Version | None:
    """Return the version of which a part has come, where the rest of it can be asked for."""
    try:
        version = _Version(**json.loads(_about(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.address == address and version.validator else None


def _about(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget(part: Path) -> None:
    """Empty a part; its file stays, for it is locked."""
    _about(part).unlink(missing_ok=True)
    os.truncate(part, 0)


def _require_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and parts.port != 0 and len((parts.hostname or "").encode("idna")) > 0
    except ValueError:  # the port is no number, or the name no name
        right = False
    if not right or not address.isascii() or any(c <= " " for c in address):
        raise InputError(f"{address}: not an address to download from, such as https://server/folder/stability.tar.gz")


def require_space(path: Path, needed: int) -> None:
    """Raise InputError if fewer than ``needed`` bytes are free where ``path`` lies."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(f"{path.parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; make room, or give another --out")


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold a part for this process alone, made if there is none; an empty one is gone afterwards."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{part.parent}: cannot be written to ({error.strerror}); give another --out") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
    except OSError:
        os.close(descriptor)
        raise InputError(f"{part}: another download of it is under way; wait for it") from None
    try:
        yield
    finally:
        if part.exists() and not os.fstat(descriptor).st_size:
            part.unlink()
            _about(part).unlink(missing_ok=True)
        os.close(descriptor)
