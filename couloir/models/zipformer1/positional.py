"""Sinusoidal encoding of relative positions.

Source: Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3.

Shapes: T frames, B batch, D model dimension, L cached frames before the T.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.sinusoids import interleaved_sinusoids

DROPOUT = 0.1


def encodings(first: int, last: int, channels: int) -> Tensor:
    """Encodings (first - last + 1, channels) of sources that lie ``first``, ``first`` - 1, ... ``last`` frames back."""
    return interleaved_sinusoids(torch.arange(first, last - 1, -1, dtype=torch.float32), channels)


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
            return encodings(first, last, self.channels).to(like.device, like.dtype)
        table = self._table  # read once: another thread may put a longer one there
        middle = table.shape[0] // 2
        if table.shape[0] == 0 or middle < first or table.device != like.device:
            # By powers of two, so that a batch slightly longer than all before makes no new one. Never a tensor of
            # inference mode, which training could not use later.
            middle = 1 << first.bit_length()
            with torch.inference_mode(False):
                self._table = table = encodings(middle, -middle, self.channels).to(like.device)
        return table[middle - first : middle - last + 1].to(like.dtype)

    def forward(self, x: Tensor, left_context: int = 0) -> Tensor:
        """The encoding (left_context + 2 T - 1, D) for ``x`` (T, B, D): the source farthest to the left first."""
        frames = x.shape[0]
        return F.dropout(self._rows(frames - 1 + left_context, 1 - frames, x), DROPOUT, self.training)
