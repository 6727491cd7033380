"""The transducer lattice: total log-probability and occupations, forward and backward exact.

A path walks from (s_begin, t_begin) to (s_end, t_end). ``py[s, t]`` moves one frame on; ``px[s, t]`` emits
symbol s and stays on the frame ("regular", px has T+1 columns) or moves one frame on as well ("modified", px has
T columns). The recursion (Graves 2012, arXiv:1211.3711, eq. 16-18) runs once: the forward variables and, as
another half of the batch on the mirrored lattice, the backward ones. Their product gives the occupations, which are
the derivatives, so autograd never walks the lattice.

The cells that can be computed at once are an anti-diagonal (regular) or a frame (modified); both are "steps" here.
The torch form stores a step contiguously and spends two operations on it. On CUDA a Triton kernel does the same sums.

Legend: B batch, T frames, S symbols, K lattices (2B), N steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from couloir.losses import kernels

NEG_INF = float("-inf")
Occupations = tuple[Tensor, Tensor]
"""(px_grad, py_grad), shaped as px and py."""


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Tensor | tuple[Tensor, Occupations]:
    """Log of the summed probability of all paths.

    Args:
        px: (B, S, T+1) regular or (B, S, T) modified, log-probabilities of the symbols, -inf where forbidden.
        py: (B, S+1, T) log-probabilities of the blank.
        boundary: (B, 4) int64 rows [s_begin, t_begin, s_end, t_end]; None means [0, 0, S, T].
        return_grad: return the occupations too.

    Returns:
        (B,) log-probabilities, -inf for an item without a path; with ``return_grad`` also
        ``(px_grad, py_grad)``, shaped as px and py: the probability that the path takes that step. They are zero
        outside the boundary and for an item without a path, and so are the gradients.

    Raises:
        ValueError: the shapes do not fit each other.

    The name and arguments are k2's; the facts are in Kuang et al. 2022 (arXiv:2206.13236), section 2.
    """
    scores, grads = lattice_scores(px, py, boundary, return_grad)
    return (scores, grads) if return_grad else scores


def lattice_scores(px: Tensor, py: Tensor, boundary: Tensor | None, return_grad: bool) -> tuple[Tensor, Occupations]:
    """As `mutual_information_recursion`, but always (scores, occupations); they may be None unless asked for."""
    check_lattice(px, py, boundary)
    wants_grad = return_grad or (torch.is_grad_enabled() and (px.requires_grad or py.requires_grad))
    scores, px_grad, py_grad = _Lattice.apply(px, py, boundary, wants_grad)
    return scores, (px_grad, py_grad)


def check_lattice(px: Tensor, py: Tensor, boundary: Tensor | None) -> None:
    """Raise ValueError unless px (B, S, T or T+1), py (B, S+1, T) and boundary (B, 4) belong together."""
    batch, num_symbols, columns = px.shape
    if py.shape[:2] != (batch, num_symbols + 1) or columns - py.shape[2] not in (0, 1):
        raise ValueError(f"px (B, S, T or T+1) and py (B, S+1, T) do not fit: {tuple(px.shape)} and {tuple(py.shape)}")
    if py.shape[2] < 1:
        raise ValueError("py must have at least one frame")
    if boundary is None:
        return
    if boundary.shape != (batch, 4) or boundary.dtype != torch.int64:
        raise ValueError(f"boundary must be ({batch}, 4) int64, but is {tuple(boundary.shape)} {boundary.dtype}")
    if not boundary.is_cuda:  # reading it there would stall the device
        begin, end = boundary[:, :2], boundary[:, 2:]
        limit = torch.tensor([num_symbols, py.shape[2]])
        if bool((begin < 0).any() | (begin > end).any() | (end > limit).any()):
            raise ValueError(
                f"boundary must lie within 0 <= begin <= end <= {limit.tolist()}, but is {boundary.tolist()}"
            )


class _Lattice(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, px: Tensor, py: Tensor, boundary: Tensor | None, wants_grad: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if boundary is None:
            boundary = px.new_tensor([0, 0, px.shape[1], py.shape[2]], dtype=torch.int64).expand(px.shape[0], 4)
        px, py = px.contiguous(), py.contiguous()
        alpha, beta = forward_backward(px, py, boundary, wants_grad)
        items = torch.arange(px.shape[0], device=px.device)
        scores = alpha[items, boundary[:, 2], boundary[:, 3]]
        if not wants_grad:
            return scores, None, None
        px_grad, py_grad = occupations(px, py, alpha, beta, scores)
        ctx.save_for_backward(px_grad, py_grad)
        ctx.mark_non_differentiable(px_grad, py_grad)
        return scores, px_grad, py_grad

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_scores: Tensor, _px: None, _py: None
    ) -> tuple[Tensor, Tensor, None, None]:
        px_grad, py_grad = ctx.saved_tensors
        weight = grad_scores[:, None, None]
        return px_grad * weight, py_grad * weight, None, None


def occupations(px: Tensor, py: Tensor, alpha: Tensor, beta: Tensor, scores: Tensor) -> Occupations:
    """Probability of each step of the path, shaped as px and py; all zero where ``scores`` (B,) is -inf."""
    total = scores.masked_fill(scores == NEG_INF, float("inf"))[:, None, None]
    step = int(px.shape[2] == py.shape[2])
    px_frames = alpha.shape[2] - step
    px_grad = (alpha[:, :-1, :px_frames] - total).add_(px).add_(beta[:, 1:, step:])
    py_grad = (alpha[:, :, :-1] - total).add_(py).add_(beta[:, :, 1:])
    # What is less than 1e-29 (1e-299 in float64) is made zero: denormal numbers, here or in products that the gradients
    # go through, cost a processor some hundred times an ordinary one.
    least = math.log(torch.finfo(px.dtype).tiny) + 20
    for log_probability in (px_grad, py_grad):
        torch.threshold_(log_probability, least, NEG_INF).exp_()
    return px_grad, py_grad


def forward_backward(px: Tensor, py: Tensor, boundary: Tensor, wants_beta: bool) -> tuple[Tensor, Tensor]:
    """Forward and backward variables, each (B, S+1, T+1); without ``wants_beta`` the second is empty."""
    if kernels.usable(px):
        from couloir.losses.kernels.lattice import forward_backward as on_device

        return on_device(px, py, boundary, wants_beta)
    if not wants_beta:
        return _sweep(px, py, boundary[:, :2].tolist()), px.new_empty(0)
    batch, size = px.shape[0], torch.tensor([px.shape[1], py.shape[2]])
    mirrored = size - boundary[:, 2:].cpu()
    starts = torch.cat([boundary[:, :2].cpu(), mirrored]).tolist()
    both = _sweep(torch.cat([px, px.flip(1, 2)]), torch.cat([py, py.flip(1, 2)]), starts)
    return both[:batch], both[batch:].flip(1, 2)


def _sweep(px: Tensor, py: Tensor, starts: list[list[int]]) -> Tensor:
    """Forward variables (K, S+1, T+1) of K lattices, each from its own start cell (s, t).

    Step n holds the cells with s + t = n (regular) or t = n (modified). A cell of step n is reached from step n-1 by
    a symbol out of its left neighbour in s, or by a blank out of itself; an extra row before s = 0, always -inf, is the
    neighbour of s = 0. Lattices lie innermost, so that all of a step is one run of memory.
    """
    num_lattices, rows, num_frames = py.shape
    regular = px.shape[2] == num_frames + 1
    num_steps = num_frames + (rows - 1 if regular else 0)
    moves = _moves_by_step(px, py, num_steps, regular)

    step_size = (rows + 1) * num_lattices
    alpha = px.new_full((num_steps + 1, rows + 1, num_lattices), NEG_INF)
    cells = alpha[:, 1:].unbind(0)
    # Per step, the left neighbours and the cells themselves: two overlapping views of the same storage.
    pairs = (num_steps, 2, rows, num_lattices)
    sources = alpha.as_strided(pairs, (step_size, num_lattices, num_lattices, 1)).unbind(0)
    starts_at: dict[int, tuple[list[int], list[int]]] = {}
    for lattice, (s, t) in enumerate(starts):
        rows_there, lattices_there = starts_at.setdefault(t + s if regular else t, ([], []))
        rows_there.append(s)
        lattices_there.append(lattice)

    if 0 in starts_at:
        cells[0][starts_at[0]] = 0.0
    steps = zip(sources, moves.unbind(0), moves[:, 0].unbind(0), moves[:, 1].unbind(0), cells[1:])
    for step, (source, move, by_symbol, by_blank, reached) in enumerate(steps, start=1):
        move.add_(source)
        torch.logaddexp(by_symbol, by_blank, out=reached)
        if step in starts_at:
            reached[starts_at[step]] = 0.0
    slope = step_size if regular else 0
    shape = (num_lattices, rows, num_frames + 1)
    return alpha.as_strided(shape, (1, num_lattices + slope, step_size), num_lattices).contiguous()


def _moves_by_step(px: Tensor, py: Tensor, num_steps: int, regular: bool) -> Tensor:
    """(N, 2, S+1, K): for each step the log-probability of entering its cells by a symbol and by a blank."""
    num_lattices, rows = py.shape[:2]
    half = rows * num_lattices
    moves = px.new_full((num_steps, 2, rows, num_lattices), NEG_INF)
    strides = (1, num_lattices + (2 * half if regular else 0), 2 * half)
    if rows > 1:
        moves.as_strided(px.shape, strides, num_lattices).copy_(px)
    moves.as_strided(py.shape, strides, half).copy_(py)
    return moves
