"""Self-attention whose weights a second module uses again.

Source: the sharing is described by Yao et al. 2024, arXiv:2310.11230, "Zipformer block"; the weights by relative
position follow Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3.

Shapes: T frames, B batch, D model dimension, H heads, A attention dimension, L cached frames.
"""

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
from couloir.models.common.init import scale_parameters
from couloir.models.common.whiten import Whiten
from couloir.models.zipformer1.config import POS_HEAD_DIM


def whiten(num_groups: int, limit: float, grad_scale: float) -> Whiten:
    """The whitening of this generation: one active call in four moves its probability."""
    return Whiten(num_groups, limit, grad_scale, review_prob=0.25)


class RelPositionMultiheadAttention(nn.Module):
    """Queries, keys, values and positional queries of one projection; and values for a second use of the weights.

    Values are half as wide as queries and keys, A / 2 for all heads together.

    Args:
        channels: D. attention_dim: A. num_heads: H.
    """

    def __init__(self, channels: int, attention_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        values = attention_dim // 2
        self.widths = [attention_dim, attention_dim, values, num_heads * POS_HEAD_DIM]
        self.in_proj = scale_parameters(nn.Linear(channels, sum(self.widths)), (attention_dim // num_heads) ** -0.25)
        self.linear_pos = scale_parameters(nn.Linear(channels, num_heads * POS_HEAD_DIM, bias=False), 0.05)
        self.out_proj = scale_parameters(nn.Linear(values, channels), 0.05)
        self.in_proj2 = nn.Linear(channels, values, bias=False)
        self.out_proj2 = scale_parameters(nn.Linear(values, channels), 0.05)
        self.whiten_keys = whiten(num_heads, 2.0, grad_scale=0.025)
        self.whiten_values = whiten(num_heads, 2.0, grad_scale=0.025)
        self.whiten_values2 = whiten(num_heads, 2.0, grad_scale=0.025)

    def _attend(self, values: Tensor, weights: SharedWeights, out_proj: nn.Module) -> Tensor:
        attended: Tensor = out_proj(merge_heads(weights.apply(split_heads(values, self.num_heads), self.num_heads)))
        return attended

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None = None) -> tuple[Tensor, SharedWeights]:
        """(T, B, D) -> (T, B, D), and the weights (H, B, T, T).

        Args:
            x: input. pos_emb: relative positional encoding (2 T - 1, D).
            mask: True where a source is hidden, broadcastable to (H, B, T, T).
        """
        query, key, values, pos_query = self.in_proj(x).split(self.widths, dim=-1)
        key, values = self.whiten_keys(key), self.whiten_values(values)
        pos = split_positions(self.linear_pos, pos_emb, self.num_heads)
        penalise = self.training and query.requires_grad and random.random() < PENALTY_PROB
        weights = attention_weights((query, key, pos_query), pos, self.num_heads, mask, penalise)
        return self._attend(values, weights, self.out_proj), weights

    def again(self, x: Tensor, weights: SharedWeights) -> Tensor:
        """The second use: (T, B, D) -> (T, B, D) by given weights (H, B, T, T)."""
        return self._attend(self.whiten_values2(self.in_proj2(x)), weights, self.out_proj2)

    def streaming_forward(
        self, x: Tensor, pos_emb: Tensor, cached_key: Tensor, cached_val: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, SharedWeights, Tensor, Tensor]:
        """One chunk (T, B, D) -> (T, B, D), the weights (H, B, T, L + T), and the new caches.

        Args:
            x: input. pos_emb: (L + 2 T - 1, D). cached_key: (L, B, A). cached_val: (L, B, A / 2).
            mask: True where a source is hidden, broadcastable to (H, B, T, L + T).
        """
        query, key, values, pos_query = self.in_proj(x).split(self.widths, dim=-1)
        key, values = torch.cat([cached_key, key]), torch.cat([cached_val, values])
        pos = split_positions(self.linear_pos, pos_emb, self.num_heads)
        weights = attention_weights((query, key, pos_query), pos, self.num_heads, mask)
        frames = x.shape[0]
        return self._attend(values, weights, self.out_proj), weights, key[frames:], values[frames:]

    def streaming_again(self, x: Tensor, weights: SharedWeights, cached_val: Tensor) -> tuple[Tensor, Tensor]:
        """The second use for a chunk (T, B, D), and the new cache (L, B, A / 2)."""
        values = torch.cat([cached_val, self.in_proj2(x)])
        return self._attend(values, weights, self.out_proj2), values[x.shape[0] :]
