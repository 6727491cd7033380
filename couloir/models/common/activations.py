"""Activations with the derivative that backward needs, alone and fused with the dropout and the linear layer behind.

Autograd would keep every step of an activation's formula; these keep one or two tensors (on a GPU, the input alone).

Shapes: T frames, C channels; "..." are any further axes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.blocks import blocks
from couloir.models.common.init import scale_parameters

HALF_TYPES = (torch.float16, torch.bfloat16)


class Activation(Protocol):
    """An element-wise function and its derivative."""

    def values(self, x: Tensor) -> Tensor:
        """f(x), differentiable and exportable."""

    def slope(self, x: Tensor) -> Tensor:
        """f'(x)."""

    def fill(self, x: Tensor, y: Tensor, slope: Tensor) -> None:
        """Write f(x) to ``y`` and f'(x) to ``slope``: a block on the CPU, in float32 or wider."""


def activation_values(x: Tensor, kind: Activation) -> Tensor:
    """f(x), computed in float32 where ``x`` is narrower. Differentiable and exportable."""
    wide = x.float() if x.dtype in HALF_TYPES else x
    return kind.values(wide).to(x.dtype)


def _values_and_slope(x: Tensor, kind: Activation, scale: Tensor | None, gain: float) -> tuple[Tensor, Tensor]:
    """f(x) * scale * gain and its derivative with respect to x; not differentiable.

    Args:
        x: (T, ...). kind: f. scale: broadcastable to ``x``, of length 1 or T along the first axis. gain: a factor.
    """
    if x.dtype in HALF_TYPES or x.device.type != "cpu":
        wide = x.float() if x.dtype in HALF_TYPES else x
        y, slope = kind.values(wide), kind.slope(wide)
        if scale is not None:
            factor = scale * gain
            y, slope = y * factor, slope * factor
        return y.to(x.dtype), slope.to(x.dtype)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    for block in blocks(x):
        kind.fill(x[block], y[block], slope[block])
        if scale is not None:
            factor = scale if scale.shape[0] == 1 else scale[block]
            factor = factor if gain == 1.0 else factor * gain
            y[block].mul_(factor)
            slope[block].mul_(factor)
    return y, slope


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Activation) -> Tensor:
        shape = x.shape
        y, slope = _values_and_slope(x.flatten(0, 1), kind, None, 1.0)
        ctx.save_for_backward(slope)
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope.view(grads[0].shape), None


def activate(x: Tensor, kind: Activation) -> Tensor:
    """f(x) of a tensor with at least two axes."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Activate.apply(x, kind)
    return activation_values(x, kind)


def _saves_memory(x: Tensor) -> bool:
    """Whether to keep little and compute again in backward: memory is what limits the batch on a GPU."""
    return x.device.type != "cpu"


class _ActivateLinear(torch.autograd.Function):
    """linear(f(x) * scale * gain). On CPU, keeps what makes backward fast; on GPU, the input and the scale alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, gain: float, kind: Activation
    ) -> Tensor:
        ctx.kind, ctx.gain = kind, gain
        ctx.recompute = _saves_memory(x)
        if ctx.recompute:
            y = activation_values(x, kind)
            y = y if scale is None else y * scale if gain == 1.0 else (y * scale).mul_(gain)
            ctx.save_for_backward(weight, x, scale)
        else:
            y, slope = _values_and_slope(x, kind, scale, gain)
            ctx.save_for_backward(weight, y, slope)
        return F.linear(y, weight.to(y.dtype), bias.to(y.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        weight, y, slope = ctx.saved_tensors
        with torch.amp.autocast(grads[0].device.type, enabled=False):
            if ctx.recompute:
                y, slope = _values_and_slope(y, ctx.kind, slope, ctx.gain)
            rows = grads[0].reshape(-1, grads[0].shape[-1]).to(y.dtype)
            weight_grad = rows.t() @ y.reshape(-1, y.shape[-1])
            x_grad = (rows @ weight.to(y.dtype)).view(y.shape).mul_(slope)
            bias_grad = rows.sum(dim=0)
        return x_grad, weight_grad.to(weight.dtype), bias_grad.to(weight.dtype), None, None, None


def dropout_mask(x: Tensor, rate: float, shared_dim: int) -> Tensor:
    """A dropout mask (0 or 1 / (1 - rate)) of the shape of ``x`` with one axis of length 1."""
    shape = list(x.shape)
    shape[shared_dim] = 1
    return torch.rand(shape, device=x.device).gt_(rate).mul_(1.0 / (1.0 - rate)).to(x.dtype)


def activate_linear(
    x: Tensor, weight: Tensor, bias: Tensor, kind: Activation, scale: Tensor | None = None, gain: float = 1.0
) -> Tensor:
    """linear(f(x) * scale * gain) of ``x`` (T, ..., C). ``scale`` has length 1 or T along the first axis."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _ActivateLinear.apply(x, weight, bias, scale, gain, kind)
    return F.linear(activation_values(x, kind), weight, bias)


class ActivationDropoutLinear(nn.Module):
    """activation -> dropout -> linear, as one operation.

    Args:
        in_channels, out_channels: widths.
        kind: the activation.
        initial_scale: factor on the initial weight.
        shared_over_time: whether a channel is dropped in all frames or in none; else every value alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: Activation,
        initial_scale: float,
        shared_over_time: bool = True,
    ) -> None:
        super().__init__()
        linear = scale_parameters(nn.Linear(in_channels, out_channels), initial_scale)
        self.weight, self.bias = linear.weight, linear.bias
        self.kind = kind
        self.shared_over_time = shared_over_time

    def forward(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        """(T, B, in_channels) -> (T, B, out_channels)."""
        scale, gain = None, 1.0
        if dropout > 0.0 and self.shared_over_time:
            scale = dropout_mask(x, dropout, shared_dim=0)
        elif dropout > 0.0:
            # One byte for each value; the factor stays apart.
            scale, gain = torch.empty_like(x, dtype=torch.bool).bernoulli_(1.0 - dropout), 1.0 / (1.0 - dropout)
        return activate_linear(x, self.weight, self.bias, self.kind, scale, gain)
