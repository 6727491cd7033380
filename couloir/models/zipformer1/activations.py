"""DoubleSwish, x sigmoid(x - 1): nearly swish(swish(x)), whence its name."""

from __future__ import annotations

import torch
from torch import Tensor


class DoubleSwish:
    """As `couloir.models.common.activations.Activation`."""

    def values(self, x: Tensor) -> Tensor:
        """As `Activation.values`."""
        return x * torch.sigmoid(x - 1.0)

    def slope(self, x: Tensor) -> Tensor:
        """As `Activation.slope`. With s the sigmoid, it is s + x s (1 - s)."""
        gate = torch.sigmoid(x - 1.0)
        return torch.addcmul(gate, x * gate, 1.0 - gate)

    def fill(self, x: Tensor, y: Tensor, slope: Tensor) -> None:
        """As `Activation.fill`."""
        torch.sub(x, 1.0, out=slope)
        slope.sigmoid_()
        torch.mul(x, slope, out=y)
        slope.addcmul_(y, slope, value=-1.0).add_(y)


DOUBLE_SWISH = DoubleSwish()
