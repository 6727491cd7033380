"""Eden and Eden2: learning rates that depend on the batch and the epoch, with a warm-up.

    Eden    base * ((b^2 + B^2) / B^2)^(-1/4) * ((e^2 + E^2) / E^2)^(-1/4) * warmup(b)
    Eden2   base * ((b^2 + B^2) / B^2)^(-1/2) * warmup(b)

where warmup rises linearly from ``warmup_start`` to 1 over ``warmup_batches``. State dicts are icefall's.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


class Eden:
    """The schedule of Zipformer recipes (Yao et al. 2024, arXiv:2310.11230, "ScaledAdam optimizer").

    Args:
        optimizer: its groups' ``lr`` is the base rate; it is kept as ``base_lr`` of each group.
        lr_batches, lr_epochs: B and E above.
        warmup_batches, warmup_start: length and first value of the warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_batches: float,
        lr_epochs: float,
        warmup_batches: float = 500.0,
        warmup_start: float = 0.5,
    ) -> None:
        self.optimizer = optimizer
        self.lr_batches = lr_batches
        self.lr_epochs = lr_epochs
        self.warmup_batches = warmup_batches
        self.warmup_start = warmup_start
        # A factor laid on top by the trainer: recovery after divergence, the final decay of a budgeted run.
        self.scale = 1.0
        self.batch: float = 0
        self.epoch = 0
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        self.base_lrs = [group["base_lr"] for group in optimizer.param_groups]

    def factor(self) -> float:
        """What the base rate is multiplied with at the current batch and epoch, `scale` left out."""
        batches = (self.batch**2 + self.lr_batches**2) / self.lr_batches**2
        epochs = (self.epoch**2 + self.lr_epochs**2) / self.lr_epochs**2
        return batches**-0.25 * epochs**-0.25 * self.warmup()

    def warmup(self) -> float:
        """The warm-up factor at the current batch."""
        if self.batch >= self.warmup_batches:
            return 1.0
        return self.warmup_start + (1.0 - self.warmup_start) * self.batch / self.warmup_batches

    def step_batch(self, batch: float) -> None:
        """Set the learning rate for batch number ``batch`` of the schedule, before the optimizer's step."""
        self.batch = batch
        self._apply()

    def step_epoch(self, epoch: int) -> None:
        """Set the learning rate for ``epoch`` (from 0), at the start of the epoch."""
        self.epoch = epoch
        self._apply()

    def _apply(self) -> None:
        factor = self.factor() * self.scale
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr * factor

    def last_lr(self) -> float:
        """The learning rate of the first group."""
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        """icefall's: the epoch and the batch."""
        return {"epoch": self.epoch, "batch": int(self.batch)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the epoch and the batch of a state dict. The base rates stay those of this run."""
        self.epoch = int(state["epoch"])
        self.batch = int(state["batch"])
        # A loaded optimizer brings its own base rates; the flags of this run stand.
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["base_lr"] = base_lr
        self._apply()


class Eden2(Eden):
    """Eden without epochs, falling with the square root of the batch: for fine-tuning and synthesis."""

    def __init__(
        self, optimizer: Optimizer, lr_batches: float, warmup_batches: float = 500.0, warmup_start: float = 0.5
    ) -> None:
        super().__init__(optimizer, lr_batches, 1.0, warmup_batches, warmup_start)

    def factor(self) -> float:
        """As `Eden.factor`, with the exponent 1/2 and no epochs."""
        return ((self.batch**2 + self.lr_batches**2) / self.lr_batches**2) ** -0.5 * self.warmup()
