"""The part of a model's training state that is not in its state dict."""

from __future__ import annotations

from typing import Any

from torch import nn

from couloir.models.common.counter import CallCounter
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import Whiten


def get_training_state(model: nn.Module) -> dict[str, Any]:
    """What a resumed run needs besides the state dict and the random states: plain numbers by module name.

    Returns:
        ``batch_count`` (that of the schedules, None before the first), ``whiten_prob`` and ``calls`` (of this process;
        a state dict holds those of the one that wrote it).
    """
    counts = {module.batch_count for module in model.modules() if isinstance(module, ScheduledFloat)}
    return {
        "batch_count": max((count for count in counts if count is not None), default=None),
        "whiten_prob": {name: module.prob for name, module in model.named_modules() if isinstance(module, Whiten)},
        "calls": {name: module.calls for name, module in model.named_modules() if isinstance(module, CallCounter)},
    }


def set_training_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Restore what `get_training_state` returned. Modules that the state does not name keep theirs."""
    for name, module in model.named_modules():
        if isinstance(module, Whiten) and name in state["whiten_prob"]:
            module.prob = state["whiten_prob"][name]
        if isinstance(module, CallCounter) and name in state.get("calls", {}):
            module.calls = state["calls"][name]
        if isinstance(module, ScheduledFloat) and state["batch_count"] is not None:
            module.set_batch_count(state["batch_count"])
