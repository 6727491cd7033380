"""Balancer: keeps each channel's sign balance and magnitude in bounds by changing gradients.

Source: Yao et al. 2024, arXiv:2310.11230, "Activation constrainer".
"""
# Shapes: C channels, M rows.

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor, nn

from couloir.models.common.blocks import blocks
from couloir.models.common.schedule import FloatLike, ScheduledFloat, value_of

# A Gaussian with this mean/std has sign balance p: atanh(2p - 1) * MEAN_SCALE (a close fit of the normal quantile).
MEAN_SCALE = 0.8139535143
# rms of a zero-mean Gaussian whose mean absolute value is 1: sqrt(pi / 2).
RMS_PER_ABS = 1.25331413732
GRAD_SCALE = 0.04
# Below this a mean square or a variance counts as zero and has no gradient.
TINY = 1.0e-20


def mean_over_std(proportion_positive: float) -> float:
    """The mean/std at which about ``proportion_positive`` of a Gaussian is positive."""
    eps = 1.0e-10
    odds = 2.0 * proportion_positive - 1.0
    return MEAN_SCALE * 0.5 * (math.log(1.0 + odds + eps) - math.log(1.0 - odds + eps))


def channel_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square (C,) of rows (M, C).

    In double: the square of the variance of a channel that is all zero (a masked one) is beyond float32's range.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    total_square = torch.zeros_like(total)
    for block in blocks(rows):
        wide = rows[block].float()
        total += wide.sum(dim=0)
        total_square += wide.square().sum(dim=0)
    return total / rows.shape[0], total_square / rows.shape[0]


def balance_gradient(x: Tensor, grad: Tensor, limits: tuple[float, float, float, float]) -> Tensor:
    """Add to ``grad`` its magnitude times the direction that pulls out-of-bounds channels back.

    The penalty |m - clamp(m)| + |ln(clamp(r) / r)| depends on a channel's values through its mean and mean
    square alone, so its gradient is an affine function a + b x of the values: one pass for the statistics, one
    for the result.

    Args:
        x: activations (..., C). grad: gradient of the loss, same shape.
        limits: bounds of mean/std (low, high) and of rms (low, high).
    """
    mean_low, mean_high, rms_low, rms_high = limits
    rows, grad_rows = x.detach().reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
    mean, square = channel_moments(rows)
    variance = square - mean * mean
    varies = (variance > TINY).double()
    std = variance.clamp(min=TINY).sqrt()
    rms = square.clamp(min=TINY).sqrt()
    ratio = mean / std
    mean_side = (ratio > mean_high).double() - (ratio < mean_low).double()
    rms_side = ((rms > rms_high).double() - (rms < rms_low).double()) * (square > TINY)
    slope = rms_side / square.clamp(min=TINY) - varies * mean_side * mean / std.pow(3)
    offset = mean_side * (1.0 / std + varies * mean * mean / std.pow(3))
    norm = (offset * offset + 2.0 * offset * slope * mean + slope * slope * square).clamp(min=0.0).sqrt()
    scale = GRAD_SCALE / norm.clamp(min=TINY)
    # In half precision the slope of a channel that is nearly 0 would be infinite.
    wide = torch.promote_types(grad.dtype, torch.float32)
    slope, offset = (slope * scale).to(wide), (offset * scale).to(wide)
    result = torch.empty_like(grad_rows)
    for block in blocks(rows):
        push = (rows[block].to(wide) * slope).add_(offset).mul_(grad_rows[block].abs())
        torch.add(grad_rows[block], push, out=result[block])
    return result.view(grad.shape)


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limits: tuple[float, float, float, float], channels: slice) -> Tensor:
        ctx.save_for_backward(x[..., channels])
        ctx.limits, ctx.channels = limits, channels
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), grad = ctx.saved_tensors, grads[0]
        with torch.amp.autocast(grad.device.type, enabled=False):
            if x.shape[-1] == grad.shape[-1]:
                return balance_gradient(x, grad, ctx.limits), None, None
            result = grad.clone()
            result[..., ctx.channels] = balance_gradient(x, grad[..., ctx.channels], ctx.limits)
            return result, None, None


class Balancer(nn.Module):
    """Identity whose gradient pulls channels (last axis) towards bounds; active in training with probability ``prob``.

    The reference leaves it out while CUDA memory is nearly full. This one needs little memory and does not, so
    that a run can be repeated exactly.

    Args:
        min_positive, max_positive: bounds of the proportion of positive values.
        min_abs, max_abs: bounds of the mean absolute value.
        prob: probability of being active in a call.
    """

    def __init__(
        self,
        min_positive: FloatLike = 0.05,
        max_positive: FloatLike = 0.95,
        min_abs: FloatLike = 0.2,
        max_abs: FloatLike = 100.0,
        prob: FloatLike | None = None,
    ) -> None:
        super().__init__()
        self.min_positive = min_positive
        self.max_positive = max_positive
        self.min_abs = min_abs
        self.max_abs = max_abs
        self.prob = ScheduledFloat((0.0, 0.5), (8000.0, 0.125), default=0.4) if prob is None else prob

    def limits(self) -> tuple[float, float, float, float]:
        """Current bounds of mean/std (low, high) and of rms (low, high)."""
        return (
            mean_over_std(value_of(self.min_positive)),
            mean_over_std(value_of(self.max_positive)),
            RMS_PER_ABS * value_of(self.min_abs),
            RMS_PER_ABS * value_of(self.max_abs),
        )

    def forward(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """Return ``x`` (..., C). ``channels`` is the range of the last axis that is balanced."""
        if not self.training or not x.requires_grad or random.random() >= value_of(self.prob):
            return x
        return _Balance.apply(x, self.limits(), channels)
