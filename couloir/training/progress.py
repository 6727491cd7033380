"""What a run shows of itself: its log, on the screen and in a file, and its progress bar."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from couloir.progress import LogFile, ProgressBar, ScreenLog


class Reporter:
    """The log and the progress bar of a run. Only rank 0 writes to the screen; every rank writes its log file.

    Args:
        exp_dir: the run directory; the log goes to ``log/log-train-DATE[-RANK]``. rank, world_size: this process's.
    """

    def __init__(self, exp_dir: Path, rank: int, world_size: int) -> None:
        self.started = time.monotonic()
        name = time.strftime("log-train-%Y-%m-%d-%H-%M-%S") + (f"-{rank}" if world_size > 1 else "")
        (exp_dir / "log").mkdir(parents=True, exist_ok=True)
        self._handlers: list[logging.Handler] = [LogFile(exp_dir / "log" / name)]
        self._bar = ProgressBar(1.0, "starting", percent=True) if rank == 0 else None
        root = logging.getLogger()
        # A program may have set up its own.
        if rank == 0 and not any(type(handler) in (logging.StreamHandler, ScreenLog) for handler in root.handlers):
            self._handlers.append(ScreenLog())
        root.setLevel(logging.INFO)
        for handler in self._handlers:
            root.addHandler(handler)

    def tick(self, text: str, fraction: float, elapsed_s: float) -> None:
        """Move the bar. ``fraction`` of the run is done after ``elapsed_s``."""
        if self._bar is not None:
            self._bar.update(fraction, text, elapsed_s)

    def close(self) -> None:
        """Take the bar away and close the log."""
        if self._bar is not None:
            self._bar.close(keep=False)
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
