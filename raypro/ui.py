"""``raypro ui``: MLflow's pages of the runs in raypro's home."""

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

from raypro.address import sqlite_file, tracking_address
from raypro.config import InputError

SURROUNDING = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its background jobs judge chats; here they would only hold processes
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PYTHONWARNINGS": "ignore",
}
PAGE = "#/experiments?workflowType=machine_learning"
"""MLflow's pages come in two kinds; without this they show chats and prompts."""


def ui(port: int = 5000, host: str = "127.0.0.1") -> None:
    """Serve the runs of raypro's home as MLflow pages at ``http://host:port`` until it is interrupted.

    Raises:
        InputError: the port is taken, runs are tracked elsewhere, or the server does not start.
    """
    address = tracking_address()
    database = sqlite_file(address)
    if database is None:
        raise InputError(f"runs are tracked at {address} (MLFLOW_TRACKING_URI): open that in a browser, or unset it")
    _require_free(host, port)
    if not _is_loopback(host):
        print(f"warning: {host} is not loopback: anyone who reaches it can read and delete every run", file=sys.stderr)
    database.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | SURROUNDING
    server = subprocess.Popen(_command(address, host, port), env=environment, cwd=database.parent, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended is like Ctrl-C: the server goes too
    try:
        _wait_until_up(server, host, port)
        print(f"Runs of {database.parent}: http://{host}:{port}/{PAGE}  (Ctrl-C ends)", flush=True)
        server.wait()
    except KeyboardInterrupt:
        print()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # the server and whatever it started
        server.wait()


def _command(address: str, host: str, port: int) -> list[str]:
    """Return MLflow's own server, one worker: the store is one file, read by one person."""
    options = {
        "--backend-store-uri": address,
        "--registry-store-uri": address,
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]


def _require_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be used ({error.strerror}); choose another port: raypro ui --port {port + 1}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wait_until_up(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    while server.poll() is None:
        try:
            urlopen(f"http://{host}:{port}/health", timeout=1).close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise InputError(f"the MLflow server ended by itself with status {server.returncode}; its last lines above say why")
