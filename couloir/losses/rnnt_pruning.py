"""The band of the lattice in which the pruned transducer loss is computed.

Kuang et al. 2022 (arXiv:2206.13236), section 2.3: for every frame the R rows that hold the most probability under the
simple joiner, moved so that a path can follow them. Names and arguments are k2's.

Legend: B batch, T frames, S symbols, R rows of the band, J joiner dimension.
"""
# Shapes: B batch, J joiner dimension, R symbols of the band, S symbols, T frames.

from __future__ import annotations

import torch
from torch import Tensor

from couloir.losses.rnnt_lattice import check_lattice


def get_rnnt_prune_ranges(
    px_grad: Tensor, py_grad: Tensor, boundary: Tensor | None, s_range: int, *, widen: bool = True
) -> Tensor:
    """The rows of the lattice to keep at each frame, (B, T, R) int64, R = min(s_range, S+1) or, widened, more.

    Args:
        px_grad: (B, S, T+1) regular, (B, S, T) modified or constrained: occupations of `rnnt_loss_smoothed`.
        py_grad: (B, S+1, T).
        boundary: (B, 4) int64 rows [0, 0, S, T]; None means that no item is padded.
        s_range: rows per frame, at least 2; 1 is possible for "modified" alone ("constrained" pays in a frame for two).
        widen: raise R, for "regular", until every item with a frame has a path in its band, as k2 does. One item with
            more than s_range - 1 symbols per frame then raises the memory of its whole batch. Without it that item's
            pruned loss is +inf and its gradient zero; where such items were left out beforehand (see
            `couloir.losses.rnnt.reason_without_path`) that saves asking the device for the lengths.

    Raises:
        ValueError: the shapes do not fit, or s_range < 1.
    """
    check_lattice(px_grad, py_grad, boundary)
    if s_range < 1:
        raise ValueError(f"s_range must be at least 1, but is {s_range}")
    num_rows, num_frames = py_grad.shape[1:]
    regular = px_grad.shape[2] == num_frames + 1
    if boundary is None:
        boundary = py_grad.new_tensor([0, 0, num_rows - 1, num_frames], dtype=torch.int64).expand(len(py_grad), 4)
    num_symbols, frames = boundary[:, 2], boundary[:, 3]
    if widen and regular:
        s_range = max(s_range, _least_rows(num_symbols, frames))
    width = min(s_range, num_rows)

    first = _best_rows(px_grad[:, :, :num_frames], py_grad, width)
    # Frames from an item's last one on must hold its last row.
    is_last = torch.arange(num_frames, device=first.device) >= frames[:, None] - 1
    last = (num_symbols - width + 1).clamp(min=0)[:, None]
    first = torch.where(is_last, last, first)
    first = _connected(first, max_step=width - 1 if regular else 1)
    return first[:, :, None] + torch.arange(width, device=first.device)


def _least_rows(num_symbols: Tensor, frames: Tensor) -> int:
    """Rows with which every item (B,) that has a frame gets from row 0 to its last one, as k2 counts them."""
    needed = (num_symbols - 1).div(frames.clamp(min=1), rounding_mode="trunc") + 2
    return int(torch.where(frames > 0, needed, 1).max()) if len(frames) else 1


def _best_rows(px_grad: Tensor, py_grad: Tensor, width: int) -> Tensor:
    """First row (B, T) of the ``width`` rows that the path most probably stays in during a frame."""
    num_starts = py_grad.shape[1] - width + 1
    score = py_grad[:, :num_starts].clone()
    for row in range(1, width):
        score += py_grad[:, row : row + num_starts]
    # A symbol emitted from just below the band enters it in this frame: that mass is not wholly inside.
    score[:, 1:] -= px_grad[:, : num_starts - 1]
    return score.argmax(dim=1)


def _connected(first: Tensor, max_step: int) -> Tensor:
    """The first rows (B, T) lowered to never fall, then raised so that no step exceeds ``max_step``, from row 0 on."""
    first = _least_from_here_on(first)
    slope = max_step * torch.arange(first.shape[1], device=first.device)
    return slope - _least_from_here_on(slope - first).clamp(min=0)


def _least_from_here_on(values: Tensor) -> Tensor:
    return values.flip(1).cummin(dim=1).values.flip(1)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The joiner's two inputs in the band.

    Args:
        am: (B, T, J) encoder output; lm: (B, S+1, J) predictor output; ranges: (B, T, R) int64.

    Returns:
        am as (B, T, R, J), a view that takes no memory, and the rows of lm, (B, T, R, J).
    """
    batch, num_rows, dim = lm.shape
    offset = torch.arange(batch, device=lm.device)[:, None, None] * num_rows
    lm_pruned = lm.reshape(-1, dim).index_select(0, (ranges + offset).flatten())
    return am.unsqueeze(2).expand(-1, -1, ranges.shape[2], -1), lm_pruned.view(*ranges.shape, dim)
