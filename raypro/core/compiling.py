"""What torch.compile leaves alone."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """Keep ``function``, and what it calls, out of torch.compile, as ``torch.compiler.disable`` does.

    That one loads the compiler when it decorates, more than a second of every command. Here a process loads it when it compiles
    something, or when torch's own optimizers do.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
