"""Attention whose weights are computed once per layer and shared by three modules.

Source: Yao et al. 2024, arXiv:2310.11230, "Zipformer block" (the sharing) and "Non-linear attention". The weights
by relative position follow Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3, with a query of their own
in place of the biases.
"""
# Shapes: B batch, D model dimension, H heads, L frames of left context, T frames.

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from couloir.models.common.balancer import Balancer
from couloir.models.common.blocks import blocks
from couloir.models.common.init import scale_parameters
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import Whiten

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
    """As `_shifted`, for export and compilation: follows the shapes of the model's input, and needs no strides."""
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
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return scores + _shifted_by_gather(by_offset, sources)
    return scores.add_(_shifted(by_offset, sources))


@dataclass
class SharedWeights:
    """Attention weights, and how the modules that apply them send their gradients back.

    The gradient with respect to the weights is as large as they are, and three modules contribute to it. Instead of
    making and adding up three such tensors, each module leaves the two small factors of its contribution here,
    and the backward pass of the weights multiplies them out, one cache-sized block at a time.

    Attributes:
        weights: (H, B, T, sources).
        token: a zero, through which autograd runs the backward pass of the weights after those of their users.
            None outside autograd.
        factors: (heads, gradient (heads, B, T, d), values (heads, B, sources, d)) of each user.
    """

    weights: Tensor
    token: Tensor | None = None
    factors: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def apply(self, values: Tensor, heads: int) -> Tensor:
        """Mix ``values`` (heads, B, sources, d) by the weights of the first ``heads`` heads: (heads, B, T, d)."""
        if self.token is None:
            return torch.matmul(self.weights[:heads], values)
        return _Attend.apply(values, self.token, self, heads)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, token: Tensor, shared: SharedWeights, heads: int) -> Tensor:
        ctx.save_for_backward(values)
        ctx.shared, ctx.heads = shared, heads
        return torch.matmul(shared.weights[:heads], values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (values,), shared, heads = ctx.saved_tensors, ctx.shared, ctx.heads
        with torch.amp.autocast(values.device.type, enabled=False):
            grad = grads[0].to(values.dtype)
            shared.factors.append((heads, grad, values))
            values_grad = torch.matmul(shared.weights[:heads].transpose(2, 3), grad)
        return values_grad, torch.zeros((), device=values.device), None, None


def _weights_forward(
    proj: Tensor, pos: Tensor | None, dims: tuple[int, int, int], mask: Tensor | None, penalise: bool
) -> tuple[Tensor, Tensor | None]:
    """softmax(mask(q k + shift(p r))) and, if asked for, the signs of the scores that are too large."""
    query, key, pos_query = (split_heads(part, dims[0]).contiguous() for part in split_projection(proj, dims))
    heads, batch, frames, _ = query.shape
    weights = query.new_empty(heads, batch, frames, frames)
    penalty = torch.empty_like(weights, dtype=torch.int8) if penalise else None
    hidden = None if mask is None else mask.expand(heads, batch, -1, frames)
    for at in _attention_blocks(weights):
        scores = weights[at].flatten(0, 1)
        torch.bmm(query[at].flatten(0, 1), key[at].flatten(0, 1).transpose(1, 2), out=scores)
        if pos is not None:
            scores += _shifted(_position_scores(pos_query[at], pos[at[0]]), frames).flatten(0, 1)
        if penalty is not None:
            excess = (scores > PENALTY_LIMIT).to(torch.int8) - (scores < -PENALTY_LIMIT).to(torch.int8)
            penalty[at] = excess.view(penalty[at].shape)
        if hidden is not None:
            weights[at].masked_fill_(hidden[at], MASKED)
        torch.softmax(scores, dim=-1, out=scores)
    return weights, penalty


def _position_scores(pos_query: Tensor, pos: Tensor) -> Tensor:
    """(H, B, T, d), (H, d, offsets) -> (H, B, T, offsets)."""
    return torch.bmm(pos_query.flatten(1, 2), pos).view(*pos_query.shape[:3], -1)


def _attention_blocks(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of heads and of items: on CPU, some items of one head at a time; elsewhere, everything at once."""
    if weights.device.type != "cpu":
        yield slice(None), slice(None)
        return
    for head in range(weights.shape[0]):
        for items in blocks(weights[head]):
            yield slice(head, head + 1), items


class _AttentionWeights(torch.autograd.Function):
    """Makes the token and the weights of `SharedWeights`, and multiplies the factors out in the backward pass.

    It knows the list of factors and not `SharedWeights`, whose token holds it: that would be a cycle through autograd,
    which nothing ever frees.
    """

    @staticmethod
    def forward(
        ctx: Any,
        proj: Tensor,
        pos: Tensor | None,
        dims: tuple[int, int, int],
        mask: Tensor | None,
        penalise: bool,
        factors: list[tuple[int, Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        with torch.amp.autocast(proj.device.type, enabled=False):
            weights, penalty = _weights_forward(proj, pos, dims, mask, penalise)
        ctx.save_for_backward(proj, pos, penalty, weights)
        ctx.mark_non_differentiable(weights)
        ctx.dims, ctx.factors = dims, factors
        return torch.zeros((), device=proj.device), weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        proj, pos, penalty, weights = ctx.saved_tensors
        factors = ctx.factors
        query, key, pos_query = (split_heads(x, ctx.dims[0]).contiguous() for x in split_projection(proj, ctx.dims))
        query_grad, key_grad, pos_query_grad = map(torch.zeros_like, (query, key, pos_query))
        pos_grad = None if pos is None else torch.zeros_like(pos)
        with torch.amp.autocast(proj.device.type, enabled=False):
            for at in _attention_blocks(weights):
                grad = _score_gradient(weights, factors, at)
                if penalty is not None:
                    grad.add_(penalty[at].to(grad.dtype), alpha=PENALTY)
                query_grad[at] = torch.matmul(grad, key[at])
                key_grad[at] = torch.matmul(grad.transpose(2, 3), query[at])
                if pos is None or pos_grad is None:
                    continue
                by_offset = grad.new_zeros(*grad.shape[:3], pos.shape[2])
                _shifted(by_offset, grad.shape[3]).copy_(grad)
                pos_query_grad[at] = _position_scores(by_offset, pos[at[0]].transpose(1, 2))
                pos_grad[at[0]] += torch.bmm(pos_query[at].flatten(1, 2).transpose(1, 2), by_offset.flatten(1, 2))
        factors.clear()
        proj_grad = torch.cat([merge_heads(grad) for grad in (query_grad, key_grad, pos_query_grad)], dim=-1)
        return proj_grad, pos_grad, None, None, None, None


def _score_gradient(weights: Tensor, factors: list[tuple[int, Tensor, Tensor]], at: tuple[slice, slice]) -> Tensor:
    """Gradient of a block of the scores (H, B, T, sources), from the factors that the users left."""
    block = weights[at]
    grad = torch.zeros_like(block)
    first = at[0].start or 0
    for heads, output_grad, values in factors:
        if first < heads:
            used = grad[: heads - first].flatten(0, 1)
            used.baddbmm_(output_grad[at].flatten(0, 1), values[at].flatten(0, 1).transpose(1, 2))
    return torch._softmax_backward_data(grad, block, -1, block.dtype)


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

    def forward(self, x: Tensor, pos_emb: Tensor, mask: Tensor | None = None) -> SharedWeights:
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
            factors: list[tuple[int, Tensor, Tensor]] = []
            token, weights = _AttentionWeights.apply(proj, pos, self.dims, mask, penalise, factors)
            return SharedWeights(weights, token, factors)
        query, key, pos_query = (split_heads(part, self.dims[0]) for part in split_projection(proj, self.dims))
        return SharedWeights(_masked_softmax(_scores(query, key, pos_query, pos), mask))

    def streaming_forward(
        self, x: Tensor, pos_emb: Tensor, cached_key: Tensor, mask: Tensor
    ) -> tuple[SharedWeights, Tensor]:
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
        return SharedWeights(_masked_softmax(scores, mask)), key[x.shape[0] :]


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
