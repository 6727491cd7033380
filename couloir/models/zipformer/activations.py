"""SwooshL and SwooshR, and operations fused with them that keep only their input for the backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.zipformer.init import scale_parameters

SLOPE = 0.08


class SwooshKind(NamedTuple):
    """swoosh(x) = log(1 + exp(x - offset)) - 0.08 x - constant."""

    offset: float
    constant: float


SWOOSH_L = SwooshKind(4.0, 0.035)
SWOOSH_R = SwooshKind(1.0, 0.313261687)


def swoosh_values(x: Tensor, kind: SwooshKind) -> Tensor:
    """The swoosh function, computed in float32. Differentiable and exportable."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    y = F.softplus(wide - kind.offset) - SLOPE * wide - kind.constant
    return y.to(x.dtype)


def _swoosh_fast(x: Tensor, kind: SwooshKind) -> Tensor:
    """As `swoosh_values`, in as few passes as there are; not differentiable."""
    if x.dtype in (torch.float16, torch.bfloat16):
        return swoosh_values(x, kind)
    y = F.softplus(x - kind.offset)
    return y.add_(x, alpha=-SLOPE).sub_(kind.constant)


def _swoosh_backward(grad: Tensor, x: Tensor, kind: SwooshKind) -> Tensor:
    """The gradient at ``x`` given the gradient at swoosh(x): grad * (sigmoid(x - offset) - 0.08)."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    slope = torch.ops.aten.softplus_backward(grad.to(wide.dtype), wide - kind.offset, 1.0, 20.0)
    return slope.add_(grad, alpha=-SLOPE).to(grad.dtype)


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: SwooshKind) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return _swoosh_fast(x, kind)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _swoosh_backward(grads[0], x, ctx.kind), None


def swoosh(x: Tensor, kind: SwooshKind) -> Tensor:
    """SwooshL or SwooshR of a tensor of any shape."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Swoosh.apply(x, kind)
    return swoosh_values(x, kind)


class _SwooshLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, kind: SwooshKind) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.kind = kind
        y = _swoosh_fast(x, kind)
        if mask is not None:
            y.mul_(mask)
        return F.linear(y, weight.to(y.dtype), bias.to(y.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mask = ctx.saved_tensors
        with torch.amp.autocast(x.device.type, enabled=False):
            grad = grads[0].to(x.dtype)
            rows = grad.reshape(-1, grad.shape[-1])
            y = _swoosh_fast(x, ctx.kind)
            if mask is not None:
                y.mul_(mask)
            weight_grad = rows.t() @ y.reshape(-1, y.shape[-1])
            bias_grad = rows.sum(dim=0)
            y_grad = (rows @ weight.to(x.dtype)).view(x.shape)
            if mask is not None:
                y_grad.mul_(mask)
            x_grad = _swoosh_backward(y_grad, x, ctx.kind)
        return x_grad, weight_grad.to(weight.dtype), bias_grad.to(weight.dtype), None, None


def dropout_mask(x: Tensor, rate: float, shared_dim: int) -> Tensor:
    """A dropout mask (0 or 1 / (1 - rate)) of the shape of ``x`` with one axis of length 1."""
    shape = list(x.shape)
    shape[shared_dim] = 1
    return torch.rand(shape, device=x.device).gt_(rate).mul_(1.0 / (1.0 - rate)).to(x.dtype)


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
        if not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)):
            return F.linear(swoosh_values(x, self.kind), self.weight, self.bias)
        mask = dropout_mask(x, dropout, shared_dim=0) if dropout > 0.0 else None
        return _SwooshLinear.apply(x, self.weight, self.bias, mask, self.kind)
