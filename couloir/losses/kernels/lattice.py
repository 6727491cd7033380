"""The transducer lattice's forward and backward variables on CUDA.

One program walks one lattice, in one direction, row by row (one symbol after another). Within a row the recursion over
frames, a[t] = logadd(enter[t], a[t-1] + py[t-1]), composes maps x -> logadd(enter, x + shift), and composition is
associative: a parallel scan does the row, and the row stays in registers for the next one.

In the modified lattice a symbol takes a frame, so row s cannot start before frame s: lane j of row s holds frame
j + s, and what a lane hands to the next row is again its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _log_add(a: tl.tensor, b: tl.tensor):
    high = tl.maximum(a, b)
    # Both -inf would give NaN in the difference.
    gap = tl.where(a == b, 0.0, tl.minimum(a, b) - high)
    return high + tl.log(1.0 + tl.exp(gap))


@triton.jit
def _compose(shift_1: tl.tensor, enter_1: tl.tensor, shift_2: tl.tensor, enter_2: tl.tensor):
    return shift_1 + shift_2, _log_add(enter_1 + shift_2, enter_2)


@triton.jit
def _walk(
    px: tl.tensor,
    py: tl.tensor,
    boundary: tl.tensor,
    out: tl.tensor,
    num_items: int,
    num_symbols: int,
    num_frames: int,
    TAKES_FRAME: tl.constexpr,
    LANES: tl.constexpr,
):
    program = tl.program_id(0)
    item = program % num_items
    backward = program >= num_items
    s_begin = tl.load(boundary + item * 4)
    t_begin = tl.load(boundary + item * 4 + 1)
    s_end = tl.load(boundary + item * 4 + 2)
    t_end = tl.load(boundary + item * 4 + 3)

    # Walking backward is walking forward on the mirrored lattice: every index runs the other way from the end.
    sign = tl.where(backward, -1, 1)
    px_columns = num_frames + 1 - TAKES_FRAME
    px_s = tl.where(backward, s_end - 1, s_begin)
    px_t = tl.where(backward, t_end - TAKES_FRAME, t_begin)
    py_s = tl.where(backward, s_end, s_begin)
    py_t = tl.where(backward, t_end - 1, t_begin)
    out_t = tl.where(backward, t_end, t_begin)
    px += item.to(tl.int64) * num_symbols * px_columns
    py += item.to(tl.int64) * (num_symbols + 1) * num_frames
    out += program.to(tl.int64) * (num_symbols + 1) * (num_frames + 1)

    lane = tl.arange(0, LANES)
    span = t_end - t_begin
    enter = tl.where(lane == 0, 0.0, float("-inf")).to(out.dtype.element_ty)
    for s in range(s_end - s_begin + 1):
        first = s * TAKES_FRAME
        t = lane + first
        if s > 0:
            step = px + (px_s + sign * (s - 1)) * px_columns + px_t + sign * (t - TAKES_FRAME)
            enter += tl.load(step, mask=t <= span, other=float("-inf"))
        wait = py + (py_s + sign * s) * num_frames + py_t + sign * (t - 1)
        shift = tl.load(wait, mask=(lane > 0) & (t <= span), other=float("-inf"))
        _, enter = tl.associative_scan((shift, enter), 0, _compose)
        cell = out + (py_s + sign * s) * (num_frames + 1) + out_t + sign * t
        tl.store(cell, enter, mask=t <= span)


def forward_backward(px: Tensor, py: Tensor, boundary: Tensor, wants_beta: bool) -> tuple[Tensor, Tensor]:
    """Forward and backward variables, each (B, S+1, T+1), -inf outside the boundary.

    The arguments are those of `couloir.losses.rnnt_lattice.forward_backward`.
    """
    batch, rows, num_frames = py.shape
    out = py.new_full((1 + wants_beta, batch, rows, num_frames + 1), float("-inf"))
    lanes = triton.next_power_of_2(num_frames + 1)
    takes_frame = int(px.shape[2] == num_frames)
    _walk[(out.shape[0] * batch,)](
        px.contiguous(), py.contiguous(), boundary.contiguous(), out, batch, rows - 1, num_frames,
        TAKES_FRAME=takes_frame, LANES=lanes, num_warps=min(16, max(1, lanes // 128)),
    )  # fmt: skip
    return out[0], out[1] if wants_beta else torch.empty(0, dtype=py.dtype, device=py.device)
