"""Memory blocks: what a SAN-M layer adds to attention, or has in its place.

Source: Zhang et al. 2018 (arXiv:1803.05030, DFSMN); with self-attention Gao et al. 2020 (arXiv:2006.01713,
SAN-M).

Shapes: B batch, T frames or tokens, D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, left: int, right: int) -> Tensor:
    """Depth-wise convolution along time.

    The batch is a channels-last image one pixel wide, so no transposed copy is needed.

    Args:
        x: (B, T, D). weight: (D, 1, kernel). bias: (D,). left, right: zero frames on either side.

    Returns:
        (B, T + left + right - kernel + 1, D).
    """
    image = x.unsqueeze(2).permute(0, 3, 1, 2)
    if left != right:
        image = F.pad(image, (0, 0, left, right))
    padding = (left if left == right else 0, 0)
    y = F.conv2d(image, weight.unsqueeze(-1), bias, padding=padding, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1).squeeze(2)


def add_memory(x: Tensor, conv: nn.Conv1d, shift: int, padding: Tensor, dropout: float) -> Tensor:
    """A weighted sum of the frames around each, plus the frame.

    Args:
        x: (B, T, D). conv: depth-wise, without bias. shift: frames by which it looks further back.
        padding: (B, T, 1), True beyond an item's length, where input and output are 0. dropout: rate, 0 in eval mode.
    """
    kernel = conv.kernel_size[0]
    left = (kernel - 1) // 2 + shift
    x = x.masked_fill(padding, 0.0)
    y = depthwise(x, conv.weight, None, left, kernel - 1 - left) + x
    return F.dropout(y, dropout, dropout > 0.0).masked_fill(padding, 0.0)


def memory_conv(width: int, kernel: int) -> nn.Conv1d:
    """The weights of `add_memory`."""
    return nn.Conv1d(width, width, kernel, groups=width, bias=False)


class Memory(nn.Module):
    """A memory block that stands for self-attention, as in a SAN-M decoder.

    Args:
        width: channels. kernel: tokens. shift: tokens by which it looks further back. dropout: rate.
    """

    def __init__(self, width: int, kernel: int, shift: int, dropout: float) -> None:
        super().__init__()
        self.fsmn_block = memory_conv(width, kernel)
        self.shift = shift
        self.dropout = dropout

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """(B, T, D), padding (B, T) -> (B, T, D)."""
        dropout = self.dropout if self.training else 0.0
        return add_memory(x, self.fsmn_block, self.shift, padding.unsqueeze(-1), dropout)
