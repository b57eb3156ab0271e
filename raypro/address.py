"""Where runs are tracked, and whether anything answers there, or at another address; loads no mlflow."""

import os
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from raypro.config import first_line
from raypro.home import home


def tracking_address(explicit: str | None = None) -> str:
    """Return where runs are tracked: ``explicit``, else $MLFLOW_TRACKING_URI, else the SQLite store in raypro's home.

    A relative SQLite path is made absolute here, on the driver: other processes have other working folders.
    """
    address = explicit or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
    file = sqlite_file(address)
    return address if file is None else f"sqlite:///{file.absolute()}"


def sqlite_file(address: str) -> Path | None:
    """Return the database file of a SQLite ``address``; None for any other address."""
    return Path(address.removeprefix("sqlite:///")) if address.startswith("sqlite:///") else None


def silence_of(address: str, seconds: float = 3.0) -> str | None:
    """Return why the tracking ``address`` does not answer within ``seconds``; None when it does."""
    file = sqlite_file(address)
    if file is not None:
        nearest = next(parent for parent in (file, *file.parents) if parent.exists())
        return None if os.access(nearest, os.W_OK) else f"{nearest} is not writable"
    if not address.startswith(("http://", "https://")):
        return None  # a database server or a hosted service: only mlflow itself can tell
    try:
        urlopen(f"{address.rstrip('/')}/health", timeout=seconds).close()
    except HTTPError as error:
        return None if error.code in (401, 403) else f"it answers {error.code}: not an MLflow server?"
    except (OSError, ValueError) as error:
        return reason(error)
    return None


def listens(address: str) -> bool:
    """Return whether anything takes connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def reason(error: BaseException) -> str:
    """Return the first line of what an error came from: "Connection refused", where mlflow wraps that into three others."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return first_line(error)
