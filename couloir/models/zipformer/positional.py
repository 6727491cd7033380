"""Compact relative positional encoding."""
# Shapes: B batch, D model dimension, T frames.

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.15


def relative_encoding(frames: int, left_context: int, pos_dim: int, device: torch.device) -> Tensor:
    """Encodings of the offsets -(frames + left_context - 1) .. frames - 1, (left_context + 2 frames - 1, pos_dim).

    Offsets are compressed logarithmically and then by an arc tangent, so that near offsets are resolved finely and
    far ones coarsely (icefall's). The last channel is a constant 1.
    """
    offsets = torch.arange(-(frames + left_context - 1), frames, device=device, dtype=torch.float32)
    compression = math.sqrt(pos_dim)
    compressed = compression * offsets.sign() * ((offsets.abs() + compression).log() - math.log(compression))
    angle = (compressed / (pos_dim / (2.0 * math.pi))).atan()
    harmonics = torch.arange(1, pos_dim // 2 + 1, device=device, dtype=torch.float32)
    phases = angle[:, None] * harmonics
    waves = torch.stack([phases.cos(), phases.sin()], dim=-1).flatten(1)
    return torch.cat([waves[:, :-1], torch.ones_like(waves[:, :1])], dim=-1)


class CompactRelPositionalEncoding(nn.Module):
    """Relative positional encoding with dropout. It has no parameters and no buffers.

    Args:
        pos_dim: channels, even.
    """

    def __init__(self, pos_dim: int) -> None:
        super().__init__()
        self.pos_dim = pos_dim

    def forward(self, x: Tensor, left_context: int = 0) -> Tensor:
        """The encoding (left_context + 2 T - 1, pos_dim) of the offsets between frames of ``x`` (T, B, D)."""
        encoding = relative_encoding(x.shape[0], left_context, self.pos_dim, x.device).to(x.dtype)
        return F.dropout(encoding, DROPOUT, self.training)
