"""raypro: protein language models pre-trained, fine-tuned and compared on Ray, every run in MLflow.

``raypro.load_encoder`` is :func:`raypro.encoder.load_encoder`.
"""

import importlib
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import what is offered here when it is first asked for: importing raypro alone stays quick, and raypro.core free of the rest."""
    if name == "load_encoder":
        return importlib.import_module("raypro.encoder").load_encoder
    raise AttributeError(f"module 'raypro' has no attribute {name!r}")
