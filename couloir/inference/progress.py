"""A progress bar that needs no package."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import IO

from couloir.errors import message_line


class ProgressBar:
    """A line on stderr with what is done, how fast, and what is left; silent where stderr is no terminal."""

    def __init__(self, total: int, out: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.count, self.seconds = total, 0, 0.0
        self._out, self._clock, self._start = out or sys.stderr, clock, clock()
        self._shown = self._out.isatty() and total > 1

    def step(self, seconds: float) -> None:
        """One more recording of that length is done."""
        self.count += 1
        self.seconds += seconds
        if self._shown:
            elapsed = max(self._clock() - self._start, 1e-9)
            left = round(elapsed / self.count * (self.total - self.count))
            bar = "#" * (30 * self.count // self.total)
            rate = f"{self.seconds / elapsed:.0f}x real time"
            line = f"[{bar:<30}] {self.count}/{self.total}  {rate}  {left // 60}:{left % 60:02d} left"
            columns = os.get_terminal_size(self._out.fileno()).columns or 80  # a terminal may not know its size
            self._out.write(f"\r{line[: columns - 1]}\x1b[K")
            self._out.flush()

    def say(self, text: str) -> None:
        """Print a line above the bar. It stays one line."""
        self._out.write(("\r\x1b[K" if self._shown else "") + message_line(text) + "\n")

    def close(self) -> None:
        """Leave the bar's line."""
        if self._shown and self.count:
            self._out.write("\n")
