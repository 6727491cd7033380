"""Triton kernels of the losses. Nothing here imports Triton until a CUDA tensor asks for it."""

from __future__ import annotations

import functools
import importlib.util
import logging

from torch import Tensor


@functools.cache
def triton_works() -> bool:
    """Whether Triton can be imported (CUDA builds of torch bring it) and builds its driver, which takes a compiler."""
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    try:
        return triton.runtime.driver.active.utils is not None
    except Exception as error:  # of many types, by what is missing
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logging.warning("Triton does not work here (%s): losses take their slower form; a C compiler may help", reason)
        return False


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can take this tensor: it lies on a CUDA device and Triton works."""
    return tensor.is_cuda and triton_works()
