"""Packages that only graphs need, found when they are."""

from __future__ import annotations

import importlib
from types import ModuleType

from couloir.errors import UserError


def graph_package(name: str) -> ModuleType:
    """A package of the extra ``graph``. Raises `UserError`, saying how it is installed, where it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"graphs need the package {name} ({error}): pip install 'couloir[graph]', "
            "or choose a method without --lang-dir"
        ) from None
