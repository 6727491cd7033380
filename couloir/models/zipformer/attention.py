"""Attention whose weights are computed once per layer and shared by three modules."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from couloir.models.zipformer.balancer import Balancer
from couloir.models.zipformer.init import scale_parameters
from couloir.models.zipformer.schedule import ScheduledFloat
from couloir.models.zipformer.whiten import Whiten

MASKED = -1000.0
PENALTY_PROB, PENALTY_LIMIT, PENALTY = 0.1, 25.0, 1.0e-4


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(T, B, H * d) -> (H, B, T, d), a view."""
    frames, batch, width = x.shape
    return x.reshape(frames, batch, num_heads, width // num_heads).permute(2, 1, 0, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(H, B, T, d) -> (T, B, H * d)."""
    heads, batch, frames, width = x.shape
    return x.permute(2, 1, 0, 3).reshape(frames, batch, heads * width)


def _shifted(x: Tensor, sources: int) -> Tensor:
    """View (H, B, T, offsets) as (H, B, T, sources): element (t, s) is the one at offset (T - 1) - t + s."""
    heads, batch, frames, offsets = x.shape
    strides = (batch * frames * offsets, frames * offsets, offsets - 1, 1)
    return x.as_strided((heads, batch, frames, sources), strides, x.storage_offset() + frames - 1)


def _shifted_by_gather(x: Tensor, sources: int) -> Tensor:
    """As `_shifted`, for export: follows the shapes of the exported model's input."""
    heads, batch, frames, _ = x.shape
    target = torch.arange(frames, device=x.device).unsqueeze(1)
    source = torch.arange(sources, device=x.device)
    index = (frames - 1) - target + source
    return x.gather(3, index.expand(heads, batch, frames, sources))


def _scores(query: Tensor, key: Tensor, pos_query: Tensor | None, pos: Tensor | None) -> Tensor:
    """Unmasked attention scores (H, B, T, sources)."""
    heads, batch, frames, _ = query.shape
    scores = torch.matmul(query, key.transpose(2, 3))
    if pos_query is None or pos is None:
        return scores
    by_offset = torch.matmul(pos_query.reshape(heads, batch * frames, -1), pos)
    by_offset = by_offset.view(heads, batch, frames, -1)
    sources = key.shape[2]
    if torch.jit.is_tracing():
        return scores + _shifted_by_gather(by_offset, sources)
    return scores.add_(_shifted(by_offset, sources))


class _AttentionWeights(torch.autograd.Function):
    """softmax(mask(q k + shift(p r))) that keeps the weights and its inputs alone for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, proj: Tensor, pos: Tensor | None, dims: tuple[int, int, int], mask: Tensor | None, penalise: bool
    ) -> Tensor:
        heads = dims[0]
        query, key, pos_query = (split_heads(part, heads) for part in split_projection(proj, dims))
        with torch.amp.autocast(proj.device.type, enabled=False):
            scores = _scores(query, key, pos_query if pos is not None else None, pos)
            penalty = None
            if penalise:
                penalty = (scores > PENALTY_LIMIT).to(torch.int8) - (scores < -PENALTY_LIMIT).to(torch.int8)
            if mask is not None:
                scores.masked_fill_(mask, MASKED)
            weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(proj, pos, weights, penalty)
        ctx.dims = dims
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        proj, pos, weights, penalty = ctx.saved_tensors
        heads = ctx.dims[0]
        query, key, pos_query = (split_heads(part, heads) for part in split_projection(proj, ctx.dims))
        with torch.amp.autocast(proj.device.type, enabled=False):
            score_grad = torch._softmax_backward_data(grads[0], weights, -1, weights.dtype)
            if penalty is not None:
                score_grad.add_(penalty.to(score_grad.dtype), alpha=PENALTY)
            proj_grad = torch.empty_like(proj)
            query_grad, key_grad, pos_query_grad = (
                split_heads(part, heads) for part in split_projection(proj_grad, ctx.dims)
            )
            query_grad.copy_(torch.matmul(score_grad, key))
            key_grad.copy_(torch.matmul(score_grad.transpose(2, 3), query))
            if pos is None:
                pos_query_grad.zero_()
                return proj_grad, None, None, None, None
            _, batch, frames, sources = score_grad.shape
            by_offset = score_grad.new_zeros(heads, batch, frames, pos.shape[2])
            _shifted(by_offset, sources).copy_(score_grad)
            by_offset = by_offset.view(heads, batch * frames, -1)
            pos_query_grad.copy_(torch.matmul(by_offset, pos.transpose(1, 2)).view(heads, batch, frames, -1))
            pos_grad = torch.matmul(pos_query.reshape(heads, batch * frames, -1).transpose(1, 2), by_offset)
        return proj_grad, pos_grad, None, None, None


def split_projection(proj: Tensor, dims: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the queries, keys and positional queries in (T, B, H * (2 d_query + d_pos))."""
    heads, query_dim, pos_dim = dims
    query, key, pos_query = proj.split([heads * query_dim, heads * query_dim, heads * pos_dim], dim=-1)
    return query, key, pos_query


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

    def _positions(self, pos_emb: Tensor) -> Tensor:
        """(offsets, pos_dim) -> (H, d_pos, offsets)."""
        return self.linear_pos(pos_emb).unflatten(1, (self.dims[0], self.dims[2])).permute(1, 2, 0)

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights (H, B, T, T).

        Args:
            x: input (T, B, D). pos_emb: positional encoding (2 T - 1, pos_dim).
            mask: True where a source is hidden, broadcastable to (H, B, T, T).
        """
        proj = self.in_proj(x)
        proj = self.whiten_keys(self.balance_keys(proj, self.key_channels), self.key_channels)
        skip_rate = self.pos_emb_skip_rate()
        pos = None if skip_rate > 0.0 and random.random() < skip_rate else self._positions(pos_emb)
        if torch.is_grad_enabled() and proj.requires_grad:
            penalise = self.training and random.random() < PENALTY_PROB
            return _AttentionWeights.apply(proj, pos, self.dims, mask, penalise)
        query, key, pos_query = (split_heads(part, self.dims[0]) for part in split_projection(proj, self.dims))
        return _masked_softmax(_scores(query, key, pos_query, pos), mask)

    def streaming_forward(self, x: Tensor, pos_emb: Tensor, cached_key: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (H, B, T, L + T) of a chunk, and the new cache of keys (L, B, H * d_query).

        Args:
            x: chunk (T, B, D). pos_emb: (L + 2 T - 1, pos_dim).
            cached_key: (L, B, H * d_query). mask: True where a source is hidden, (1, B, 1, L + T).
        """
        query, key, pos_query = split_projection(self.in_proj(x), self.dims)
        key = torch.cat([cached_key, key], dim=0)
        heads = self.dims[0]
        scores = _scores(
            split_heads(query, heads), split_heads(key, heads), split_heads(pos_query, heads), self._positions(pos_emb)
        )
        return _masked_softmax(scores, mask), key[x.shape[0] :]


def _masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(mask, MASKED)
    return torch.softmax(scores, dim=-1).to(scores.dtype)


class SelfAttention(nn.Module):
    """Applies given attention weights to values of its own.

    Args:
        channels: width. num_heads, value_head_dim: heads and their width.
    """

    def __init__(self, channels: int, num_heads: int, value_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(channels, num_heads * value_head_dim)
        self.out_proj = scale_parameters(nn.Linear(num_heads * value_head_dim, channels), 0.05)
        self.whiten = Whiten(1, ScheduledFloat((0.0, 7.5), (20000.0, 22.5), default=7.5), grad_scale=0.01)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, D), given weights (H, B, T, T)."""
        attended = torch.matmul(weights, split_heads(self.in_proj(x), self.num_heads))
        return self.whiten(self.out_proj(merge_heads(attended)))

    def streaming_forward(self, x: Tensor, weights: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) given weights (H, B, T, L + T), and the new cache of values (L, B, H * d_value)."""
        values = torch.cat([cache, self.in_proj(x)], dim=0)
        attended = torch.matmul(weights, split_heads(values, self.num_heads))
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

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, D), given the first head's weights (B, T, T)."""
        values, out_gate = self._gates(x)
        mixed = torch.bmm(weights, values.transpose(0, 1)).transpose(0, 1)
        return self.whiten2(self.out_proj(out_gate * mixed))

    def streaming_forward(self, x: Tensor, weights: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) given weights (B, T, L + T), and the new cache (1, B, L, hidden)."""
        values, out_gate = self._gates(x)
        extended = torch.cat([cache[0], values.transpose(0, 1)], dim=1)
        mixed = torch.bmm(weights, extended).transpose(0, 1)
        return self.out_proj(out_gate * mixed), extended[:, x.shape[0] :].unsqueeze(0)
