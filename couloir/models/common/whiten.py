"""Whiten: keeps a module's output covariance near a multiple of the identity by changing gradients.

Source: Yao et al. 2024, arXiv:2310.11230, "Activation constrainer".
"""
# Shapes: C channels.

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from couloir.models.common.schedule import FloatLike, value_of

PROBABILITIES = (0.025, 0.25)


def whitening_metric(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """How far from white ``x`` is, and the gradient of that.

    The metric is mean(eigenvalue^2) / mean(eigenvalue)^2 over the groups' covariances: 1 when they are all one
    multiple of the identity, else larger.

    Args:
        x: activations (..., C), float32. num_groups: groups of channels, each with its own covariance.

    Returns:
        The metric, a scalar, and its gradient with the shape of ``x``.
    """
    channels = x.shape[-1]
    grouped = x.reshape(-1, num_groups, channels // num_groups).transpose(0, 1)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    covariance = torch.bmm(centred.transpose(1, 2), centred)
    mean_square = covariance.square().sum() / channels
    mean_diagonal = covariance.diagonal(dim1=1, dim2=2).sum() / channels
    metric = mean_square / (mean_diagonal * mean_diagonal + 1.0e-20)
    direction = covariance - torch.diag_embed(
        (mean_square / (mean_diagonal + 1.0e-20)).expand(num_groups, channels // num_groups)
    )
    direction = direction * (4.0 / (channels * mean_diagonal * mean_diagonal + 1.0e-20))
    gradient = torch.bmm(centred, direction).transpose(0, 1).reshape(x.shape)
    return metric, gradient


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Whiten, limit: float, channels: slice) -> Tensor:
        ctx.save_for_backward(x[..., channels])
        ctx.module, ctx.limit, ctx.channels = module, limit, channels
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,), grad = ctx.saved_tensors, grads[0]
        part = grad[..., ctx.channels]
        with torch.amp.autocast(grad.device.type, enabled=False):
            metric, push = whitening_metric(x.detach().float(), ctx.module.num_groups)
            exceeded = metric >= ctx.limit
            if ctx.module.review_prob == 1.0 or random.random() < ctx.module.review_prob:
                ctx.module.pending = exceeded
            scale = ctx.module.grad_scale * part.float().norm() / push.norm().clamp(min=1.0e-20)
            push = (push * torch.where(exceeded, scale, torch.zeros_like(scale))).to(grad.dtype)
        if part.shape == grad.shape:
            return grad + push, None, None, None
        result = grad.clone()
        result[..., ctx.channels] += push
        return result, None, None, None


def update_whiten_prob(modules: Iterable[Whiten]) -> None:
    """Let modules act on what the last backward found in them. One wait for the device does for all."""
    waiting = [(module, module.pending) for module in modules if module.pending is not None]
    if waiting:
        found = torch.stack([pending for _, pending in waiting]).tolist()
        for (module, _), exceeded in zip(waiting, found):
            module.prob = PROBABILITIES[int(exceeded)]


class Whiten(nn.Module):
    """Identity whose gradient makes the activations' covariance whiter while its metric exceeds a limit.

    Active in training with a probability that is 0.25 at the start and after each call that exceeded the limit,
    and 0.025 after one that did not.

    Args:
        num_groups: groups of channels with a covariance of their own.
        limit: the metric, at least 1, above which the gradient is changed.
        grad_scale: size of the change relative to the gradient's norm.
        review_prob: share of the active calls that move the probability.
    """

    def __init__(self, num_groups: int, limit: FloatLike, grad_scale: float, review_prob: float = 1.0) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.limit = limit
        self.grad_scale = grad_scale
        self.review_prob = review_prob
        self._prob = PROBABILITIES[1]
        # Whether the last backward exceeded the limit: kept on the device until it is asked for, so that
        # backward does not wait for the device.
        self.pending: Tensor | None = None

    @property
    def prob(self) -> float:
        """Probability of being active in the next call."""
        update_whiten_prob([self])
        return self._prob

    @prob.setter
    def prob(self, prob: float) -> None:
        self.pending, self._prob = None, prob

    def forward(self, x: Tensor, channels: slice = slice(None)) -> Tensor:
        """Return ``x`` (..., C). ``channels`` is the range of the last axis that is whitened."""
        if not self.training or not x.requires_grad or self.grad_scale == 0.0 or random.random() >= self.prob:
            return x
        return _Whiten.apply(x, self, value_of(self.limit), channels)
