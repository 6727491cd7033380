"""Log-probabilities out of a joiner's logits on CUDA, and their gradient, without a log-softmax in memory.

One program reads one row of the logits once for the log-probabilities and once for the gradient; sums are in float32
(float64 for float64 logits) whatever the logits' dtype.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BLOCK = 2048


@triton.jit
def _logprobs(
    rows: tl.tensor,
    symbols: tl.tensor,
    out_symbol: tl.tensor,
    out_blank: tl.tensor,
    out_normalizer: tl.tensor,
    blank: int,
    vocab: int,
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
        value = tl.load(rows + start + lane, mask=start + lane < vocab, other=float("-inf")).to(dtype)
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
    tl.store(out_symbol + row, tl.where(symbol == safe, by_symbol, float("nan")))
    tl.store(out_blank + row, tl.load(rows + blank).to(dtype) - normalizer)
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
    value = tl.load(rows + row * vocab + column, mask=column < readable, other=float("-inf"))
    softmax = tl.exp(value.to(leaving.dtype) - tl.load(normalizer + row))
    grad = tl.where(column == tl.load(symbols + row), to_symbol, 0.0) - leaving * softmax
    grad += tl.where(column == blank, to_blank, 0.0)
    tl.store(out + row * vocab + column, grad.to(out.dtype.element_ty), mask=inside)


def row_logprobs(rows: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(symbol), log p(blank) and the normalizer, each (N,), of logits ``rows`` (N, V), ``symbols`` (N,)."""
    rows = rows.contiguous()
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    by_symbol, by_blank, normalizer = rows.new_empty((3, rows.shape[0]), dtype=dtype)
    block = _block(rows.shape[1])
    _logprobs[(rows.shape[0],)](
        rows, symbols.contiguous(), by_symbol, by_blank, normalizer, blank, rows.shape[1],
        BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return by_symbol, by_blank, normalizer


def row_gradients(
    rows: Tensor, symbols: Tensor, blank: int, normalizer: Tensor, by_symbol: Tensor, by_blank: Tensor
) -> Tensor:
    """Gradient (N, V) of the logits, in their dtype, from the gradients (N,) of the two log-probabilities."""
    rows = rows.contiguous()
    out = torch.empty_like(rows)
    block = _block(rows.shape[1])
    grid = (rows.shape[0], triton.cdiv(rows.shape[1], block))
    _gradients[grid](
        rows, symbols.contiguous(), normalizer, by_symbol.contiguous(), by_blank.contiguous(), out, blank,
        rows.shape[1], BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return out


def _block(vocab: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(vocab))


def _warps(block: int) -> int:
    return min(8, max(1, block // 256))
