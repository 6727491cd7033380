"""Looking into a model while it trains: where the first inf or nan arises, and statistics of every activation."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Batches that `--print-diagnostics` looks at.
DIAGNOSTIC_BATCHES = 6


def _tensors(output: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors in a module's output, with names."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield name, output
    elif isinstance(output, (tuple, list)):
        for index, item in enumerate(output):
            yield from _tensors(item, f"{name}[{index}]")


def _watch(model: nn.Module, see: Callable[[str, str, Tensor], None]) -> list[Any]:
    """Call ``see(name, "output" or "gradient", tensor)`` for every module's output and its gradient."""

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for label, tensor in _tensors(output, name):
                see(label, "output", tensor.detach())
                if tensor.requires_grad:
                    tensor.register_hook(lambda grad, label=label: see(label, "gradient", grad))

        return hook

    return [m.register_forward_hook(hook_for(name)) for name, m in model.named_modules() if name]


class InfCheck:
    """Logs the first module whose output, and the first whose gradient, is not finite (`--inf-check`).

    Each check waits for the device: training is slower while it is on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found: dict[str, str] = {}
        self._hooks = _watch(model, self._see)

    def close(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, name: str, kind: str, tensor: Tensor) -> None:
        if kind not in self.found and not bool(torch.isfinite(tensor).all()):
            self.found[kind] = name
            bad = int((~torch.isfinite(tensor)).sum())
            text = "inf-check: the first %s that is not finite is of %s: %d of %d values, shape %s"
            logging.warning(text, kind, name, bad, tensor.numel(), tuple(tensor.shape))


@dataclass
class _Moments:
    """Running sums over a tensor's values and over its last axis."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    positive: float = 0.0
    largest: float = 0.0

    def add(self, tensor: Tensor) -> None:
        values = tensor.float()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())
        self.positive += float((values > 0).sum())
        self.largest = max(self.largest, float(values.abs().max()) if values.numel() else 0.0)

    def row(self) -> tuple[float, float, float, float]:
        """Mean, root-mean-square, largest absolute value, share of positive values."""
        n = max(1, self.count)
        return self.total / n, (self.squares / n) ** 0.5, self.largest, self.positive / n


class Diagnostics:
    """Statistics of every module's outputs and gradients, and of the parameters (`--print-diagnostics`)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._moments: dict[tuple[str, str], _Moments] = defaultdict(_Moments)
        self._hooks = _watch(model, lambda name, kind, tensor: self._moments[name, kind].add(tensor))

    def table(self) -> str:
        """One line per module and kind: mean, rms, absolute maximum, share of positive values."""
        for name, parameter in self.model.named_parameters():
            self._moments[name, "parameter"].add(parameter.detach())
        lines = [f"{'mean':>10} {'rms':>10} {'absmax':>10} {'positive':>8}  kind      name"]
        for (name, kind), moments in self._moments.items():
            mean, rms, largest, positive = moments.row()
            lines.append(f"{mean:10.3e} {rms:10.3e} {largest:10.3e} {positive:8.3f}  {kind:9} {name}")
        return "\n".join(lines)

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
