"""Stops runs of ONNX Runtime that take too long: a model may hold a loop without an end."""

from __future__ import annotations

import threading
import time
from typing import Any

TICK_S = 1.0
"""Time is counted by a thread that sleeps so long: a suspended process and a crowded machine make it pass slower."""


class Ending:
    """Inside it, the run with these `RunOptions` fails once it has taken too long; ``options.terminate`` says so.

    Args:
        seconds: that the run may take.
    """

    __slots__ = ("options", "seconds_left")

    def __init__(self, options: Any, seconds: float) -> None:
        self.options = options
        self.seconds_left = seconds

    def __enter__(self) -> None:
        _runs[id(self)] = self
        if not _clock.is_alive():
            _start()

    def __exit__(self, *_: object) -> None:
        del _runs[id(self)]


_runs: dict[int, Ending] = {}
_clock = threading.Thread()
_starting = threading.Lock()


def _start() -> None:
    """Once in a process; a process that was forked off has no threads of its own."""
    global _clock
    with _starting:
        if not _clock.is_alive():
            _clock = threading.Thread(target=_count, name="watchdog", daemon=True)
            _clock.start()


def _count() -> None:
    while True:
        time.sleep(TICK_S)
        for run in list(_runs.values()):
            run.seconds_left -= TICK_S
            if run.seconds_left <= 0:
                run.options.terminate = True
