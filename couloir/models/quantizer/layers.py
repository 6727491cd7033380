"""The layer behind the codes: Whisper's pre-norm block with rotary positions.

Source: rotary positions Su et al. 2021 (arXiv:2104.09864), section 3.2, with halves in place of neighbours.

Shapes: B batch, T frames, D channels, H heads, d width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.whisper.layers import split_heads

BASE = 10000.0


class Rotary(nn.Module):
    """Turns pairs of channels, one of each half, by angles that grow with the position.

    Args:
        width: of a head.
    """

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", BASE ** (-torch.arange(0, width, 2).float() / width))

    def turns(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, d / 2) of positions 0 to ``frames`` - 1."""
        angles = torch.arange(frames, device=self.inv_freq.device, dtype=torch.float32)[:, None] * self.inv_freq
        return angles.cos(), angles.sin()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, T, d) -> (B, H, T, d)."""
    cos, sin = (part.to(x.dtype) for part in turns)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RotaryAttention(nn.Module):
    """Self-attention of all frames to all, keys without a bias.

    Args:
        width: channels. num_heads: heads. query_mult: factor of the scores; they are divided by 8 as well.
    """

    def __init__(self, width: int, num_heads: int, query_mult: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(width // num_heads)
        self.num_heads = num_heads
        head_width = width // num_heads
        # Of the reference: queries and keys by the root of 8 query_mult / sqrt(d), and the scores by 1 / sqrt(d).
        self.scale = query_mult * 8 / math.sqrt(head_width) / math.sqrt(head_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        turns = self.rotary.turns(x.shape[1])
        query, key = (turned(split_heads(layer(x), self.num_heads), turns) for layer in (self.query, self.key))
        value = split_heads(self.value(x), self.num_heads)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Sequential:
    """linear -> GELU -> linear, four times as wide inside."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class RotaryBlock(nn.Module):
    """Pre-norm layer: attention, then a feed-forward module.

    Args:
        width: channels. num_heads: heads. query_mult: as of `RotaryAttention`.
    """

    def __init__(self, width: int, num_heads: int, query_mult: float) -> None:
        super().__init__()
        self.attn = RotaryAttention(width, num_heads, query_mult)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = feed_forward(width)
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))
