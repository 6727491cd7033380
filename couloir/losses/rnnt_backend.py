"""Which implementation of the transducer losses a run uses: this project's, k2's or fast_rnnt's."""

from __future__ import annotations

import importlib
from types import ModuleType

from couloir.errors import UserError, unknown_name

RNNT_BACKENDS = ("couloir", "k2", "fast_rnnt")
"""Choices of ``--rnnt-backend``; the first is the default and needs nothing beside torch."""


def rnnt_backend(name: str = RNNT_BACKENDS[0]) -> ModuleType:
    """The module that holds `rnnt_loss_smoothed`, `rnnt_loss_pruned` and their companions, under k2's names.

    The other two give an item without a path an arbitrary gradient: leave such items out beforehand
    (`couloir.losses.rnnt.reason_without_path`).

    Raises:
        UserError: an unknown name, or a module that is not installed.
    """
    if name not in RNNT_BACKENDS:
        raise unknown_name("--rnnt-backend", name, list(RNNT_BACKENDS))
    try:
        return importlib.import_module("couloir.losses.rnnt" if name == "couloir" else name)
    except ImportError as error:
        raise UserError(
            f"`--rnnt-backend` {name} cannot be imported ({error}); install it for this torch, or leave the flag out"
        ) from None
