"""Attention whose weights are computed once per layer and shared by three modules.

Source: Yao et al. 2024, arXiv:2310.11230, "Zipformer block" (the sharing) and "Non-linear attention". The weights
by relative position follow Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3, with a query of their own
in place of the biases.
"""
# Shapes: B batch, D model dimension, H heads, L frames of left context, T frames.

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from couloir.models.common.attention import (
    PENALTY_PROB,
    SharedWeights,
    attention_weights,
    merge_heads,
    split_heads,
    split_positions,
)
from couloir.models.common.balancer import Balancer
from couloir.models.common.init import scale_parameters
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import Whiten


class MultiheadAttentionWeights(nn.Module):
    """Relative-position attention weights. Scores are not divided by the root of the head width.

    Args:
        channels: input width. pos_dim: width of the positional encoding.
        num_heads, query_head_dim, pos_head_dim: heads and their widths.
    """

    def __init__(self, channels: int, pos_dim: int, num_heads: int, query_head_dim: int, pos_head_dim: int) -> None:
        super().__init__()
        self.dims = (num_heads, query_head_dim, pos_head_dim)
        width = num_heads * (2 * query_head_dim + pos_head_dim)
        self.in_proj = scale_parameters(nn.Linear(channels, width), query_head_dim**-0.25)
        keys = num_heads * query_head_dim
        self.key_channels = slice(keys, 2 * keys)
        self.whiten_keys = Whiten(num_heads, ScheduledFloat((0.0, 3.0), (20000.0, 6.0), default=3.0), grad_scale=0.025)
        self.balance_keys = Balancer(min_positive=0.4, max_positive=0.6, min_abs=0.0, max_abs=100.0, prob=0.025)
        self.linear_pos = scale_parameters(nn.Linear(pos_dim, num_heads * pos_head_dim, bias=False), 0.05)
        self.pos_emb_skip_rate = ScheduledFloat((0.0, 0.5), (4000.0, 0.0))

    def _split(self, proj: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and positional queries of (T, B, H * (2 d_query + d_pos))."""
        heads, query_dim, pos_dim = self.dims
        return proj.split([heads * query_dim, heads * query_dim, heads * pos_dim], dim=-1)

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None = None) -> SharedWeights:
        """Attention weights (H, B, T, T).

        Args:
            x: input (T, B, D). pos_emb: positional encoding (2 T - 1, pos_dim).
            mask: True where a source is hidden, broadcastable to (H, B, T, T).
        """
        proj = self.in_proj(x)
        proj = self.whiten_keys(self.balance_keys(proj, self.key_channels), self.key_channels)
        skip_rate = self.pos_emb_skip_rate()
        skipped = skip_rate > 0.0 and random.random() < skip_rate
        pos = None if skipped else split_positions(self.linear_pos, pos_emb, self.dims[0])
        penalise = self.training and proj.requires_grad and random.random() < PENALTY_PROB
        return attention_weights(self._split(proj), pos, self.dims[0], mask, penalise)

    def streaming_forward(
        self, x: Tensor, pos_emb: Tensor, cached_key: Tensor, mask: Tensor
    ) -> tuple[SharedWeights, Tensor]:
        """Weights (H, B, T, L + T) of a chunk, and the new cache of keys (L, B, H * d_query).

        Args:
            x: chunk (T, B, D). pos_emb: (L + 2 T - 1, pos_dim).
            cached_key: (L, B, H * d_query). mask: True where a source is hidden, (1, B, 1, L + T).
        """
        query, key, pos_query = self._split(self.in_proj(x))
        key = torch.cat([cached_key, key], dim=0)
        pos = split_positions(self.linear_pos, pos_emb, self.dims[0])
        return attention_weights((query, key, pos_query), pos, self.dims[0], mask), key[x.shape[0] :]


class SelfAttention(nn.Module):
    """Applies given attention weights to its own values.

    Args:
        channels: width. num_heads, value_head_dim: heads and their width.
    """

    def __init__(self, channels: int, num_heads: int, value_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(channels, num_heads * value_head_dim)
        self.out_proj = scale_parameters(nn.Linear(num_heads * value_head_dim, channels), 0.05)
        self.whiten = Whiten(1, ScheduledFloat((0.0, 7.5), (20000.0, 22.5), default=7.5), grad_scale=0.01)

    def forward(self, x: Tensor, weights: SharedWeights) -> Tensor:
        """(T, B, D) -> (T, B, D), given weights (H, B, T, T)."""
        attended = weights.apply(split_heads(self.in_proj(x), self.num_heads), self.num_heads)
        return self.whiten(self.out_proj(merge_heads(attended)))

    def streaming_forward(self, x: Tensor, weights: SharedWeights, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) given weights (H, B, T, L + T), and the new cache of values (L, B, H * d_value)."""
        values = torch.cat([cache, self.in_proj(x)], dim=0)
        attended = weights.apply(split_heads(values, self.num_heads), self.num_heads)
        return self.out_proj(merge_heads(attended)), values[x.shape[0] :]


class NonlinAttention(nn.Module):
    """tanh-gated values, mixed over time by the first head's weights, times a second gate.

    Args:
        channels: width. hidden: inner width.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.in_proj = nn.Linear(channels, 3 * hidden)
        self.balancer = Balancer(
            min_positive=ScheduledFloat((0.0, 0.25), (20000.0, 0.05)),
            max_positive=ScheduledFloat((0.0, 0.75), (20000.0, 0.95)),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.out_proj = scale_parameters(nn.Linear(hidden, channels), 0.05)
        self.whiten1 = Whiten(1, ScheduledFloat((0.0, 5.0), (20000.0, 10.0), default=5.0), grad_scale=0.01)
        self.whiten2 = Whiten(1, ScheduledFloat((0.0, 5.0), (20000.0, 15.0), default=5.0), grad_scale=0.01)

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden
        projected = self.balancer(self.in_proj(x), slice(hidden))
        projected = self.whiten1(projected, slice(hidden, 2 * hidden))
        gate, values, out_gate = projected.split(hidden, dim=-1)
        return values * gate.tanh(), out_gate

    def forward(self, x: Tensor, weights: SharedWeights) -> Tensor:
        """(T, B, D) -> (T, B, D), given weights of which the first head's (B, T, T) are used."""
        values, out_gate = self._gates(x)
        mixed = merge_heads(weights.apply(split_heads(values, 1), 1))
        return self.whiten2(self.out_proj(out_gate * mixed))

    def streaming_forward(self, x: Tensor, weights: SharedWeights, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) given weights (H, B, T, L + T), and the new cache (1, B, L, hidden)."""
        values, out_gate = self._gates(x)
        extended = torch.cat([cache, split_heads(values, 1)], dim=2)
        mixed = merge_heads(weights.apply(extended, 1))
        return self.out_proj(out_gate * mixed), extended[:, :, x.shape[0] :]
