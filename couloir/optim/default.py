"""ScaledAdam under Eden, as the icefall recipes train."""

from __future__ import annotations

import torch
from torch import nn

from couloir.optim.config import OptimConfig
from couloir.optim.eden import Eden, Eden2
from couloir.optim.param_groups import parameter_groups
from couloir.optim.scaled_adam import ScaledAdam


def default_optimizer(model: nn.Module, config: OptimConfig) -> ScaledAdam:
    """ScaledAdam over the trainable parameters of ``model``."""
    frozen = [prefix.strip() for prefix in config.freeze_modules.split(",") if prefix.strip()]
    groups = parameter_groups(model, config.base_lr, frozen)
    return ScaledAdam(groups, lr=config.base_lr, clipping_scale=config.clipping_scale)


def default_scheduler(optimizer: torch.optim.Optimizer, config: OptimConfig) -> Eden:
    """Eden or Eden2."""
    warmup = (config.warmup_batches, config.warmup_start)
    if config.lr_schedule == "eden2":
        return Eden2(optimizer, config.lr_batches, *warmup)
    return Eden(optimizer, config.lr_batches, config.lr_epochs, *warmup)


def scaled_adam_under_eden(model: nn.Module, config: OptimConfig) -> tuple[ScaledAdam, Eden]:
    """Both."""
    optimizer = default_optimizer(model, config)
    return optimizer, default_scheduler(optimizer, config)
