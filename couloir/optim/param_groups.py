"""Parameters in groups by effective learning rate, with their names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from couloir.errors import UserError


def parameter_groups(model: nn.Module, lr: float, freeze_modules: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The trainable parameters of ``model``, one group per effective learning rate.

    A module's attribute ``lr_scale`` multiplies the rate of everything below it.

    Args:
        model: any module. lr: the base learning rate.
        freeze_modules: dotted prefixes of parameter names that are not trained (``encoder_embed``,
            ``encoder.encoders.0``); their ``requires_grad`` is turned off.

    Returns:
        Groups with ``named_params`` (a list of (name, parameter)) and ``lr``, in the order of first appearance.

    Raises:
        UserError: a prefix names nothing, or nothing is left to train.
    """
    scales = {name: module.lr_scale for name, module in model.named_modules() if hasattr(module, "lr_scale")}
    frozen_by: dict[str, int] = dict.fromkeys(freeze_modules, 0)
    groups: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        prefix = next((p for p in freeze_modules if name == p or name.startswith(p + ".")), None)
        if prefix is not None:
            frozen_by[prefix] += parameter.numel()
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault(lr * _scale_of(name, scales), []).append((name, parameter))
    _report_frozen(frozen_by)
    if not groups:
        raise UserError("nothing is left to train: `--freeze-modules` covers every parameter")
    return [{"named_params": named, "lr": rate} for rate, named in groups.items()]


def _scale_of(name: str, scales: dict[str, float]) -> float:
    scale = scales.get("", 1.0)
    parts = name.split(".")
    for end in range(1, len(parts)):
        scale *= scales.get(".".join(parts[:end]), 1.0)
    return scale


def _report_frozen(frozen_by: dict[str, int]) -> None:
    for prefix, size in frozen_by.items():
        if size == 0:
            raise UserError(f"`--freeze-modules` names `{prefix}`, but no parameter's name starts with it")
        logging.info("frozen: %s (%d parameters)", prefix, size)
