"""Sinusoidal position encodings.

Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.

Shapes: T positions, D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def interleaved_sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions (T,) -> (T, width): sines in even channels, cosines in odd ones; ``width`` is even."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10000.0) / width))
    phases = positions[:, None] * rates
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1)


def concatenated_sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions (T,) -> (T, width): all sines, then all cosines, the last of rate 1/10000; ``width`` is even."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / (half - 1)))
    phases = positions[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], dim=-1)
