"""One Zipformer layer, and the bypass that it shares with the stacks.

Source: Yao et al. 2024, arXiv:2310.11230, "Zipformer block" and "Bypass".
"""
# Shapes: B batch, D model dimension, H heads, L frames of left context, T frames.

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from couloir.models.common.balancer import Balancer
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import Whiten
from couloir.models.zipformer.attention import MultiheadAttentionWeights, NonlinAttention, SelfAttention, SharedWeights
from couloir.models.zipformer.convolution import ConvolutionModule
from couloir.models.zipformer.feedforward import FeedForward
from couloir.models.zipformer.norm import BiasNorm, limit_param_value

LAYER_STATES = ("cached_key", "cached_nonlin_attn", "cached_val1", "cached_val2", "cached_conv1", "cached_conv2")


@dataclass
class StackContext:
    """What every layer of a stack shares in one call.

    Attributes:
        pos_emb: relative positional encoding (2 T - 1, pos_dim).
        attention_mask: True where a source is hidden, broadcastable to (H, B, T, T).
        padding: (B, T), True beyond an item's length.
        chunk_size: frames of a chunk at the stack's rate; -1 for full context.
        item_lens: (B,) lengths at the stack's rate where chunks must follow each item's own length, else None.
        feature_mask: (1, B, D) of 0 and 1, or None.
    """

    pos_emb: Tensor
    attention_mask: Tensor | None = None
    padding: Tensor | None = None
    chunk_size: int = -1
    item_lens: Tensor | None = None
    feature_mask: Tensor | None = None


def keep_mask(x: Tensor, skip_rate: float) -> Tensor | None:
    """Per-sequence mask (B, 1) that is 0 with probability ``skip_rate``; None if nothing is skipped."""
    if skip_rate == 0.0:
        return None
    return (torch.rand(x.shape[1], 1, device=x.device) > skip_rate).to(x.dtype)


def add_masked(x: Tensor, branch: Tensor, mask: Tensor | None) -> Tensor:
    """x + mask * branch."""
    return x + branch if mask is None else torch.addcmul(x, branch, mask)


class BypassModule(nn.Module):
    """x0 + (x - x0) * scale, with a learnt scale per channel that training keeps within bounds.

    Args:
        channels: width.
        skip_rate: probability per sequence that training passes x0 on.
        scale_min: lower bound of the scale in training; the upper one is 1.
    """

    def __init__(self, channels: int, skip_rate: ScheduledFloat | None = None) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((channels,), 0.5))
        self.skip_rate = skip_rate
        self.scale_min = ScheduledFloat((0.0, 0.9), (20000.0, 0.2))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """(T, B, D), (T, B, D) -> (T, B, D)."""
        scale = self.bypass_scale.to(x.dtype)
        if self.training:
            scale = limit_param_value(scale, self.scale_min(), 1.0)
            mask = keep_mask(x, self.skip_rate()) if self.skip_rate is not None else None
            scale = scale if mask is None else scale * mask
        return torch.lerp(x0, x, scale)


class Zipformer2EncoderLayer(nn.Module):
    """One layer: attention weights, three feed-forwards, non-linear attention, two self-attentions, two convolutions.

    Args:
        channels: width. feedforward_dim: hidden width of the second feed-forward; the others have 3/4 and 5/4.
        num_heads, query_head_dim, pos_head_dim, value_head_dim: attention.
        pos_dim: width of the positional encoding. kernel: of the convolutions, frames.
        causal: chunk-causal convolutions.
    """

    def __init__(
        self,
        channels: int,
        feedforward_dim: int,
        num_heads: int,
        query_head_dim: int,
        pos_head_dim: int,
        value_head_dim: int,
        pos_dim: int,
        kernel: int,
        causal: bool,
    ) -> None:
        super().__init__()
        # Unused since the layer got bypass modules, but part of every checkpoint.
        self.bypass_scale = nn.Parameter(torch.full((channels,), 0.5))
        self.bypass = BypassModule(channels, ScheduledFloat((0.0, 0.5), (4000.0, 0.02)))
        self.bypass_mid = BypassModule(channels)
        self.self_attn_weights = MultiheadAttentionWeights(channels, pos_dim, num_heads, query_head_dim, pos_head_dim)
        self.self_attn1 = SelfAttention(channels, num_heads, value_head_dim)
        self.self_attn2 = SelfAttention(channels, num_heads, value_head_dim)
        self.feed_forward1 = FeedForward(channels, feedforward_dim * 3 // 4)
        self.feed_forward2 = FeedForward(channels, feedforward_dim)
        self.feed_forward3 = FeedForward(channels, feedforward_dim * 5 // 4)
        self.nonlin_attention = NonlinAttention(channels, hidden=3 * channels // 4)
        self.conv_module1 = ConvolutionModule(channels, kernel, causal)
        self.conv_module2 = ConvolutionModule(channels, kernel, causal)
        self.norm = BiasNorm(channels)
        self._add_schedules()

    def _add_schedules(self) -> None:
        self.attention_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.conv_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.const_attention_rate = ScheduledFloat((0.0, 0.25), (4000.0, 0.025))
        self.ff2_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        self.ff3_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        self.balancer1 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0)
        self.balancer2 = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.balancer_na = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.004), (4000.0, 0.02)), 100.0, prob=0.05)
        self.balancer_ff2 = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.1)), 2.0, prob=0.05)
        self.balancer_ff3 = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.2)), 4.0, prob=0.05)
        self.whiten = Whiten(1, ScheduledFloat((0.0, 4.0), (20000.0, 12.0), default=4.0), grad_scale=0.01)

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """(T, B, D) -> (T, B, D)."""
        x0 = x
        weights = self.self_attn_weights(x, context.pos_emb, context.attention_mask)
        attention_mask = keep_mask(x, self.attention_skip_rate())
        conv_rate, chunks = self.conv_skip_rate(), (context.padding, context.chunk_size, context.item_lens)

        x = x + self.feed_forward1(x)
        x = add_masked(x, self.balancer_na(self.nonlin_attention(x, self._maybe_constant(weights))), attention_mask)
        x = add_masked(x, self.self_attn1(x, weights), attention_mask)
        x = add_masked(x, self.conv_module1(x, *chunks), keep_mask(x, conv_rate))
        x = add_masked(x, self.balancer_ff2(self.feed_forward2(x)), keep_mask(x, self.ff2_skip_rate()))
        x = self.bypass_mid(x0, x)
        x = add_masked(x, self.self_attn2(x, weights), attention_mask)
        x = add_masked(x, self.conv_module2(x, *chunks), keep_mask(x, conv_rate))
        x = add_masked(x, self.balancer_ff3(self.feed_forward3(x)), keep_mask(x, self.ff3_skip_rate()))
        x = self.norm(self.balancer1(x))
        x = self.whiten(self.balancer2(self.bypass(x0, x)))
        return x if context.feature_mask is None else x * context.feature_mask

    def _maybe_constant(self, weights: SharedWeights) -> SharedWeights:
        """The weights; in training, at times, uniform ones over the first head's sources in reach."""
        if not self.training or random.random() >= self.const_attention_rate():
            return weights
        uniform = (weights.weights[:1].detach() > 0.0).to(weights.weights.dtype)
        return SharedWeights(uniform / uniform.sum(dim=-1, keepdim=True))

    def streaming_forward(
        self, x: Tensor, states: list[Tensor], pos_emb: Tensor, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """One chunk.

        Args:
            x: (T, B, D). states: the six tensors of `LAYER_STATES`.
            pos_emb: (L + 2 T - 1, pos_dim). mask: (B, L + T), True where a frame is hidden.

        Returns:
            (T, B, D) and the new states.
        """
        x0 = x
        key, nonlin, val1, val2, conv1, conv2 = states
        padding = mask[:, nonlin.shape[2] :]
        weights, key = self.self_attn_weights.streaming_forward(x, pos_emb, key, mask[None, :, None, :])
        x = x + self.feed_forward1(x)
        branch, nonlin = self.nonlin_attention.streaming_forward(x, weights, nonlin)
        x = x + branch
        branch, val1 = self.self_attn1.streaming_forward(x, weights, val1)
        x = x + branch
        branch, conv1 = self.conv_module1.streaming_forward(x, conv1, padding)
        x = x + branch
        x = self.bypass_mid(x0, x + self.feed_forward2(x))
        branch, val2 = self.self_attn2.streaming_forward(x, weights, val2)
        x = x + branch
        branch, conv2 = self.conv_module2.streaming_forward(x, conv2, padding)
        x = x + branch
        x = self.norm(x + self.feed_forward3(x))
        return self.bypass(x0, x), [key, nonlin, val1, val2, conv1, conv2]
