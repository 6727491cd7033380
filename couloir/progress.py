"""How far a program is: one progress bar and one log, on stderr. Needs no package.

The bar is shown on a terminal alone, and what is logged stands above it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from couloir.errors import message_line

T = TypeVar("T")
LINE = "%(asctime)s %(levelname)s %(message)s"
WIDTH = 30
REDRAW_S = 0.1
_CLEAR = "\r\x1b[K"


class ProgressBar:
    """A line on stderr with what is done and the time that is left; silent where stderr is no terminal.

    Args:
        total: steps in all; None where nobody knows. percent: show the share that is done in place of counts.
        text: what stands behind the bar. out, clock: in place of stderr and of the machine's clock.
    """

    _on_screen: ProgressBar | None = None

    def __init__(
        self,
        total: float | None,
        text: str = "",
        *,
        percent: bool = False,
        out: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.text, self.count, self.seconds = total, text, 0.0, 0.0
        self._percent, self._out, self._clock, self._start = percent, out or sys.stderr, clock, clock()
        self._shown = self._out.isatty() and (percent or total != 1)
        self._is_speech, self._drawn = False, float("-inf")

    def step(self, seconds: float | None = None) -> None:
        """One more is done: a recording of that length, where one is given."""
        if seconds is not None:
            self._is_speech = True
            self.seconds += seconds
        self.update(self.count + 1)

    def update(self, count: float, text: str = "", elapsed_s: float | None = None) -> None:
        """That many steps are done, in ``elapsed_s`` where that is not the age of the bar."""
        self.count, self.text = count, text or self.text
        now = self._clock()
        if not self._shown or (now - self._drawn < REDRAW_S and count != self.total):
            return
        self._drawn, ProgressBar._on_screen = now, self
        line = self._line(max(now - self._start if elapsed_s is None else elapsed_s, 1e-9))
        self._out.write(f"\r{line[: _columns(self._out) - 1]}\x1b[K")
        self._out.flush()

    def _line(self, elapsed: float) -> str:
        parts = [f"{self.count:.0f}"] if self.total is None else [self._bar(self.total)]
        if self._is_speech:
            parts.append(f"{self.seconds / elapsed:.0f}x real time")
        if self.total and self.count:
            parts.append(f"{_clock_time(elapsed / self.count * (self.total - self.count))} left")
        return "  ".join([*parts, message_line(self.text)] if self.text else parts)

    def _bar(self, total: float) -> str:
        share = min(self.count / total, 1.0) if total else 1.0
        done = f"{100 * share:.0f} %" if self._percent else f"{self.count:.0f}/{total:.0f}"
        return f"[{'#' * int(WIDTH * share):<{WIDTH}}] {done}"

    def say(self, text: str) -> None:
        """Print a line above the bar. It stays one line."""
        self._out.write((_CLEAR if self._shown else "") + message_line(text) + "\n")

    def close(self, keep: bool = True) -> None:
        """Leave the bar's line; without ``keep`` it is erased."""
        if self._shown and self.count:
            self._out.write("\n" if keep else _CLEAR)
            self._out.flush()
        if ProgressBar._on_screen is self:
            ProgressBar._on_screen = None


def _columns(out: IO[str]) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80  # a terminal may not know its size
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def _clock_time(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def track(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """Yield the items under a progress bar, which goes when they are through."""
    bar = ProgressBar(total, text)
    try:
        for item in items:
            yield item
            bar.step()
    finally:
        bar.close(keep=False)


class _Counted:
    """A stream that moves a bar while it is read."""

    def __init__(self, stream: IO[bytes], bar: ProgressBar) -> None:
        self._stream, self._bar = stream, bar

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._bar.update(self._bar.count + len(data))
        return data


@contextmanager
def reading(stream: IO[bytes], size: int, text: str) -> Iterator[Any]:
    """A stream that is read front to back under a progress bar; size in bytes."""
    bar = ProgressBar(size, text, percent=True)
    try:
        yield _Counted(stream, bar)
    finally:
        bar.close(keep=False)


def log(message: str) -> None:
    """One dated line on stderr, in icefall's manner."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message_line(message)}"
    print(_above_bar() + line, file=sys.stderr, flush=True)


def _above_bar() -> str:
    return _CLEAR if ProgressBar._on_screen else ""


class ScreenLog(logging.StreamHandler):
    """The log on stderr, above the progress bar.

    Args:
        level: from which on lines are written; a log of warnings alone has no dates.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__(sys.stderr)
        self.setLevel(level)
        self.setFormatter(logging.Formatter(LINE if level < logging.WARNING else "%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line where the bar was, which is drawn again at its next step."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(_above_bar())
        super().emit(record)


def log_to_screen(level: int = logging.INFO) -> None:
    """Show the log on stderr from that level on, unless a program has set up its own."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(ScreenLog(level))
        root.setLevel(level)


class LogFile(logging.FileHandler):
    """A log in a file whose disk may become full, which is said once and costs the log alone."""

    is_lost = False

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter(LINE))

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what is wrong with the file, the first time, in place of logging's traceback each time."""
        if not self.is_lost:
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
        self.is_lost = True

    def close(self) -> None:
        """Close the file, whether or not its last lines can be written."""
        with contextlib.suppress(OSError):
            super().close()


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What is logged inside is written to ``path`` too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, root = LogFile(path), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
