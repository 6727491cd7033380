"""Configuration of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from couloir.config import flag_name, option
from couloir.errors import must_be


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer. ScaledAdam under the Eden schedule; the flags are icefall's."""

    base_lr: float = option(0.045, "Base learning rate; the schedule multiplies it.")
    lr_batches: float = option(7500, "Number of batches after which Eden's batch factor falls.", unit="batches")
    lr_epochs: float = option(3.5, "Number of epochs after which Eden's epoch factor falls.", unit="epochs")
    ref_duration: float = option(
        600.0, "Audio per batch to which the schedules of dropouts and skips refer.", unit="s", rare=True
    )
    lr_schedule: str = option("eden", "Eden2 takes no account of epochs.", choices=("eden", "eden2"), rare=True)
    warmup_batches: float = option(500.0, "Batches over which the learning rate warms up.", unit="batches", rare=True)
    warmup_start: float = option(0.1, "Part of the learning rate at the first batch of the warm-up.", rare=True)
    clipping_scale: float = option(
        2.0, "Gradients are clipped at this multiple of the median of their recent norms.", rare=True
    )
    freeze_modules: str = option("", "Modules that are not trained: comma-separated prefixes of parameter names.")

    def __post_init__(self) -> None:
        for name in ("base_lr", "lr_batches", "lr_epochs", "ref_duration", "clipping_scale"):
            if getattr(self, name) <= 0:
                raise must_be(flag_name(name), "more than 0", getattr(self, name))
        if not 0 <= self.warmup_start <= 1:
            raise must_be("--warmup-start", "from 0 to 1", self.warmup_start)
        if self.warmup_batches < 0:
            raise must_be("--warmup-batches", "at least 0", self.warmup_batches)
