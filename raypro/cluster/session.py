"""The connection to Ray: a cluster's where there is one, else a small one on this machine for as long as the command lasts."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray


@contextmanager
def ray_session(before_start: Callable[[], object] = lambda: None, dashboard: bool = False) -> Iterator[None]:
    """Connect to the cluster that ``$RAY_ADDRESS`` names (a submitted job's does), else start Ray here and stop it at the end.

    A session that is already open is used and left open. ``before_start`` is called before a Ray is started here: what it finds
    wrong with this machine costs no start. ``dashboard``: that one gets a dashboard, which answers on this machine alone.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        before_start()
        ray.init(address="local", include_dashboard=dashboard, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
