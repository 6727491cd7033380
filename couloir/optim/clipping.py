"""Clipping by the median of recent gradient norms, the part of ScaledAdam that looks at all parameters at once."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

# Steps at which the threshold is set before a whole period of norms has been seen; it is doubled there.
EARLY_STEPS = (10, 20, 40)
# A step whose gradients are scaled by less than this is worth a line in the log.
REMARKABLE_SCALE = 0.5


def clipping_scale(state: dict[str, Any], norm: float, step: int, multiple: float, period: int) -> float:
    """The factor in [0, 1] for the gradients of this step; the history in ``state`` is brought up to date.

    ``state`` holds icefall's entries: ``model_norms`` (period,), a ring; ``model_norm_threshold``, a float, present
    from the first estimate on; ``num_clipped``, the number of clipped steps since the last estimate.
    Non-finite norms take no part in the median. A step whose norm is not finite gets 0.

    Args:
        state: the optimizer state of the first batch of parameters.
        norm: the norm of this step's gradients. step: from 0; nothing is clipped at 0.
        multiple: the threshold is this times the median. period: steps between estimates.
    """
    if step == 0:
        return 1.0
    if "model_norms" not in state:
        state["model_norms"] = torch.zeros(period, device=state["exp_avg_sq"].device)
    state["model_norms"][step % period] = norm
    early = step in EARLY_STEPS
    if early or step % period == 0:
        _set_threshold(state, step if early else period, 2.0 * multiple if early else multiple)
    threshold = state.get("model_norm_threshold")
    if not math.isfinite(norm):
        return 0.0
    if threshold is None:
        return 1.0
    scale = min(1.0, threshold / (norm + 1.0e-20))
    if scale < 1.0:
        state["num_clipped"] = state.get("num_clipped", 0) + 1
    return scale


def _set_threshold(state: dict[str, Any], count: int, multiple: float) -> None:
    norms = state["model_norms"].sort().values[-count:]
    finite = norms[norms.isfinite()]
    if len(finite) == 0:
        logging.warning("no finite gradient norm in the last %d steps: the clipping threshold stays as it was", count)
        return
    n = len(finite)
    quartiles = [float(finite[min(n - 1, (n // 4) * k)]) for k in range(5)]
    state["model_norm_threshold"] = multiple * quartiles[2]
    percent = 100.0 * state.get("num_clipped", 0) / count
    state["num_clipped"] = 0
    logging.info(
        "Clipping_scale=%s, grad-norm quartiles %s, threshold=%.3e, percent-clipped=%.1f",
        multiple,
        " ".join(f"{q:.3e}" for q in quartiles),
        state["model_norm_threshold"],
        percent,
    )


def dominating_parameter(norms: Tensor, names: list[str]) -> tuple[str, float]:
    """The name whose entry of ``norms`` (parameters,) is largest, and its share of the sum of squares."""
    squares = norms.double().nan_to_num(posinf=float("inf")).square()
    index = int(squares.argmax())
    return names[index], float(squares[index] / squares.sum())
