"""Attention with weights by relative position, computed once and applied by several modules.

Source: the weights by relative position follow Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3, with a
query of their own in place of the biases; the sharing is that of Yao et al. 2024 (arXiv:2310.11230), "Zipformer block".

Shapes: T frames, B batch, H heads, d width of a head, "sources" the frames that are attended to, "offsets" the
distances between frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from couloir.models.common.blocks import blocks

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


def _scores(query: Tensor, key: Tensor, pos_query: Tensor, pos: Tensor | None) -> Tensor:
    """Unmasked attention scores (H, B, T, sources)."""
    heads, batch, frames, _ = query.shape
    scores = torch.matmul(query, key.transpose(2, 3))
    if pos is None:
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
    parts: Sequence[Tensor], pos: Tensor | None, mask: Tensor | None, penalise: bool
) -> tuple[Tensor, Tensor | None]:
    """softmax(mask(q k + shift(p r))) and, if asked for, the signs of the scores that are too large."""
    query, key, pos_query = parts
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
        query: Tensor,
        key: Tensor,
        pos_query: Tensor,
        pos: Tensor | None,
        num_heads: int,
        mask: Tensor | None,
        penalise: bool,
        factors: list[tuple[int, Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        with torch.amp.autocast(query.device.type, enabled=False):
            parts = _contiguous_heads((query, key, pos_query), num_heads)
            weights, penalty = _weights_forward(parts, pos, mask, penalise)
        ctx.save_for_backward(query, key, pos_query, pos, penalty, weights)
        ctx.mark_non_differentiable(weights)
        ctx.num_heads, ctx.factors = num_heads, factors
        return torch.zeros((), device=query.device), weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *projected, pos, penalty, weights = ctx.saved_tensors
        factors = ctx.factors
        query, key, pos_query = _contiguous_heads(projected, ctx.num_heads)
        query_grad, key_grad, pos_query_grad = map(torch.zeros_like, (query, key, pos_query))
        pos_grad = None if pos is None else torch.zeros_like(pos)
        with torch.amp.autocast(query.device.type, enabled=False):
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
        merged = (merge_heads(grad) for grad in (query_grad, key_grad, pos_query_grad))
        return (*merged, pos_grad, None, None, None, None)


def _contiguous_heads(projected: Sequence[Tensor], num_heads: int) -> list[Tensor]:
    return [split_heads(part, num_heads).contiguous() for part in projected]


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


def attention_weights(
    projected: Sequence[Tensor], pos: Tensor | None, num_heads: int, mask: Tensor | None, penalise: bool = False
) -> SharedWeights:
    """softmax(q k + p r) of the unmasked sources. Scores are not divided by the root of the head width.

    Args:
        projected: queries and positional queries of T frames, keys of all sources: (T, B, H * d), (sources, B, H * d),
            (T, B, H * d_pos), in the order query, key, positional query.
        pos: (H, d_pos, offsets) projected positions, in order of the offset source - target; None: without.
        num_heads: H. mask: True where a source is hidden, broadcastable to (H, B, T, sources).
        penalise: add a small gradient to scores beyond `PENALTY_LIMIT`, where the sources are the T frames.
    """
    query, key, pos_query = projected
    if torch.is_grad_enabled() and query.requires_grad and query.shape == key.shape:
        factors: list[tuple[int, Tensor, Tensor]] = []
        token, weights = _AttentionWeights.apply(query, key, pos_query, pos, num_heads, mask, penalise, factors)
        return SharedWeights(weights, token, factors)
    query, key, pos_query = (split_heads(part, num_heads) for part in projected)
    scores = _scores(query, key, pos_query, pos)
    if mask is not None:
        scores = scores.masked_fill(mask, MASKED)
    return SharedWeights(torch.softmax(scores, dim=-1).to(scores.dtype))


def split_positions(linear_pos: nn.Linear, pos_emb: Tensor, num_heads: int) -> Tensor:
    """Project a positional encoding (offsets, C) to (H, d_pos, offsets)."""
    return linear_pos(pos_emb).unflatten(1, (num_heads, -1)).permute(1, 2, 0)


def chunk_mask(frames: int, chunk_size: int, left_chunks: int, device: torch.device) -> Tensor:
    """Attention mask (frames, frames), True where the source is in a later chunk or too many chunks before.

    Args:
        frames: frames. chunk_size: frames. left_chunks: chunks that stay in reach; -1 for all.
    """
    chunk = torch.div(torch.arange(frames, device=device), chunk_size, rounding_mode="floor")
    target, source = chunk[:, None], chunk[None, :]
    hidden = source > target
    return hidden if left_chunks < 0 else hidden | (source < target - left_chunks)
