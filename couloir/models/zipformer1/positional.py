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


def sinusoids(farthest: int, channels: int) -> Tensor:
    """Encodings (2 farthest + 1, channels) of a source that lies ``farthest`` frames before ... behind its target."""
    back = torch.arange(farthest, -farthest - 1, -1, dtype=torch.float32)[:, None]
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

    def _covering(self, farthest: int, like: Tensor) -> Tensor:
        table = self._table
        if table.shape[0] < 2 * farthest + 1:
            # By powers of two, so that a batch slightly longer than all before makes no new one.
            table = sinusoids(1 << farthest.bit_length(), self.channels)
        if table.device != like.device or table.dtype != like.dtype or table is not self._table:
            self._table = table = table.to(like.device, like.dtype)
        return table

    def forward(self, x: Tensor, left_context: int = 0) -> Tensor:
        """The encoding (left_context + 2 T - 1, D) for ``x`` (T, B, D): the source farthest to the left first."""
        frames = x.shape[0]
        farthest = frames - 1 + left_context
        table = self._covering(farthest, x)
        middle = table.shape[0] // 2
        return F.dropout(table[middle - farthest : middle + frames], DROPOUT, self.training)
