"""Triton kernels of the losses. Nothing here imports Triton until a CUDA tensor asks for it."""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


@functools.cache
def triton_is_installed() -> bool:
    """Whether Triton can be imported (CUDA builds of torch bring it)."""
    return importlib.util.find_spec("triton") is not None


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can take this tensor: it lies on a CUDA device and Triton is there."""
    return tensor.is_cuda and triton_is_installed()
