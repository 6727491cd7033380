"""SwooshL and SwooshR, alone and fused with the dropout and the linear layer behind them.

Source: Yao et al. 2024, arXiv:2310.11230, "SwooshR and SwooshL activation functions".
"""
# Shapes: C channels, T frames.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.blocks import blocks
from couloir.models.common.init import scale_parameters

SLOPE = 0.08
HALF_TYPES = (torch.float16, torch.bfloat16)
# exp overflows float32 beyond 88.
EXP_LIMIT = 80.0


class SwooshKind(NamedTuple):
    """swoosh(x) = log(1 + exp(x - offset)) - 0.08 x - constant."""

    offset: float
    constant: float


SWOOSH_L = SwooshKind(4.0, 0.035)
SWOOSH_R = SwooshKind(1.0, 0.313261687)


def swoosh_values(x: Tensor, kind: SwooshKind) -> Tensor:
    """The swoosh function, computed in float32. Differentiable and exportable."""
    wide = x.float() if x.dtype in HALF_TYPES else x
    return (F.softplus(wide - kind.offset) - SLOPE * wide - kind.constant).to(x.dtype)


def _swoosh_block(x: Tensor, kind: SwooshKind, scale: Tensor | None, y: Tensor, slope: Tensor) -> None:
    """Write swoosh(x) * scale to ``y`` and its derivative to ``slope``."""
    if x.amax() < EXP_LIMIT:
        torch.sub(x, kind.offset, out=y)
        y.exp_().add_(1.0)
        # The derivative of log(1 + e) - 0.08 x is 1 - 1 / (1 + e) - 0.08.
        torch.reciprocal(y, out=slope).neg_().add_(1.0 - SLOPE)
        y.log_().add_(x, alpha=-SLOPE).sub_(kind.constant)
    else:
        y.copy_(swoosh_values(x, kind))
        slope.copy_(torch.sigmoid(x - kind.offset)).sub_(SLOPE)
    if scale is not None:
        y.mul_(scale)
        slope.mul_(scale)


def _swoosh_and_slope(x: Tensor, kind: SwooshKind, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """swoosh(x) * scale and its derivative with respect to x; not differentiable.

    Args:
        x: (T, ...). kind: which swoosh. scale: broadcastable to ``x``, of length 1 along the first axis.
    """
    if x.dtype in HALF_TYPES or x.device.type != "cpu":
        wide = x.float() if x.dtype in HALF_TYPES else x
        y, slope = swoosh_values(wide, kind), torch.sigmoid(wide - kind.offset) - SLOPE
        if scale is not None:
            y, slope = y * scale, slope * scale
        return y.to(x.dtype), slope.to(x.dtype)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    for block in blocks(x):
        _swoosh_block(x[block], kind, scale, y[block], slope[block])
    return y, slope


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: SwooshKind) -> Tensor:
        shape = x.shape
        y, slope = _swoosh_and_slope(x.flatten(0, 1), kind)
        ctx.save_for_backward(slope)
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope.view(grads[0].shape), None


def swoosh(x: Tensor, kind: SwooshKind) -> Tensor:
    """SwooshL or SwooshR of a tensor with at least two axes."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Swoosh.apply(x, kind)
    return swoosh_values(x, kind)


def _saves_memory(x: Tensor) -> bool:
    """Whether to keep little and compute again in backward: memory is what limits the batch on a GPU."""
    return x.device.type != "cpu"


class _SwooshLinear(torch.autograd.Function):
    """linear(swoosh(x) * scale). On CPU, keeps what makes backward fast; on GPU, the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, kind: SwooshKind) -> Tensor:
        ctx.kind = kind
        ctx.recompute = _saves_memory(x)
        if ctx.recompute:
            y = swoosh_values(x, kind) if scale is None else swoosh_values(x, kind) * scale
            ctx.save_for_backward(weight, x, scale)
        else:
            y, slope = _swoosh_and_slope(x, kind, scale)
            ctx.save_for_backward(weight, y, slope)
        return F.linear(y, weight.to(y.dtype), bias.to(y.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        weight, y, slope = ctx.saved_tensors
        with torch.amp.autocast(grads[0].device.type, enabled=False):
            if ctx.recompute:
                y, slope = _swoosh_and_slope(y, ctx.kind, slope)
            rows = grads[0].reshape(-1, grads[0].shape[-1]).to(y.dtype)
            weight_grad = rows.t() @ y.reshape(-1, y.shape[-1])
            x_grad = (rows @ weight.to(y.dtype)).view(y.shape).mul_(slope)
            bias_grad = rows.sum(dim=0)
        return x_grad, weight_grad.to(weight.dtype), bias_grad.to(weight.dtype), None, None


def dropout_mask(x: Tensor, rate: float, shared_dim: int) -> Tensor:
    """A dropout mask (0 or 1 / (1 - rate)) of the shape of ``x`` with one axis of length 1."""
    shape = list(x.shape)
    shape[shared_dim] = 1
    return torch.rand(shape, device=x.device).gt_(rate).mul_(1.0 / (1.0 - rate)).to(x.dtype)


def swoosh_linear(x: Tensor, weight: Tensor, bias: Tensor, kind: SwooshKind, scale: Tensor | None = None) -> Tensor:
    """linear(swoosh(x) * scale) of ``x`` (T, ..., C). ``scale`` has length 1 along the first axis."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _SwooshLinear.apply(x, weight, bias, scale, kind)
    return F.linear(swoosh_values(x, kind), weight, bias)


class SwooshDropoutLinear(nn.Module):
    """swoosh -> dropout shared over time -> linear, as one operation.

    Args:
        in_channels, out_channels: widths.
        kind: which swoosh.
        initial_scale: factor on the initial weight.
    """

    def __init__(self, in_channels: int, out_channels: int, kind: SwooshKind, initial_scale: float) -> None:
        super().__init__()
        linear = scale_parameters(nn.Linear(in_channels, out_channels), initial_scale)
        self.weight, self.bias = linear.weight, linear.bias
        self.kind = kind

    def forward(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        """(T, B, in_channels) -> (T, B, out_channels)."""
        scale = dropout_mask(x, dropout, shared_dim=0) if dropout > 0.0 else None
        return swoosh_linear(x, self.weight, self.bias, self.kind, scale)
