"""What a run does about non-finite losses and gradients: skip the batch, go back, give up, in that order."""

from __future__ import annotations

import enum
from typing import Any

from couloir.errors import UserError
from couloir.training.config import TrainerConfig


class Verdict(enum.Enum):
    """What to do about a bad batch."""

    SKIP = enum.auto()
    GO_BACK = enum.auto()


class Recovery:
    """Counts bad batches. The counts are the same on every rank, so every rank comes to the same verdict.

    Args:
        config: how many in a row send the run back, how often, and to which learning rate.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.in_a_row = 0
        self.skipped = 0
        self.rollbacks = 0
        self.lr_scale = 1.0

    def good(self) -> None:
        """A batch was trained on."""
        self.in_a_row = 0

    def bad(self, collapsed: bool = False) -> Verdict:
        """A batch was skipped; ``collapsed`` means that the loss scale has left no other way than back.

        Raises:
            UserError: the run has gone back as often as it may.
        """
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row < self.config.max_bad_batches and not collapsed:
            return Verdict.SKIP
        if self.rollbacks >= self.config.max_rollbacks:
            raise UserError(self.advice())
        self.in_a_row = 0
        self.rollbacks += 1
        self.lr_scale *= self.config.rollback_lr_scale
        return Verdict.GO_BACK

    def advice(self) -> str:
        """One paragraph for the person whose run has stopped."""
        return (
            f"training diverged: {self.skipped} batches had a non-finite loss or gradient, and going back "
            f"{self.rollbacks} times, to {self.lr_scale:g} of the learning rate, did not help. Everything saved is "
            "whole. Lower `--base-lr` (by 0.005 at a time down to 0.02; 0.045 is tuned for batches of about 4000 s in "
            "all), or raise `--max-duration`; give `--use-bf16 True` instead of `--use-fp16 True`; look at the "
            "batches named in skipped.jsonl and saved as batch-*.pt for empty or wrong transcripts; "
            "`--inf-check True` names the module where it begins. Then start again with the same --exp-dir"
        )

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"skipped": self.skipped, "rollbacks": self.rollbacks, "lr_scale": self.lr_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.skipped, self.rollbacks = int(state["skipped"]), int(state["rollbacks"])
        self.lr_scale = float(state["lr_scale"])
