"""Processes that tests end."""

import time
from contextlib import suppress

import psutil


def left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not.

    One whose parent was killed may stay a zombie for as long as the machine lasts: it has ended.
    """
    end = time.monotonic() + seconds
    while (left := _living(processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living
