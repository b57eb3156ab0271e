"""The connection to Ray: a cluster's where there is one, else a small one on this machine for as long as the command lasts."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from raypro.address import listens
from raypro.config import InputError, first_line

KEEP_IDLE = {"idle_worker_killing_time_threshold_ms": 600_000}
"""Of a Ray of our own: it would end idle workers after a second and start others, 1.5 s of a core each, for every burst of reading."""

ADVICE = "start one with 'ray start --head', or unset RAY_ADDRESS; raypro doctor says more"


def require_cluster(address: str) -> None:
    """Raise InputError where nothing answers at a cluster's address: Ray itself would try for more than a minute, and log that."""
    if address.startswith("http"):
        raise InputError(f"RAY_ADDRESS={address}: serves `ray job submit` only; name it RAY_API_SERVER_ADDRESS for that, and unset this")
    place = address.removeprefix("ray://")
    if ":" in place and not listens(place):
        raise InputError(f"RAY_ADDRESS={address}: no cluster answers there; {ADVICE}")


@contextmanager
def ray_session(before_start: Callable[[], object] = lambda: None, dashboard: bool = False) -> Iterator[None]:
    """Connect to the cluster that ``$RAY_ADDRESS`` names (a submitted job's does), else start Ray here and stop it at the end.

    A session that is already open is used and left open. ``before_start`` is called before a Ray is started here: what it finds
    wrong with this machine costs no start. ``dashboard``: that one gets a dashboard, which answers on this machine alone.

    Raises:
        InputError: nothing answers at ``$RAY_ADDRESS``.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := os.environ.get("RAY_ADDRESS"):
        require_cluster(address)
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            raise InputError(f"RAY_ADDRESS={address}: {first_line(error)}; {ADVICE}") from None
    else:
        before_start()
        ray.init(address="local", include_dashboard=dashboard, _system_config=KEEP_IDLE, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
