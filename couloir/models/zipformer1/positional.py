"""Sinusoidal encoding of relative positions.

Source: Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3; the waves are those of Vaswani et al. 2017
(arXiv:1706.03762), section 3.5.

Shapes: T frames, B batch, D model dimension, L cached frames before the T.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1
BASE = 10000.0


def sinusoids(first: int, last: int, channels: int) -> Tensor:
    """Encodings (first - last + 1, channels) of sources that lie ``first``, ``first`` - 1, ... ``last`` frames back."""
    back = torch.arange(first, last - 1, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(BASE) / channels))
    phases = back * rates
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1)


class RelPositionalEncoding(nn.Module):
    """Relative positional encoding with dropout. Its table grows as needed and is in no state dict.

    Args:
        channels: D, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self._table = torch.empty(0, channels)

    def _rows(self, first: int, last: int, like: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return sinusoids(first, last, self.channels).to(like.device, like.dtype)
        middle = self._table.shape[0] // 2
        if middle < first or self._table.shape[0] == 0:
            # By powers of two, so that a batch slightly longer than all before makes no new one.
            middle = 1 << first.bit_length()
            self._table = sinusoids(middle, -middle, self.channels)
        if self._table.device != like.device or self._table.dtype != like.dtype:
            self._table = self._table.to(like.device, like.dtype)
        return self._table[middle - first : middle - last + 1]

    def forward(self, x: Tensor, left_context: int = 0) -> Tensor:
        """The encoding (left_context + 2 T - 1, D) for ``x`` (T, B, D): the source farthest to the left first."""
        frames = x.shape[0]
        return F.dropout(self._rows(frames - 1 + left_context, 1 - frames, x), DROPOUT, self.training)
