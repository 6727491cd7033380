"""The transducer lattice: total log-probability and occupations, forward and backward exact.

A path walks from (s_begin, t_begin) to (s_end, t_end). ``py[s, t]`` moves one frame on; ``px[s, t]`` emits
symbol s and stays on the frame ("regular", px has T+1 columns) or moves one frame on as well ("modified", px has
T columns). The recursion is Graves 2012 (arXiv:1211.3711), eq. 16. Its derivative is walked backward over the same
cells: of what passes through a cell, a share sigmoid(a - b) came by symbol and the rest by blank, where a and b are the
two terms that the cell added up. These shares sum to one whatever float32 made of variables of some thousand nats; a
product of forward and backward variables does not, and costs a digit of the gradient. Autograd never walks the lattice.

The cells that can be computed at once are an anti-diagonal (regular) or a frame (modified); both are "steps" here.
The torch form stores a step contiguously and spends two or three operations on it in each direction. On CUDA Triton
kernels do the same sums.

Legend: B batch, T frames, S symbols, N steps.
"""
# Shapes: B batch, N rows, S symbols, T frames.

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
    if px.dtype in (torch.float16, torch.bfloat16):
        px, py = px.float(), py.float()
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
        px_grad, py_grad = None, None
        if kernels.usable(px):
            from couloir.losses.kernels.lattice import walk as walk_on_device

            scores, grads = walk_on_device(px, py, boundary, wants_grad)
        else:
            scores, grads = walk(px, py, boundary, wants_grad)
        if grads is not None:
            px_grad, py_grad = grads
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


def walk(px: Tensor, py: Tensor, boundary: Tensor, wants_grad: bool) -> tuple[Tensor, Occupations | None]:
    """Scores (B,) and, if wanted, occupations of lattices checked by `check_lattice`, in torch operations."""
    steps = _Steps(px, py)
    scores = steps.forward(boundary.tolist())
    return scores, steps.backward(boundary.tolist()) if wants_grad else None


class _Steps:
    """A batch of lattices laid out by step.

    Step n holds the cells with s + t = n (regular) or t = n (modified). A cell of step n is reached from step n-1 by
    a symbol out of its left neighbour in s, or by a blank out of itself. ``moves`` (N, 2, S+2, B) holds, for the
    cells that each step enters, what arrives by symbol and by blank: first the log-probabilities of these moves, after
    `forward` the two terms of the recursion, after `backward` the occupations. Items lie innermost, so that all of a
    step is one run of memory. Row S+1 is empty.
    """

    def __init__(self, px: Tensor, py: Tensor) -> None:
        self.batch, self.rows, num_frames = py.shape
        self.regular = px.shape[2] == num_frames + 1
        self.num_steps = num_frames + (self.rows - 1 if self.regular else 0)
        self.px_shape, self.py_shape = px.shape, py.shape
        self.moves = px.new_full((self.num_steps, 2, self.rows + 1, self.batch), NEG_INF)
        by_symbol, by_blank = self._by_cell()
        by_symbol.copy_(px)
        by_blank.copy_(py)

    def _by_cell(self) -> Occupations:
        """The moves as views shaped as px and py."""
        step_size = self.moves.stride(0)
        strides = (1, self.batch + (step_size if self.regular else 0), step_size)
        by_symbol = self.moves.as_strided(self.px_shape, strides, self.batch)
        return by_symbol, self.moves.as_strided(self.py_shape, strides, step_size // 2)

    def _at(self, cells: list[list[int]]) -> dict[int, tuple[list[int], list[int]]]:
        """Step -> rows and items of one cell (s, t) per item."""
        by_step: dict[int, tuple[list[int], list[int]]] = {}
        for item, (s, t) in enumerate(cells):
            rows, items = by_step.setdefault(t + s if self.regular else t, ([], []))
            rows.append(s)
            items.append(item)
        return by_step

    def forward(self, boundary: list[list[int]]) -> Tensor:
        """Walk from the begin to the end of each item; the log-probability (B,) of its end."""
        starts, ends = self._at([item[:2] for item in boundary]), self._at([item[2:] for item in boundary])
        scores = self.moves.new_empty(self.batch)
        # Two steps, written in turn. The row before s = 0 is never reached: it is the left neighbour of s = 0.
        variables = self.moves.new_full((2, self.rows + 1, self.batch), NEG_INF)
        cells = variables[:, 1:].unbind(0)
        neighbours = variables.unfold(1, self.rows, 1).transpose(2, 3).unbind(0)
        moves = self.moves[:, :, :-1]
        terms = zip(moves.unbind(0), moves[:, 0].unbind(0), moves[:, 1].unbind(0))
        for step in range(self.num_steps + 1):
            reached = cells[step % 2]
            if step > 0:
                move, by_symbol, by_blank = next(terms)
                move.add_(neighbours[(step - 1) % 2])
                torch.logaddexp(by_symbol, by_blank, out=reached)
            if step in starts:
                reached[starts[step]] = 0.0
            if step in ends:
                scores[ends[step][1]] = reached[ends[step]]
        return scores

    def backward(self, boundary: list[list[int]]) -> Occupations:
        """Walk back from each item's end; the occupations, shaped as px and py."""
        ends = self._at([item[2:] for item in boundary])
        # The product of two numbers above the root of the smallest one is no denormal: those cost a processor some
        # hundred times an ordinary number. What is less (1e-19, 1e-154 in float64) is made zero.
        least = math.sqrt(torch.finfo(self.moves.dtype).tiny)
        by_symbol, by_blank = self.moves.unbind(1)
        by_symbol -= by_blank
        torch.neg(by_symbol, out=by_blank)
        self.moves.sigmoid_().nan_to_num_(nan=0.0)  # a cell that nothing reaches: -inf less -inf
        torch.threshold_(self.moves, least, 0.0)
        passing = self.moves.new_zeros(self.rows, self.batch)
        terms = zip(self.moves[:, :, :-1].unbind(0), by_blank[:, :-1].unbind(0), by_symbol[:, 1:].unbind(0))
        for step, (move, stayed, came) in reversed(list(enumerate(terms, start=1))):
            if step in ends:
                passing[ends[step]] = 1.0
            move.mul_(passing)
            torch.add(stayed, came, out=passing)
            torch.threshold_(passing, least, 0.0)
        px_grad, py_grad = self._by_cell()
        return px_grad.contiguous(), py_grad.contiguous()
