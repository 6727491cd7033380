"""Files are written beside their final name and moved into place: a half-written one is never taken for a whole one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from couloir.errors import UserError

ANY_NAME = "surrogateescape"
"""How a text that holds names of files is coded: one that is no UTF-8 keeps its bytes."""


@contextmanager
def writing_to(place: str | Path) -> Iterator[None]:
    """What cannot be written inside, on a full disk for one, becomes a `UserError` that names ``place``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{place} cannot be written ({reason}); free some space, or give another folder") from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it is moved to ``path`` on success and removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may have one number.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", errors: str | None = None) -> Iterator[IO[Any]]:
    """Open ``path`` for writing; its content appears all at once, flushed to disk, or not at all."""
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding, errors=errors) as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
