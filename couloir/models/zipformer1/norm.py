"""BasicNorm, the predecessor of BiasNorm (Yao et al. 2024, arXiv:2310.11230, "BiasNorm").

Shapes: "..." any axes, C channels.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor, nn

INITIAL_EPS = 0.25
LIMIT_PROB = 0.25
LOG_EPS_RANGE = (-3.0, 3.0)


class _BasicNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, log_eps: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        scales = wide.square().mean(dim=-1, keepdim=True).add_(log_eps.exp()).rsqrt_()
        ctx.save_for_backward(x, scales, log_eps)
        return (wide * scales).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, scales, log_eps = ctx.saved_tensors
        with torch.amp.autocast(x.device.type, enabled=False):
            wide, grad = x.to(scales.dtype), grads[0].to(scales.dtype)
            # y = x s with s = (mean(x^2) + eps)^(-1/2), so ds = -s^3 (mean(x dx) + eps dlog_eps / 2).
            pull = (grad * wide).sum(dim=-1, keepdim=True) * scales.pow(3)
            log_eps_grad = pull.sum() * log_eps.exp() * -0.5
            x_grad = (grad * scales).addcmul_(wide, pull, value=-1.0 / x.shape[-1])
        return x_grad.to(x.dtype), log_eps_grad.to(log_eps.dtype)


class BasicNorm(nn.Module):
    """y = x (mean_c(x^2) + exp(eps))^(-1/2): a small input stays small. ``eps`` is learnt, one for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.tensor(math.log(INITIAL_EPS)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        log_eps: Tensor = self.eps
        if self.training and random.random() < LIMIT_PROB:
            log_eps = log_eps.clamp(*LOG_EPS_RANGE)
        if torch.is_grad_enabled() and x.requires_grad:
            return _BasicNorm.apply(x, log_eps)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return (wide * (wide.square().mean(dim=-1, keepdim=True) + log_eps.exp()) ** -0.5).to(x.dtype)
