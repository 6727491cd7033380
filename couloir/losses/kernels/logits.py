"""Log-probabilities out of a joiner's logits on CUDA, and their gradient, without a log-softmax in memory.

One program reads one row of the logits once for the log-probabilities and once for the gradient; sums are in float32
(float64 for float64 logits) whatever the logits' dtype. HAT: the blank is a sigmoid of its own logit, and the
normalizer is that of the other symbols.
"""
# Shapes: N rows, V vocabulary.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BLOCK = 2048


@triton.jit
def _log_sigmoid(x: tl.tensor):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _logprobs(
    rows: tl.tensor,
    symbols: tl.tensor,
    out_symbol: tl.tensor,
    out_blank: tl.tensor,
    out_normalizer: tl.tensor,
    blank: int,
    vocab: int,
    HAT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    rows += row * vocab
    dtype = out_symbol.dtype.element_ty
    lane = tl.arange(0, BLOCK)
    # Each lane keeps its own running maximum and sum; they meet once, at the end.
    top = tl.full((BLOCK,), float("-inf"), dtype)
    total = tl.zeros((BLOCK,), dtype)
    for start in range(0, vocab, BLOCK):
        there = start + lane < vocab
        if HAT:
            there = there & (start + lane != blank)
        value = tl.load(rows + start + lane, mask=there, other=float("-inf")).to(dtype)
        new_top = tl.maximum(top, value)
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - safe) + tl.exp(value - safe)
        top = new_top
    high = tl.max(top, axis=0)
    normalizer = high + tl.log(tl.sum(total * tl.exp(top - high), axis=0))
    symbol = tl.load(symbols + row)
    # A symbol outside the vocabulary gives NaN, which a trainer notices, rather than another row's logit.
    safe = tl.minimum(tl.maximum(symbol, 0), vocab - 1)
    by_symbol = tl.load(rows + safe).to(dtype) - normalizer
    by_blank = tl.load(rows + blank).to(dtype)
    if HAT:
        by_symbol = tl.where(symbol == blank, _log_sigmoid(by_blank), by_symbol + _log_sigmoid(-by_blank))
        by_blank = _log_sigmoid(by_blank)
    else:
        by_blank -= normalizer
    tl.store(out_symbol + row, tl.where(symbol == safe, by_symbol, float("nan")))
    tl.store(out_blank + row, by_blank)
    tl.store(out_normalizer + row, normalizer)


@triton.jit
def _gradients(
    rows: tl.tensor,
    symbols: tl.tensor,
    normalizer: tl.tensor,
    by_symbol: tl.tensor,
    by_blank: tl.tensor,
    out: tl.tensor,
    blank: int,
    vocab: int,
    HAT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    column = start + tl.arange(0, BLOCK)
    inside = column < vocab
    to_symbol = tl.load(by_symbol + row)
    to_blank = tl.load(by_blank + row)
    leaving = to_symbol + to_blank
    # Rows that no path uses (padding, above all) need not be read.
    readable = tl.where(leaving != 0, vocab, 0)
    value = tl.load(rows + row * vocab + column, mask=column < readable, other=float("-inf")).to(leaving.dtype)
    symbol = tl.load(symbols + row)
    weight = leaving
    if HAT:
        weight = tl.where(symbol == blank, 0.0, to_symbol)
    share = weight * tl.exp(value - tl.load(normalizer + row))
    if HAT:
        share = tl.where(column == blank, leaving / (1.0 + tl.exp(-value)), share)
    grad = tl.where(column == symbol, to_symbol, 0.0) - share
    grad += tl.where(column == blank, to_blank, 0.0)
    tl.store(out + row * vocab + column, grad.to(out.dtype.element_ty), mask=inside)


def row_logprobs(rows: Tensor, symbols: Tensor, blank: int, hat: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """log p(symbol), log p(blank) and the normalizer, each (N,), of logits ``rows`` (N, V), ``symbols`` (N,)."""
    rows = rows.contiguous()
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    by_symbol, by_blank, normalizer = rows.new_empty((3, rows.shape[0]), dtype=dtype)
    block = _block(rows.shape[1])
    _logprobs[(rows.shape[0],)](
        rows, symbols.contiguous(), by_symbol, by_blank, normalizer, blank, rows.shape[1],
        HAT=hat, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return by_symbol, by_blank, normalizer


def row_gradients(
    rows: Tensor, symbols: Tensor, blank: int, normalizer: Tensor, by_symbol: Tensor, by_blank: Tensor,
    hat: bool = False,
) -> Tensor:  # fmt: skip
    """Gradient (N, V) of the logits, in their dtype, from the gradients (N,) of the two log-probabilities."""
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    block = _block(rows.shape[1])
    grid = (rows.shape[0], triton.cdiv(rows.shape[1], block))
    _gradients[grid](
        rows, symbols.contiguous(), normalizer, by_symbol.contiguous(), by_blank.contiguous(), out, blank,
        rows.shape[1], HAT=hat, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return out


def _block(vocab: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(vocab))


def _warps(block: int) -> int:
    return min(8, max(1, block // 256))
