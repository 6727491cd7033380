"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from couloir.locks import locked

_WAIT_S = 60.0


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; it becomes ``target`` on success and is removed on failure.

    What a killed process left is removed first. One process at a time makes it; where another was quicker, its folder
    stays. Raises `UserError` when that takes it longer than a minute.
    """
    with locked(target.with_name(f".{target.name}.lock"), target, "run it again when that has ended", _WAIT_S):
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.mkdir()
        try:
            yield temporary
            if not target.exists():
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
