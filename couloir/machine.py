"""What this process may use of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from couloir.errors import must_be

if TYPE_CHECKING:
    import torch


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """ "auto" is the GPU when there is one. Raises `UserError` for "cuda" on a machine without one."""
    import torch

    gpus = torch.cuda.device_count()
    if name == "cuda" and not gpus:
        raise must_be("--device", "cpu or auto", "cuda, and no GPU was found")
    return torch.device("cuda" if name != "cpu" and gpus else "cpu")
