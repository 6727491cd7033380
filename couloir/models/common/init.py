"""Initialisation of the layers whose initial output is small."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.Conv2d)


def scale_parameters(layer: Layer, scale: float) -> Layer:
    """Multiply a fresh layer's weight by ``scale`` and draw its bias from U(-0.1 scale, 0.1 scale)."""
    with torch.no_grad():
        layer.weight.mul_(scale)
        if layer.bias is not None:
            layer.bias.uniform_(-0.1 * scale, 0.1 * scale)
    return layer
