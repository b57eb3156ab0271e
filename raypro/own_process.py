"""A call in a process of its own: whatever happens to that process is an answer."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from raypro.config import InputError


def in_own_process(function: Callable[..., Any], *args: Any, seconds: float) -> Any:
    """Return what a function gives in a new process, which ends with this one.

    Args:
        function: one that the new process can import.
        args: what it is given.
        seconds: how long it may take.

    Raises:
        RuntimeError: it raised, took longer, or its process died; says why.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise RuntimeError(f"not done after {seconds:g} s")
        answer, failure = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process died (exit code {process.exitcode})") from None
    finally:
        process.kill()
        process.join()
    if failure:
        raise RuntimeError(failure)
    return answer


def _answer(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sender.send((function(*args), None))
    except Exception as error:
        sender.send((None, str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
