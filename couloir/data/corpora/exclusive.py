"""One preparation at a time in a folder of data; parts of the Shar stage work beside each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from couloir.data.corpora.parts import Part
from couloir.errors import must_be
from couloir.locks import holder, locked

LOCK = ".prepare.lock"
OF_PROGRAM = "COULOIR_PREPARE_PID"
"""The variable by which prepare.sh says its process: its stages leave the lock to it."""
_REMEDY = "wait until that has ended, or give another --data-dir"
_WAIT_S = 60.0  # parts that start together


@contextmanager
def preparing(data_dir: Path, part: Part | None = None) -> Iterator[None]:
    """Hold the folder while a stage runs, or as one of the parts that share stage 3.

    Raises:
        UserError: another process prepares data there, or the same part.
    """
    place = f"--data-dir {data_dir}"
    number = os.environ.get(OF_PROGRAM, "")
    heir = int(number) if number.isdecimal() and len(number) < 10 else None
    with ExitStack() as stack:
        if part is None:
            stack.enter_context(locked(data_dir / LOCK, place, _REMEDY, heir=heir))
            for path in data_dir.glob(".prepare.part-*.lock"):
                if by := holder(path):
                    raise must_be(place, "used by one process at a time", f"used by {by}, a part", _REMEDY)
        else:
            with locked(data_dir / LOCK, place, _REMEDY, wait_s=_WAIT_S):
                mine = data_dir / f".prepare.part-{part.index}-of-{part.count}.lock"
                stack.enter_context(locked(mine, f"{place} --part {part}", _REMEDY))
        yield
