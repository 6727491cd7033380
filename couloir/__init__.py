"""couloir: trains, evaluates and ships Zipformer-family speech models, with pip alone."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    """`Recognizer`, imported when it is first asked for: ``import couloir`` costs next to nothing."""
    if name == "Recognizer":
        from couloir.inference.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module `couloir` has no attribute `{name}`")
