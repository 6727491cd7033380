"""From scores to the lattice's log-probabilities px (symbols) and py (blanks), with written-out gradients.

Two sources: the simple joiner, where a logit is the sum of a predictor score and an encoder score, so that no (S, T, V)
tensor is needed; and a real joiner's logits, in a band of the lattice or all of it. Both work in float32 (or float64,
if they are given that), whatever autocast says.

Legend: B batch, T frames, S symbols, R rows of the band, V vocabulary.
"""
# Shapes: B batch, N rows, R symbols of the band, S symbols, T frames, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from couloir.losses import kernels

NEG_INF = float("-inf")
CHUNK_ELEMENTS = 1 << 18
"""Elements of the logits that are worked on at a time: 1 MiB in float32, so that a chunk stays in the cache."""
LEAST_PRODUCT = 1e-30
"""Below this, that is where lm and am disagree by 70 nats, float32 runs out of exponent and float64 takes over."""


class Smoothing(NamedTuple):
    """How the simple joiner's log-probabilities are mixed: the scales of lm alone and of am alone."""

    lm_only: float
    am_only: float

    @property
    def joint(self) -> float:
        """The scale of lm + am."""
        return 1.0 - self.lm_only - self.am_only


def working_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


# --- the simple joiner -----------------------------------------------------------------------------------------------


def simple_logprobs(
    lm: Tensor, am: Tensor, symbols: Tensor, blank: int, smoothing: Smoothing, lm_rows: Tensor
) -> tuple[Tensor, Tensor]:
    """px (B, S, T) and py (B, S+1, T) of ``lm`` (B, S+1, V) plus ``am`` (B, T, V).

    ``lm_rows`` (B, S+1) bool: the rows that count for the mean unigram, which ``smoothing.am_only`` needs.
    """
    with torch.autocast(lm.device.type, enabled=False):
        dtype = torch.promote_types(working_dtype(lm), working_dtype(am))
        return _Simple.apply(lm.to(dtype), am.to(dtype), symbols, blank, smoothing, lm_rows)


class _Exp(NamedTuple):
    """exp(scores - max) and the subtracted maximum (B, rows, 1)."""

    exp: Tensor
    top: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> _Exp:
        top = scores.amax(dim=2, keepdim=True)
        return cls((scores - top).exp_(), top)


class _Simple(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, lm: Tensor, am: Tensor, symbols: Tensor, blank: int, smoothing: Smoothing, lm_rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype, ctx.blank, ctx.smoothing = lm.dtype, blank, smoothing
        lm_exp, am_exp, product = _exponentials(lm, am)
        if product.dtype == torch.float32 and bool((product < LEAST_PRODUCT).any()):
            lm, am = lm.double(), am.double()
            lm_exp, am_exp, product = _exponentials(lm, am)
        normalizer = (product.log() + lm_exp.top).add_(am_exp.top.transpose(1, 2)).mul_(smoothing.joint)
        am_scale = 1.0 - smoothing.lm_only
        py = am_scale * am[:, None, :, blank] - normalizer
        px = am.transpose(1, 2).gather(1, _per_frame(symbols, am)).mul_(am_scale).sub_(normalizer[:, :-1])

        lm_sum = lm_exp.exp.sum(dim=2, keepdim=True)
        lm_part = -smoothing.lm_only * (lm_sum.log() + lm_exp.top)
        lm_scale = 1.0 - smoothing.am_only
        py += lm_part + lm_scale * lm[:, :, blank, None]
        px += lm_part[:, :-1] + lm_scale * lm[:, :-1].gather(2, symbols[:, :, None])

        unigram = am_sum = None
        if smoothing.am_only != 0:
            unigram = _mean_unigram(lm_exp.exp / lm_sum, lm_rows)
            am_sum = am_exp.exp @ unigram  # (B, T)
            am_part = (am_sum.log() + am_exp.top[:, :, 0])[:, None]
            py += smoothing.am_only * (unigram[blank].log() - am_part)
            px += smoothing.am_only * (unigram[symbols].log()[:, :, None] - am_part)
        ctx.save_for_backward(lm_exp.exp, am_exp.exp, product, lm_sum, unigram, am_sum, symbols, lm_rows)
        return px.to(ctx.dtype), py.to(ctx.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_px: Tensor, grad_py: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        with torch.autocast(grad_px.device.type, enabled=False):
            working = ctx.saved_tensors[0].dtype
            grad_lm, grad_am = _simple_gradients(ctx, grad_px.to(working), grad_py.to(working))
        return grad_lm.to(ctx.dtype), grad_am.to(ctx.dtype), None, None, None, None


def _simple_gradients(ctx: Any, grad_px: Tensor, grad_py: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (B, S+1, V) of lm and (B, T, V) of am: first of all that is normalized, then of the numerators."""
    lm_exp, am_exp, product, lm_sum, unigram, am_sum, symbols, lm_rows = ctx.saved_tensors
    blank, smoothing = ctx.blank, ctx.smoothing
    leaving = grad_py.clone()  # (B, S+1, T): what leaves each node, by symbol or by blank
    leaving[:, :-1] += grad_px
    ratio = (leaving / product).mul_(-smoothing.joint)
    grad_lm = torch.bmm(ratio, am_exp).sub_(smoothing.lm_only * leaving.sum(dim=2, keepdim=True) / lm_sum)
    grad_am = torch.bmm(ratio.transpose(1, 2), lm_exp)
    if unigram is not None:
        weight = leaving.sum(dim=1) / am_sum  # (B, T)
        grad_am.addcmul_(weight[:, :, None], unigram, value=-smoothing.am_only)
        grad_unigram = -torch.einsum("bt,btv->v", weight, am_exp)
        grad_unigram[blank] += grad_py.sum() / unigram[blank]
        grad_unigram.index_add_(0, symbols.flatten(), (grad_px.sum(dim=2) / unigram[symbols]).flatten())
        grad_unigram.mul_(smoothing.am_only).div_(lm_rows.sum())
        inner = (lm_exp @ grad_unigram)[:, :, None] / lm_sum
        grad_lm += (grad_unigram - inner) * lm_rows[:, :, None] / lm_sum
    grad_lm.mul_(lm_exp)
    grad_am.mul_(am_exp)

    lm_scale, am_scale = 1.0 - smoothing.am_only, 1.0 - smoothing.lm_only
    grad_lm[:, :, blank] += lm_scale * grad_py.sum(dim=2)
    grad_lm[:, :-1].scatter_add_(2, symbols[:, :, None], lm_scale * grad_px.sum(dim=2, keepdim=True))
    grad_am[:, :, blank] += am_scale * grad_py.sum(dim=1)
    by_frame = (grad_px * am_scale).transpose(1, 2)
    grad_am.scatter_add_(2, symbols[:, None].expand_as(by_frame), by_frame)
    return grad_lm, grad_am


def _per_frame(symbols: Tensor, am: Tensor) -> Tensor:
    """Symbols (B, S) as an index (B, S, T) into am (B, V, T)."""
    return symbols[:, :, None].expand(*symbols.shape, am.shape[1])


def _exponentials(lm: Tensor, am: Tensor) -> tuple[_Exp, _Exp, Tensor]:
    """Of each, exp(scores - max); and sum_v of their product, (B, S+1, T), never zero."""
    lm_exp, am_exp = _Exp.of(lm), _Exp.of(am)
    product = torch.bmm(lm_exp.exp, am_exp.exp.transpose(1, 2))
    return lm_exp, am_exp, product.clamp_(min=torch.finfo(product.dtype).tiny)


def _mean_unigram(softmax: Tensor, rows: Tensor) -> Tensor:
    """Mean of ``softmax`` (B, S+1, V) over the rows that count, (V,)."""
    mean = torch.einsum("bsv,bs->v", softmax, rows.to(softmax.dtype)) / rows.sum()
    return mean.clamp_(min=torch.finfo(mean.dtype).tiny)


# --- a joiner's logits -----------------------------------------------------------------------------------------------


def joiner_logprobs(
    logits: Tensor, symbols: Tensor, blank: int, ranges: Tensor | None = None, hat: bool = False
) -> tuple[Tensor, Tensor]:
    """px (B, S, T) and py (B, S+1, T) of ``logits`` (B, T, R, V); -inf outside the band.

    ``ranges`` (B, T, R) int64 says which row of the lattice each row of the logits is; None means all, R = S+1.
    A row is a log-softmax; with ``hat`` the blank is a sigmoid of its own logit and the others share the rest by a
    softmax among themselves (Variani et al. 2020, arXiv:2003.07705, eq. 5).
    Besides the logits and, in the backward pass, their gradient (both in the logits' dtype) nothing larger than
    (B, T, S+1) is made.
    """
    if ranges is None:
        ranges = torch.arange(logits.shape[2], device=logits.device).expand(logits.shape[:3])
    return _Joiner.apply(logits, symbols, blank, ranges, hat)


class _Joiner(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, logits: Tensor, symbols: Tensor, blank: int, ranges: Tensor, hat: bool
    ) -> tuple[Tensor, Tensor]:
        batch, num_symbols = symbols.shape
        # The last row of the lattice emits nothing; its symbol is a stand-in that is dropped below.
        padded = torch.nn.functional.pad(symbols, (0, 1), value=blank)
        row_symbols = padded[:, None].expand(-1, ranges.shape[1], -1).gather(2, ranges)  # (B, T, R)
        by_symbol, by_blank, normalizer = _row_logprobs(logits.flatten(0, 2), row_symbols.flatten(), blank, hat)
        lattice = by_blank.new_full((2, batch, ranges.shape[1], num_symbols + 1), NEG_INF)
        lattice[0].scatter_(2, ranges, by_symbol.view_as(ranges))
        lattice[1].scatter_(2, ranges, by_blank.view_as(ranges))
        ctx.save_for_backward(logits, row_symbols, ranges, normalizer)
        ctx.blank, ctx.hat = blank, hat
        px, py = lattice.transpose(2, 3)
        return px[:, :-1], py

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_px: Tensor, grad_py: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits, row_symbols, ranges, normalizer = ctx.saved_tensors
        by_symbol = torch.nn.functional.pad(grad_px, (0, 0, 0, 1)).transpose(1, 2).gather(2, ranges).flatten()
        by_blank = grad_py.transpose(1, 2).gather(2, ranges).flatten()
        rows = logits.flatten(0, 2)
        grad = _row_gradients(rows, row_symbols.flatten(), ctx.blank, normalizer, by_symbol, by_blank, ctx.hat)
        return grad.view_as(logits), None, None, None, None


def _row_logprobs(rows: Tensor, symbols: Tensor, blank: int, hat: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """log p(symbol), log p(blank) and the normalizer, each (N,), of logits ``rows`` (N, V).

    With ``hat`` the normalizer is that of the symbols without blank.
    """
    if kernels.usable(rows):
        from couloir.losses.kernels.logits import row_logprobs

        return row_logprobs(rows, symbols, blank, hat)
    by_symbol, by_blank, normalizer = rows.new_empty((3, rows.shape[0]), dtype=working_dtype(rows))
    for part in _chunks(rows):
        chunk = rows[part].to(normalizer.dtype)
        if hat:
            blank_logit, target = chunk[:, blank], symbols[part]
            labels = chunk.gather(1, target[:, None])[:, 0]
            normalizer[part] = chunk.index_fill(1, rows.new_tensor([blank], dtype=torch.int64), NEG_INF).logsumexp(1)
            by_blank[part] = torch.nn.functional.logsigmoid(blank_logit)
            labels += torch.nn.functional.logsigmoid(-blank_logit) - normalizer[part]
            by_symbol[part] = torch.where(target == blank, by_blank[part], labels)
            continue
        logprobs = torch.log_softmax(chunk, dim=1)
        by_symbol[part] = logprobs.gather(1, symbols[part, None])[:, 0]
        by_blank[part] = logprobs[:, blank]
        normalizer[part] = chunk[:, blank] - logprobs[:, blank]
    return by_symbol, by_blank, normalizer


def _row_gradients(
    rows: Tensor, symbols: Tensor, blank: int, normalizer: Tensor, by_symbol: Tensor, by_blank: Tensor,
    hat: bool = False,
) -> Tensor:  # fmt: skip
    """Gradient (N, V) of the logits, in their dtype, from the gradients (N,) of the two log-probabilities."""
    if kernels.usable(rows):
        from couloir.losses.kernels.logits import row_gradients

        return row_gradients(rows, symbols, blank, normalizer, by_symbol, by_blank, hat)
    grad = torch.empty_like(rows)
    leaving = -(by_symbol + by_blank)
    for part in _chunks(rows):
        chunk = rows[part].to(normalizer.dtype)
        if hat:
            stays = torch.sigmoid(chunk[:, blank]) * leaving[part]
            chunk = (chunk - normalizer[part, None]).exp_()
            chunk.mul_(-by_symbol[part].masked_fill(symbols[part] == blank, 0.0)[:, None])
            chunk[:, blank] = stays
        else:
            chunk = torch.softmax(chunk, dim=1).mul_(leaving[part, None])
        chunk.scatter_add_(1, symbols[part, None], by_symbol[part, None])
        chunk[:, blank] += by_blank[part]
        grad[part] = chunk
    return grad


def _chunks(rows: Tensor) -> Iterator[slice]:
    per_chunk = max(1, CHUNK_ELEMENTS // rows.shape[1])
    return (slice(start, start + per_chunk) for start in range(0, rows.shape[0], per_chunk))
