"""SwooshL and SwooshR.

Source: Yao et al. 2024, arXiv:2310.11230, "SwooshR and SwooshL activation functions".
"""
# Shapes: C channels, T frames.

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.08
# exp overflows float32 beyond 88.
EXP_LIMIT = 80.0


class SwooshKind(NamedTuple):
    """swoosh(x) = log(1 + exp(x - offset)) - 0.08 x - constant."""

    offset: float
    constant: float

    def values(self, x: Tensor) -> Tensor:
        """As `Activation.values`."""
        return F.softplus(x - self.offset) - SLOPE * x - self.constant

    def slope(self, x: Tensor) -> Tensor:
        """As `Activation.slope`."""
        return torch.sigmoid(x - self.offset) - SLOPE

    def fill(self, x: Tensor, y: Tensor, slope: Tensor) -> None:
        """As `Activation.fill`."""
        if x.amax() < EXP_LIMIT:
            torch.sub(x, self.offset, out=y)
            y.exp_().add_(1.0)
            # The derivative of log(1 + e) - 0.08 x is 1 - 1 / (1 + e) - 0.08.
            torch.reciprocal(y, out=slope).neg_().add_(1.0 - SLOPE)
            y.log_().add_(x, alpha=-SLOPE).sub_(self.constant)
        else:
            y.copy_(self.values(x))
            slope.copy_(self.slope(x))


SWOOSH_L = SwooshKind(4.0, 0.035)
SWOOSH_R = SwooshKind(1.0, 0.313261687)
