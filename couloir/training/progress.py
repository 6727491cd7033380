"""Telling a person how far a run is: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE = "%(asctime)s %(levelname)s %(message)s"


class LogFile(logging.FileHandler):
    """A log in a file whose disk may become full, which is said once and costs the log alone."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what is wrong with the file, the first time, in place of logging's traceback each time."""
        if not self.told:
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
        self.told = True

    def close(self) -> None:
        """Close the file, whether or not its last lines can be written."""
        with contextlib.suppress(OSError):
            super().close()


class Reporter:
    """The log and the progress bar of a run. Only rank 0 writes to the screen; every rank writes its log file.

    Args:
        exp_dir: the run directory; the log goes to ``log/log-train-DATE[-RANK]``. rank, world_size: this process's.
    """

    def __init__(self, exp_dir: Path, rank: int, world_size: int) -> None:
        self.started = time.monotonic()
        name = time.strftime("log-train-%Y-%m-%d-%H-%M-%S") + (f"-{rank}" if world_size > 1 else "")
        (exp_dir / "log").mkdir(parents=True, exist_ok=True)
        self._handlers: list[logging.Handler] = [LogFile(exp_dir / "log" / name, encoding="utf-8")]
        self._bar: Progress | None = None
        self._task: Any = None
        if rank == 0:
            console = Console(stderr=True)
            if console.is_terminal:
                self._bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.percentage:>4.0f} %"),
                    console=console,
                )
                self._task = self._bar.add_task("starting", total=1.0)
                self._bar.start()
            # A program may have set up its own. rich moves what is written to stderr above the bar.
            if not any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers):
                self._handlers.append(logging.StreamHandler(sys.stderr))
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter(LINE))
            root.addHandler(handler)

    def tick(self, text: str, fraction: float, elapsed_s: float) -> None:
        """Move the bar. ``fraction`` of the run is done after ``elapsed_s``."""
        if self._bar is not None:
            left = timedelta(seconds=round(elapsed_s * (1 - fraction) / fraction)) if fraction > 0 else "?"
            self._bar.update(self._task, completed=fraction, description=f"{text} eta {left}")

    def close(self) -> None:
        """Take the bar away and close the log."""
        if self._bar is not None:
            self._bar.stop()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
