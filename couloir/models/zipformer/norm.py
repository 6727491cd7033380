"""BiasNorm, and the soft bounds that training puts on single parameters.

Source: Yao et al. 2024, arXiv:2310.11230, "BiasNorm".
"""
# Shapes: C channels.

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

LIMIT_PROB = 0.6


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), grad = ctx.saved_tensors, grads[0]
        outwards = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return torch.where(outwards, -grad, grad), None, None


def limit_param_value(x: Tensor, low: float, high: float) -> Tensor:
    """Identity; in 60 % of calls, gradients that would push values further outside [low, high] change sign."""
    return _Limit.apply(x, low, high) if random.random() < LIMIT_PROB else x


class _BiasNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        inverse_rms = (wide - bias).square_().mean(dim=-1, keepdim=True).rsqrt_()
        scales = inverse_rms * log_scale.exp()
        ctx.save_for_backward(x, bias, scales, log_scale)
        return (wide * scales).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, bias, scales, log_scale = ctx.saved_tensors
        with torch.amp.autocast(x.device.type, enabled=False):
            wide, grad = x.to(scales.dtype), grads[0].to(scales.dtype)
            # y = x s with s = e^l r^(-1/2) and r = mean((x - b)^2).
            scale_grad = (grad * wide).sum(dim=-1, keepdim=True)
            log_scale_grad = (scale_grad * scales).sum()
            centred_grad = (wide - bias).mul_(scale_grad * scales.pow(3) * (-2.0 * log_scale).exp() / -x.shape[-1])
            bias_grad = -centred_grad.reshape(-1, x.shape[-1]).sum(dim=0)
            x_grad = centred_grad.addcmul_(grad, scales)
        return x_grad.to(x.dtype), bias_grad.to(bias.dtype), log_scale_grad.to(log_scale.dtype)


def cast_like(x: Tensor, value: Tensor) -> Tensor:
    """``value`` in the type of ``x``: under autocast parameters are wider, and what follows would be, too."""
    return value if value.dtype == x.dtype else value.to(x.dtype)


class BiasNorm(nn.Module):
    """y = x * mean_c((x - bias)^2)^(-1/2) * exp(log_scale): keeps length information.

    Args:
        num_channels: channels, the last axis.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.empty(num_channels).normal_(mean=0.0, std=1.0e-4))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        log_scale = limit_param_value(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        if torch.is_grad_enabled() and x.requires_grad:
            return _BiasNorm.apply(x, self.bias, log_scale)
        normed = x * ((x - self.bias).square().mean(dim=-1, keepdim=True) ** -0.5 * log_scale.exp())
        return cast_like(x, normed)
