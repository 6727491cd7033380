"""A pull on activations that grow too large: nothing in the forward pass, a constant added to their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _PenaliseLarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float, penalty: float) -> Tensor:
        ctx.save_for_backward((x > limit).to(torch.int8) - (x < -limit).to(torch.int8))
        ctx.penalty = penalty
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (side,) = ctx.saved_tensors
        return torch.add(grads[0], side.to(grads[0].dtype), alpha=ctx.penalty), None, None


def penalise_large(x: Tensor, limit: float, penalty: float) -> Tensor:
    """Identity on ``x`` (...) whose gradient gets ``penalty`` above ``limit`` and its negative below ``-limit``."""
    return _PenaliseLarge.apply(x, limit, penalty)
