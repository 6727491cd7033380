"""Mixed precision: autocast, and the loss scale of fp16 with icefall's policy."""

from __future__ import annotations

import logging

import torch

from couloir.training.config import TrainerConfig

INITIAL_SCALE = 1.0
# Below the first the run is looked into; below the second it has diverged.
SMALL_SCALE = 1e-2
COLLAPSED_SCALE = 1e-5
# (steps, scale): every that many steps of an epoch a scale below is doubled.
GROWTH = ((25, 2.0), (100, 8.0), (400, 32.0))


class Precision:
    """How a run computes: float32, fp16 with a loss scale, or bf16, which has float32's range and needs none.

    Args:
        config: the flags. device: where the model is; fp16 is for GPUs.
    """

    def __init__(self, config: TrainerConfig, device: torch.device) -> None:
        self.device = device
        fp16 = config.use_fp16 and device.type == "cuda"
        if config.use_fp16 and not fp16:
            logging.warning("`--use-fp16` has no effect on a CPU: computing in float32")
        self.dtype = torch.float16 if fp16 else torch.bfloat16 if config.use_bf16 else torch.float32
        self.scaler = new_scaler(device, fp16)
        self.scale = INITIAL_SCALE

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    @property
    def collapsed(self) -> bool:
        """Whether the loss scale has fallen so far that the run has diverged."""
        return self.scale < COLLAPSED_SCALE

    def adjust(self, step_in_epoch: int) -> bool:
        """Read the scale after a step, let it grow, and return whether it is small. ``step_in_epoch`` counts from 0."""
        if not self.scaler.is_enabled():
            return False
        self.scale = self.scaler.get_scale()
        small = self.scale < SMALL_SCALE
        if small:
            logging.warning("grad scale is small: %g", self.scale)
        if any(step_in_epoch % steps == 0 and self.scale < bound for steps, bound in GROWTH):
            self.scaler.update(self.scale * 2.0)
            self.scale *= 2.0
        return small

    def restart(self) -> None:
        """Begin with the first scale again: one that was saved while it collapsed would do so at once."""
        if self.scaler.is_enabled():
            self.scaler.update(INITIAL_SCALE)
            self.scale = INITIAL_SCALE


def new_scaler(device: torch.device, enabled: bool) -> torch.amp.GradScaler:  # type: ignore[name-defined]
    """A loss scale of 1 that is on the device from the start: torch makes it with the first loss, if there is one."""
    scaler = torch.amp.GradScaler(device.type, enabled=enabled, init_scale=INITIAL_SCALE)  # type: ignore[attr-defined]
    scaler.scale(torch.zeros((), device=device))
    return scaler
