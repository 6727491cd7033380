"""Convolutions in the layouts that the models keep their activations in.

Shapes: B batch, T frames, F frequency bins, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_last(conv: nn.Module, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """Apply a convolution to a channels-last image (B, T, F, C) -> (B, T', F', C')."""
    assert isinstance(conv, nn.Conv2d)
    image = x.permute(0, 3, 1, 2)
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    pad = conv.padding if padding is None else padding
    y = F.conv2d(image, weight, conv.bias, conv.stride, pad, conv.dilation, conv.groups)  # type: ignore[arg-type]
    return y.permute(0, 2, 3, 1)


def depthwise(x: Tensor, conv: nn.Conv1d, padding: int) -> Tensor:
    """Apply a depth-wise `nn.Conv1d` along time.

    The time-major layout is a channels-last image whose rows are frames, so no transposed copy is needed.

    Args:
        x: (T, B, C). conv: its parameters. padding: zero frames on each side.

    Returns:
        (T + 2 padding - kernel + 1, B, C).
    """
    image = x.permute(2, 0, 1).unsqueeze(0)
    weight = conv.weight.unsqueeze(-1)
    y = F.conv2d(image, weight, conv.bias, padding=(padding, 0), groups=x.shape[-1])
    return y.squeeze(0).permute(1, 2, 0)
