"""One layer of the first-generation Zipformer.

Source: Yao et al. 2024, arXiv:2310.11230, "Zipformer block", describes its successor.

Shapes: T frames, B batch, D model dimension, H heads, A attention dimension, K frames of a kernel, L cached frames.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from couloir.models.common.schedule import ScheduledFloat
from couloir.models.zipformer1.attention import RelPositionMultiheadAttention, whiten
from couloir.models.zipformer1.balancer import ActivationBalancer
from couloir.models.zipformer1.modules import ConvolutionModule, FeedforwardModule, PoolingModule
from couloir.models.zipformer1.norm import BasicNorm

UNCLAMPED_PROB = 0.1


class LayerState(NamedTuple):
    """What a layer remembers of B streams between chunks, in the order of the exported models.

    Attributes:
        cached_len: (B,) int64, frames so far at the stack's rate.
        cached_avg: (B, D) their mean, before the pooling module's projection.
        cached_key: (L, B, A). cached_val, cached_val2: (L, B, A / 2), of the two uses of the weights.
        cached_conv1, cached_conv2: (B, D, K - 1), gated frames.
    """

    cached_len: Tensor
    cached_avg: Tensor
    cached_key: Tensor
    cached_val: Tensor
    cached_val2: Tensor
    cached_conv1: Tensor
    cached_conv2: Tensor


class ZipformerEncoderLayer(nn.Module):
    """Three feed-forwards, pooling, two uses of the attention weights, two convolutions; a bypass around all.

    Args:
        channels: D. attention_dim: A. num_heads: H. feedforward_dim: inner width. kernel: K, odd.
    """

    def __init__(self, channels: int, attention_dim: int, num_heads: int, feedforward_dim: int, kernel: int) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.tensor(0.5))
        self.self_attn = RelPositionMultiheadAttention(channels, attention_dim, num_heads)
        self.pooling = PoolingModule(channels)
        self.feed_forward1 = FeedforwardModule(channels, feedforward_dim)
        self.feed_forward2 = FeedforwardModule(channels, feedforward_dim)
        self.feed_forward3 = FeedforwardModule(channels, feedforward_dim)
        self.conv_module1 = ConvolutionModule(channels, kernel)
        self.conv_module2 = ConvolutionModule(channels, kernel)
        self.norm_final = BasicNorm()
        self.balancer = ActivationBalancer(min_positive=0.45, max_positive=0.55, max_abs=6.0)
        self.whiten = whiten(1, 5.0, grad_scale=0.01)
        self.skip_rate = ScheduledFloat((0.0, 0.2), (2000.0, 0.0))
        self.bypass_min = ScheduledFloat((0.0, 0.75), (20000.0, 0.25))

    def _keeps(self) -> bool:
        """Whether a module takes part in this batch: in training, one that is skipped saves its time too."""
        rate = self.skip_rate()
        return rate == 0.0 or random.random() >= rate

    def _bypass(self, x0: Tensor, x: Tensor) -> Tensor:
        scale: Tensor = self.bypass_scale
        if self.training and random.random() >= UNCLAMPED_PROB:
            scale = scale.clamp(self.bypass_min(), 1.0)
        return torch.lerp(x0, x, scale.to(x.dtype))

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """(T, B, D) -> (T, B, D).

        Args:
            x: input. pos_emb: relative positional encoding (2 T - 1, D).
            mask: True where a source is hidden, broadcastable to (H, B, T, T).
            padding: (T, B, 1), True beyond an item's length.
        """
        x0 = x
        x = x + self.feed_forward1(x)
        if self._keeps():
            x = x + self.pooling(x, padding)
        weights = None
        if self._keeps():
            attended, weights = self.self_attn(x, pos_emb, mask)
            x = x + attended
        if self._keeps():
            x = x + self.conv_module1(x, padding)
        x = x + self.feed_forward2(x)
        if weights is not None:
            x = x + self.self_attn.again(x, weights)
        if self._keeps():
            x = x + self.conv_module2(x, padding)
        x = x + self.feed_forward3(x)
        x = self.norm_final(self.balancer(x))
        whitened: Tensor = self.whiten(self._bypass(x0, x))
        return whitened

    def streaming_forward(
        self, x: Tensor, state: LayerState, pos_emb: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """One chunk.

        Args:
            x: (T, B, D). state: of the frames before it. pos_emb: (L + 2 T - 1, D).
            mask: True where a source is hidden, broadcastable to (H, B, T, L + T).

        Returns:
            (T, B, D) and the new state.
        """
        x0 = x
        x = x + self.feed_forward1(x)
        pooled, count, mean = self.pooling.streaming_forward(x, state.cached_len, state.cached_avg)
        x = x + pooled
        attended, weights, key, val = self.self_attn.streaming_forward(
            x, pos_emb, state.cached_key, state.cached_val, mask
        )
        x = x + attended
        convolved, conv1 = self.conv_module1.streaming_forward(x, state.cached_conv1)
        x = x + convolved
        x = x + self.feed_forward2(x)
        attended, val2 = self.self_attn.streaming_again(x, weights, state.cached_val2)
        x = x + attended
        convolved, conv2 = self.conv_module2.streaming_forward(x, state.cached_conv2)
        x = x + convolved
        x = x + self.feed_forward3(x)
        return self._bypass(x0, self.norm_final(x)), LayerState(count, mean, key, val, val2, conv1, conv2)
