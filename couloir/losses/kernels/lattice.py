"""The transducer lattice on CUDA: the sums of `couloir.losses.rnnt_lattice`, row by row.

One program walks one lattice, one symbol after another. Within a row the recursion over frames,
a[t] = logadd(enter[t], a[t-1] + py[t-1]), composes maps x -> logadd(enter, x + shift), and composition is associative:
a parallel scan does the row, and the row stays in registers for the next one. Backward it is the same with maps
x -> enter + x * share.

In the modified lattice a symbol takes a frame, so row s cannot start before frame s: lane j of row s holds frame
j + s, and what a lane hands to the next row is again its own. Rows and frames count from the item's begin.
"""
# Shapes: B batch.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _log_add(a: tl.tensor, b: tl.tensor):
    high = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    # Both -inf would give NaN in the difference.
    gap = tl.where(a == b, 0.0, tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL) - high)
    return high + tl.log(1.0 + tl.exp(gap))


@triton.jit
def _then_log(shift_1: tl.tensor, enter_1: tl.tensor, shift_2: tl.tensor, enter_2: tl.tensor):
    return shift_1 + shift_2, _log_add(enter_1 + shift_2, enter_2)


@triton.jit
def _then(share_1: tl.tensor, enter_1: tl.tensor, share_2: tl.tensor, enter_2: tl.tensor):
    return share_1 * share_2, enter_1 * share_2 + enter_2


@triton.jit
def _share(a: tl.tensor, b: tl.tensor):
    """Share of exp(a) in exp(a) + exp(b); nought for a cell that nothing reaches."""
    return tl.where(a == float("-inf"), 0.0, 1.0 / (1.0 + tl.exp(b - a)))


@triton.jit
def _term(alpha: tl.tensor, move: tl.tensor, there: tl.tensor):
    """What arrives by a move: the variable it comes from plus its log-probability, -inf outside."""
    return tl.load(alpha, mask=there, other=float("-inf")) + tl.load(move, mask=there, other=float("-inf"))


@triton.jit
def _forward(
    px: tl.tensor,
    py: tl.tensor,
    boundary: tl.tensor,
    alpha: tl.tensor,
    num_symbols: int,
    num_frames: int,
    TAKES_FRAME: tl.constexpr,
    LANES: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    s_begin, t_begin = tl.load(boundary + item * 4), tl.load(boundary + item * 4 + 1)
    s_span, t_span = tl.load(boundary + item * 4 + 2) - s_begin, tl.load(boundary + item * 4 + 3) - t_begin
    px_row, alpha_row = num_frames + 1 - TAKES_FRAME, num_frames + 1
    px += (item * num_symbols + s_begin) * px_row + t_begin
    py += (item * (num_symbols + 1) + s_begin) * num_frames + t_begin
    alpha += (item * (num_symbols + 1) + s_begin) * alpha_row + t_begin

    lane = tl.arange(0, LANES)
    enter = tl.where(lane == 0, 0.0, float("-inf")).to(alpha.dtype.element_ty)
    for s in range(s_span + 1):
        t = lane + s * TAKES_FRAME
        if s > 0:
            enter += tl.load(px + (s - 1) * px_row + t - TAKES_FRAME, mask=t <= t_span, other=float("-inf"))
        shift = tl.load(py + s * num_frames + t - 1, mask=(lane > 0) & (t <= t_span), other=float("-inf"))
        _, enter = tl.associative_scan((shift, enter), 0, _then_log)
        tl.store(alpha + s * alpha_row + t, enter, mask=t <= t_span)


@triton.jit
def _backward(
    px: tl.tensor,
    py: tl.tensor,
    boundary: tl.tensor,
    alpha: tl.tensor,
    px_grad: tl.tensor,
    py_grad: tl.tensor,
    num_symbols: int,
    num_frames: int,
    TAKES_FRAME: tl.constexpr,
    LANES: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    s_begin, t_begin = tl.load(boundary + item * 4), tl.load(boundary + item * 4 + 1)
    s_span, t_span = tl.load(boundary + item * 4 + 2) - s_begin, tl.load(boundary + item * 4 + 3) - t_begin
    px_row, alpha_row = num_frames + 1 - TAKES_FRAME, num_frames + 1
    px_item = (item * num_symbols + s_begin) * px_row + t_begin
    py_item = (item * (num_symbols + 1) + s_begin) * num_frames + t_begin
    alpha += (item * (num_symbols + 1) + s_begin) * alpha_row + t_begin

    lane = tl.arange(0, LANES)
    enter = tl.where(lane + s_span * TAKES_FRAME == t_span, 1.0, 0.0).to(alpha.dtype.element_ty)
    for step in range(s_span + 1):
        s = s_span - step
        t = lane + s * TAKES_FRAME
        last = tl.where(s > 0, t_span, -1)  # row 0 is entered by no symbol
        # The two terms of the cell one frame on, of which this cell is the source by blank.
        on = t + 1
        source, move = (s - 1) * alpha_row + on - TAKES_FRAME, px_item + (s - 1) * px_row + on - TAKES_FRAME
        by_symbol = _term(alpha + source, px + move, on <= last)
        by_blank = _term(alpha + s * alpha_row + t, py + py_item + s * num_frames + t, on <= t_span)
        _, passing = tl.associative_scan((_share(by_blank, by_symbol), enter), 0, _then, reverse=True)
        # The two terms of this cell: what passes through it came by them.
        source, move = (s - 1) * alpha_row + t - TAKES_FRAME, px_item + (s - 1) * px_row + t - TAKES_FRAME
        by_symbol = _term(alpha + source, px + move, t <= last)
        wait, from_left = py_item + s * num_frames + t - 1, (lane > 0) & (t <= t_span)
        by_blank = _term(alpha + s * alpha_row + t - 1, py + wait, from_left)
        enter = passing * _share(by_symbol, by_blank)
        tl.store(px_grad + move, enter, mask=t <= last)
        tl.store(py_grad + wait, passing * _share(by_blank, by_symbol), mask=from_left)


def walk(px: Tensor, py: Tensor, boundary: Tensor, wants_grad: bool) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Scores (B,) and, if wanted, occupations shaped as px and py, as `couloir.losses.rnnt_lattice.walk`."""
    px, py = px.contiguous(), py.contiguous()
    batch, rows, num_frames = py.shape
    # A boundary outside the lattice must not become a write outside of it; it is reported where scores are read.
    inside = torch.minimum(boundary.clamp(min=0), boundary.new_tensor([rows - 1, num_frames] * 2)).contiguous()
    alpha = py.new_full((batch, rows, num_frames + 1), float("-inf"))
    lanes = triton.next_power_of_2(num_frames + 1)
    sizes = (rows - 1, num_frames)
    options = {
        "TAKES_FRAME": int(px.shape[2] == num_frames), "LANES": lanes, "num_warps": min(16, max(1, lanes // 128)),
    }  # fmt: skip
    _forward[(batch,)](px, py, inside, alpha, *sizes, **options)
    scores = alpha[torch.arange(batch, device=px.device), boundary[:, 2], boundary[:, 3]]
    if not wants_grad:
        return scores, None
    px_grad, py_grad = torch.zeros_like(px), torch.zeros_like(py)
    _backward[(batch,)](px, py, inside, alpha, px_grad, py_grad, *sizes, **options)
    return scores, (px_grad, py_grad)
