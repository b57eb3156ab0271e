"""``raypro ui`` serves the runs of the home, says what is in its way, and leaves nothing behind."""

import socket
import subprocess
import sys
from urllib.request import urlopen

import psutil
import pytest

from raypro.config import InputError
from raypro.ui import ui


def test_a_taken_port_is_said(raypro_home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} cannot be used.*--port {port + 1}"):
            ui(port)
    assert not raypro_home.exists()


def test_runs_tracked_elsewhere_are_there(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    with pytest.raises(InputError, match="http://tracking.example:5000"):
        ui()


@pytest.mark.slow
def test_the_pages_are_served_and_end_with_the_command(raypro_home):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", f"from raypro.ui import ui; ui({port})"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None and any(f"http://127.0.0.1:{port}/" in line for line in process.stdout)
        assert b"<html" in urlopen(f"http://127.0.0.1:{port}/").read()
        servers = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait() == 0
    finally:
        process.terminate()
        process.wait()
    assert servers and not any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers)
