"""ScaledAdam: Adam whose steps are proportional to each parameter tensor's scale, and which learns that scale.

Source: Yao et al. 2024 (Zipformer, arXiv:2310.11230), "ScaledAdam optimizer". The state dict is icefall's, entry for
entry. Parameters of one dtype and shape are treated as one tensor with a new first axis n: about 60 tensors instead of
550 for a medium Zipformer.

How it is made fast: state is kept stacked; gradients and parameters are stacked when they are read. On a GPU all
shapes go through each multi-tensor operation together. On a CPU they go through in pieces that fit into the cache, so
that a pass over a piece costs no memory traffic.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from couloir.optim.clipping import REMARKABLE_SCALE, clipping_scale, dominating_parameter

# Elements of a piece on CPU: seven such float32 tensors are in use at once.
CPU_PIECE = 1 << 16


@dataclass
class _ShapeBatch:
    """The parameters of a group that share dtype and shape, in the group's order."""

    params: list[Tensor]
    names: list[str]

    @property
    def scalar(self) -> bool:
        return self.params[0].numel() == 1

    @property
    def spread(self) -> tuple[int, ...]:
        """The shape (n, 1, ...) of one value per parameter."""
        return (len(self.params),) + (1,) * self.params[0].dim()


@dataclass
class _Piece:
    """Some of a batch's parameters, their stacked gradients, and views of their state."""

    params: list[Tensor]
    values: Tensor
    grads: Tensor
    state: dict[str, Tensor]
    scalar: bool

    @property
    def axes(self) -> list[int]:
        """Every axis but the one that counts parameters."""
        return list(range(1, self.values.dim()))


class ScaledAdam(Optimizer):
    """Adam in which a step's size is relative to the root-mean-square of the tensor, with clipping and size updates.

    Args:
        params: parameters, (name, parameter) pairs, or groups that hold either as ``params`` or ``named_params``.
        lr: the relative learning rate.
        clipping_scale: gradients are clipped at this multiple of the median of recent norms; None: never.
        betas: decay rates of the momentum and of the squared gradients. eps: added to the denominator.
        scalar_lr_scale: factor on ``lr`` for parameters of one element, and for the size updates.
        param_min_rms, param_max_rms: the scale that is reckoned with at least, and that is not outgrown.
        scalar_max: bound on the absolute value of parameters of one element.
        size_update_period: steps between updates of the tensors' scales.
        clipping_update_period: steps between estimates of the clipping threshold.

    A missing gradient counts as zeros. A step whose gradients are not all finite is taken with zeros in their place;
    `Trainer` never lets it come to that.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-2,
        clipping_scale: float | None = None,
        betas: tuple[float, float] = (0.9, 0.98),
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_update_period: int = 100,
    ) -> None:
        defaults = {
            "lr": lr,
            "clipping_scale": clipping_scale,
            "betas": betas,
            "scalar_lr_scale": scalar_lr_scale,
            "eps": eps,
            "param_min_rms": param_min_rms,
            "param_max_rms": param_max_rms,
            "scalar_max": scalar_max,
            "size_update_period": size_update_period,
            "clipping_update_period": clipping_update_period,
        }
        self._names: dict[Tensor, str] = {}
        self._batches: list[list[_ShapeBatch]] = []
        self._norms: list[Tensor] | None = None
        super().__init__(_as_groups(params, self._names), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        shapes: dict[tuple, _ShapeBatch] = {}
        for param in group["params"]:
            batch = shapes.setdefault((str(param.dtype), *param.shape), _ShapeBatch([], []))
            batch.params.append(param)
            batch.names.append(self._names.get(param, "unnamed"))
        self._batches.append([shapes[key] for key in sorted(shapes)])

    def _states(self, batch: _ShapeBatch, period: int) -> dict[str, Any]:
        """The state of a batch, which is kept at its first parameter; made on first use."""
        state = self.state[batch.params[0]]
        if state:
            return state
        like = batch.params[0]
        stacked = (len(batch.params), *like.shape)
        state["step"] = 0
        state["delta"] = like.new_zeros(stacked)
        state["exp_avg_sq"] = like.new_zeros(stacked)
        if not batch.scalar:
            state["param_rms"] = _rms(torch.stack(batch.params))
            state["scale_exp_avg_sq"] = like.new_zeros(batch.spread)
            state["scale_grads"] = like.new_zeros((period, *batch.spread))
        return state

    @torch.no_grad()
    def measure_gradients(self) -> Tensor:
        """The norm, scalar and on the device, by which the coming `step` clips: each gradient weighted by its
        parameter's scale. Not finite when any gradient is not. The step does not compute it again.
        """
        self._norms = [self._weighted_norms(index) for index in range(len(self.param_groups))]
        return torch.linalg.vector_norm(torch.cat(self._norms))

    def _weighted_norms(self, index: int) -> Tensor:
        """One weighted gradient norm per parameter of a group, in the order of its batches."""
        group, grads, weights = self.param_groups[index], [], []
        for batch in self._batches[index]:
            state = self._states(batch, group["size_update_period"])
            grads += _gradients(batch.params)
            if batch.scalar:
                weights.append(batch.params[0].new_full((len(batch.params),), group["scalar_lr_scale"]))
            else:
                weights.append(state["param_rms"].flatten())
        return torch.stack(torch._foreach_norm(grads)) * torch.cat(weights)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter once.

        Args:
            closure: computes the loss and its gradients; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        norms, self._norms = self._norms, None
        for index, (group, batches) in enumerate(zip(self.param_groups, self._batches)):
            scale = self._clipping_scale(index, norms[index] if norms else None)
            for pieces in self._pieces(group, batches, scale):
                _update(pieces, group, self.state[batches[0].params[0]]["step"])
            for batch in batches:
                self.state[batch.params[0]]["step"] += 1
        return loss

    def _clipping_scale(self, index: int, norms: Tensor | None) -> float:
        group, batches = self.param_groups[index], self._batches[index]
        state = self._states(batches[0], group["size_update_period"])
        if group["clipping_scale"] is None or state["step"] == 0:
            return 1.0
        norms = self._weighted_norms(index) if norms is None else norms
        total = float(torch.linalg.vector_norm(norms))
        multiple, period = group["clipping_scale"], group["clipping_update_period"]
        scale = clipping_scale(state, total, state["step"], multiple, period)
        if scale < REMARKABLE_SCALE:
            name, share = dominating_parameter(norms, [name for batch in batches for name in batch.names])
            logging.warning(
                "Scaling gradients by %.3g, norm %.4g: %.0f %% of it is of %s", scale, total, 100 * share, name
            )
        return scale

    def _pieces(self, group: dict[str, Any], batches: list[_ShapeBatch], scale: float) -> Iterator[list[_Piece]]:
        """What is updated together: everything on an accelerator, little enough for the cache on a CPU."""
        bound = CPU_PIECE if batches[0].params[0].device.type == "cpu" else math.inf
        together, size = [], 0
        for batch in batches:
            state = self._states(batch, group["size_update_period"])
            count, each = len(batch.params), max(1, batch.params[0].numel())
            stride = count if count * each <= bound else max(1, CPU_PIECE // each)
            for start in range(0, count, stride):
                together.append(_piece(batch, state, slice(start, start + stride), scale))
                size += stride * each
                if size >= bound:
                    yield together
                    together, size = [], 0
        if together:
            yield together


def _as_groups(params: Iterable[Any], names: dict[Tensor, str]) -> list[dict[str, Any]]:
    """Normal torch parameter groups of any accepted form; ``names`` is filled on the way."""
    items = list(params)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    result = []
    for given in groups:
        group = dict(given)
        entries = list(group.pop("named_params", group.get("params", ())))
        pairs = [entry if isinstance(entry, tuple) else ("unnamed", entry) for entry in entries]
        names.update({param: name for name, param in pairs})
        group["params"] = [param for _, param in pairs]
        result.append(group)
    return result


def _gradients(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]


def _stack(tensors: list[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)


def _rms(stacked: Tensor) -> Tensor:
    """(n, ...) -> (n, 1, ...): root-mean-square of each tensor of a stack."""
    return stacked.square().mean(dim=list(range(1, stacked.dim())), keepdim=True).sqrt_()


def _piece(batch: _ShapeBatch, state: dict[str, Any], which: slice, clip: float) -> _Piece:
    params = batch.params[which]
    grads = _stack(_gradients(params))
    if clip == 0.0:
        grads = torch.zeros_like(grads)
    elif clip != 1.0:
        grads = grads * clip
    stacked = ("delta", "exp_avg_sq", "param_rms", "scale_exp_avg_sq")
    views: dict[str, Tensor] = {key: state[key][which] for key in stacked if key in state}
    if not batch.scalar:
        views["scale_grads"] = state["scale_grads"][:, which]
    return _Piece(params, _stack(params), grads, views, batch.scalar)


def _update(pieces: list[_Piece], group: dict[str, Any], step: int) -> None:
    """Move the parameters of ``pieces`` and bring their state up to date. ``step`` counts from 0."""
    beta1, beta2 = group["betas"]
    grads, squares = [piece.grads for piece in pieces], [piece.state["exp_avg_sq"] for piece in pieces]
    deltas = [piece.state["delta"] for piece in pieces]
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1.0 - beta2)
    denominators = list(torch._foreach_sqrt(squares))
    correction = 1.0 - beta2 ** (step + 1)
    if correction < 0.99:
        torch._foreach_div_(denominators, math.sqrt(correction))
    torch._foreach_add_(denominators, group["eps"])
    sizes = [_size_update(piece, group, step) for piece in pieces if not piece.scalar]
    torch._foreach_div_(denominators, [_relative_rate(piece, group) for piece in pieces])

    torch._foreach_mul_(deltas, beta1)
    torch._foreach_addcdiv_(deltas, grads, denominators, -group["lr"] * (1.0 - beta1))
    tensors = [piece for piece in pieces if not piece.scalar]
    for piece, size in zip(tensors, sizes):
        if size is not None:
            piece.state["delta"].addcmul_(piece.values, size, value=1.0 - beta1)
    torch._foreach_add_([p for piece in pieces for p in piece.params], [d for delta in deltas for d in delta.unbind()])
    for piece in pieces:
        if piece.scalar:
            torch._foreach_clamp_min_(piece.params, -group["scalar_max"])
            torch._foreach_clamp_max_(piece.params, group["scalar_max"])


def _relative_rate(piece: _Piece, group: dict[str, Any]) -> Tensor:
    """(n, 1, ...): what the learning rate is multiplied with, the tensor's scale or the factor for scalars."""
    if piece.scalar:
        return piece.values.new_full((1,) * piece.values.dim(), group["scalar_lr_scale"])
    return piece.state["param_rms"].clamp(min=group["param_min_rms"])


def _size_update(piece: _Piece, group: dict[str, Any], step: int) -> Tensor | None:
    """Gather the gradient with respect to each tensor's scale; every period, the relative change (n, 1, ...) of it."""
    state, period, beta2 = piece.state, group["size_update_period"], group["betas"][1]
    state["scale_grads"][step % period] = (piece.values * piece.grads).sum(dim=piece.axes, keepdim=True)
    if step % period != period - 1:
        return None
    rms, squares, gathered = state["param_rms"], state["scale_exp_avg_sq"], state["scale_grads"]
    rms.copy_(_rms(piece.values))
    decay = beta2**period
    squares.mul_(decay).add_(gathered.square().mean(dim=0), alpha=1.0 - decay)
    correction = math.sqrt(1.0 - decay ** ((step + 1) // period))
    rate = group["lr"] * group["scalar_lr_scale"] * correction
    change = gathered.sum(dim=0).mul_(-rate).div_(squares.sqrt().add_(group["eps"]))
    change.masked_fill_(rms < group["param_min_rms"], 0.0).clamp_(-0.1, 0.1)
    return torch.minimum(change, (group["param_max_rms"] - rms) / rms)
