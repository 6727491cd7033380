"""What a person sees while data is prepared: progress bars on a terminal, dated log lines everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from couloir.errors import message_line

T = TypeVar("T")


def log(message: str) -> None:
    """One dated line on stderr, in icefall's manner."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message_line(message)}", file=sys.stderr, flush=True)


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items under a progress bar; where stderr is no terminal, just yield them."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total=total, console=_console(), transient=True)


@contextmanager
def reading(stream: IO[bytes], size: int, description: str) -> Iterator[Any]:
    """A stream whose reading moves a progress bar; size in bytes."""
    if not sys.stderr.isatty():
        yield stream
        return
    from rich.progress import wrap_file

    with wrap_file(stream, size, description=description, console=_console(), transient=True) as tracked:  # type: ignore[arg-type]
        yield tracked
