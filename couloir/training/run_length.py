"""How long a run is: bounded by epochs, by batches, by time, and what the bound does to its schedules."""

from __future__ import annotations

from couloir.training.config import TrainerConfig


class RunLength:
    """The part of a run that is done.

    Args:
        config: the bounds.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.max_steps = config.max_steps
        self.budget_s = config.time_budget_minutes * 60.0
        self.final_decay = config.final_decay
        self.schedule_batches = config.schedule_batches

    def fraction(self, step: int, elapsed_s: float) -> float:
        """From 0 to 1, by whichever of batches and time is nearer its bound; 0 where neither is bounded."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        by_time = elapsed_s / self.budget_s if self.budget_s else 0.0
        return min(1.0, max(by_steps, by_time))

    def decay(self, step: int, elapsed_s: float) -> float:
        """The factor on the learning rate: 1, falling to 0 over the last part of a bounded run."""
        left = 1.0 - self.fraction(step, elapsed_s)
        return min(1.0, left / self.final_decay) if self.final_decay > 0 else 1.0

    def position(self, step: int, elapsed_s: float) -> float:
        """The batch at which schedules (learning rate, warm-ups, dropouts, skips) are when ``step`` batches are done.

        It is ``step`` itself, unless schedules are made for ``schedule_batches``: then a run bounded by batches or
        time goes through them once, however many batches its machine reaches.
        """
        if not self.schedule_batches or not (self.max_steps or self.budget_s):
            return step
        return self.schedule_batches * self.fraction(step, elapsed_s)

    def finished(self, step: int, elapsed_s: float) -> bool:
        """Whether a bound is reached."""
        return self.fraction(step, elapsed_s) >= 1.0
