"""Cache-sized blocks: a chain of element-wise operations over one is several times faster on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# Elements of a block: with its temporaries it stays in a core's second-level cache.
BLOCK = 1 << 17


def blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the first axis of ``x`` of at most `BLOCK` elements; on other devices than the CPU, one slice."""
    rows = x.shape[0]
    step = rows if x.device.type != "cpu" else max(1, BLOCK * rows // max(x.numel(), 1))
    for start in range(0, rows, max(step, 1)):
        yield slice(start, start + step)
