"""What a run that time bounds will reach on this machine: estimated in its first minute, said aloud, and watched."""

from __future__ import annotations

import os

from couloir.machine import usable_cores
from couloir.training.config import TrainerConfig

# Seconds of training between two looks at the clock; the first follows the slow batches of the start.
WINDOW_S = 60.0
# A run that will reach less than this part of what was said last has fallen behind.
BEHIND = 0.75
# A load above the processes of the run by more than this is other work on the machine.
OTHER_LOAD = 1.0


class Pace:
    """Estimates how many batches a run under ``--time-budget-minutes`` will reach.

    Args:
        config: the bound, the batches that the schedules are made for, and the number of processes.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.budget_s = config.time_budget_minutes * 60.0
        self.intended = config.schedule_batches
        self.processes = config.world_size
        self._begin: tuple[int, float] | None = None
        self._said = 0

    def look(self, step: int, elapsed_s: float) -> str:
        """A line to log after ``step`` batches and ``elapsed_s`` seconds; empty when there is nothing to say."""
        if not self.budget_s:
            return ""
        if self._begin is None:
            self._begin = (step, elapsed_s)
        begin_step, begin_s = self._begin
        window = min(WINDOW_S, 0.1 * self.budget_s)
        if elapsed_s - begin_s < window:
            return ""
        self._begin = (step, elapsed_s)
        rate = (step - begin_step) / (elapsed_s - begin_s)
        reached = round(step + rate * max(0.0, self.budget_s - elapsed_s))
        first, behind = not self._said, reached < BEHIND * self._said
        if not (first or behind):
            return ""
        before, self._said = self._said, reached
        text = f"at {rate:.2g} batches a second this run will reach about {reached} batches"
        text += f" in its {self.budget_s / 60:g} minutes"
        if first and self.intended:
            text += f"; its schedules, made for {self.intended}, are fitted to that"
        if behind:
            text += f", not {before} as it looked before"
        if behind or self._is_shared() or (self.intended and reached < BEHIND * self.intended):
            text += f": {self._reason()}"
        return text

    def _is_shared(self) -> bool:
        return os.getloadavg()[0] > self.processes + OTHER_LOAD

    def _reason(self) -> str:
        """Why a run is slow, as far as this machine tells."""
        cores, load = usable_cores(), os.getloadavg()[0]
        if self._is_shared():
            return f"it shares the machine with other work (load {load:.1f} on {cores} cores)"
        return f"nothing else runs here (load {load:.1f} on {cores} cores), so this processor is the slower one"
