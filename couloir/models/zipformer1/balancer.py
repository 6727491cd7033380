"""ActivationBalancer: the first form of the balancer of `couloir.models.common.balancer`.

It pushes every value of a channel by a share of its own gradient, by how far the channel's proportion of positive
values and its mean magnitude are out of bounds; the later form follows the gradient of a penalty.

Shapes: "..." any axes, C channels, the last axis.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from couloir.models.common.counter import CallCounter

MAX_FACTOR = 0.04
SIGN_GAIN, SCALE_GAIN = 0.01, 0.02
HALVING = 4000.0
"""Calls in which the probability of acting halves."""


def _push(value: Tensor, low: float, high: float, room: float, gain: float) -> Tensor:
    """How much below ``low`` (positive) or above ``high`` (negative) values are, times a gain, at most `MAX_FACTOR`.

    Distances are in units of ``low``, and of ``room`` above ``high``; a bound of 0, or without room, does not act.
    """
    below = ((low - value) * (gain / low)).clamp(0.0, MAX_FACTOR) if low > 0.0 else torch.zeros_like(value)
    return below - ((value - high) * (gain / room)).clamp(0.0, MAX_FACTOR) if room > 0.0 else below


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: ActivationBalancer, prob: float) -> Tensor:
        with torch.amp.autocast(x.device.type, enabled=False):
            positive = x > 0.0
            axes = list(range(x.ndim - 1))
            share = positive.mean(dim=axes, dtype=torch.float32)
            magnitude = x.abs().mean(dim=axes, dtype=torch.float32)
        low, high = module.min_positive, module.max_positive
        sign = _push(share, low, high, 1.0 - high, SIGN_GAIN / prob)
        scale = _push(magnitude, module.min_abs, module.max_abs, module.max_abs, SCALE_GAIN / prob)
        ctx.save_for_backward(positive, sign, scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positive, sign, scale), grad = ctx.saved_tensors, grads[0]
        with torch.amp.autocast(grad.device.type, enabled=False):
            above, below = ((sign + half * scale).to(grad.dtype) for half in (0.5, -0.5))
            return torch.addcmul(grad, grad.abs(), torch.where(positive, above, below), value=-1.0), None, None


class ActivationBalancer(CallCounter):
    """Identity whose gradient pulls channels (last axis) towards bounds, in training with a probability that falls.

    Args:
        min_positive, max_positive: bounds of the proportion of positive values.
        min_abs, max_abs: bounds of the mean absolute value.
        min_prob: what the probability of acting falls to; it is one half at first, and halves every `HALVING` calls.
    """

    def __init__(
        self,
        min_positive: float = 0.05,
        max_positive: float = 0.95,
        min_abs: float = 0.2,
        max_abs: float = 100.0,
        min_prob: float = 0.1,
    ) -> None:
        super().__init__()
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.min_prob = min_prob

    @property
    def prob(self) -> float:
        """The probability of acting in the next call."""
        return float(max(self.min_prob, 0.5 ** (1.0 + self.calls / HALVING)))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (..., C)."""
        if not self.training or not x.requires_grad:
            return x
        prob = self.prob
        self.calls += 1
        return _Balance.apply(x, self, prob) if random.random() < prob else x
