"""Convolutional front end: 100 feature frames per second in, 50 out.

Source: the sub-sampling of Dong et al. 2018 (Speech-Transformer, ICASSP), with three convolutions, a factor of 2 in
time, balancers and DoubleSwish.

Shapes: B batch, T feature frames, F feature bins, D model dimension.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.activations import activate
from couloir.models.common.convolution import conv_last
from couloir.models.common.init import scale_parameters
from couloir.models.zipformer1.activations import DOUBLE_SWISH
from couloir.models.zipformer1.balancer import ActivationBalancer

DROPOUT = 0.1


class Conv2dSubsampling(nn.Module):
    """Three convolutions and a projection. An output frame sees 9 feature frames and none of the padding of time.

    Args:
        bins: frequency bins that the convolutions leave. out_channels: D. channels: of the three convolutions.
    """

    def __init__(self, bins: int, out_channels: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = channels
        # The positions of the layers are icefall's; those without parameters are applied in `forward`.
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, first, 3, padding=(0, 1)),
                "1": ActivationBalancer(),
                "3": nn.Conv2d(first, second, 3, stride=2),
                "4": ActivationBalancer(),
                "6": nn.Conv2d(second, third, 3, stride=(1, 2)),
                "7": ActivationBalancer(),
            }
        )
        self.bins, self.channels = bins, third
        self.out = scale_parameters(nn.Linear(third * bins, out_channels), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, (T - 7) // 2, D)."""
        conv = self.conv
        y = x.unsqueeze(-1)
        for convolution, balancer in (("0", "1"), ("3", "4"), ("6", "7")):
            y = activate(conv[balancer](conv_last(conv[convolution], y)), DOUBLE_SWISH)
        # The weight's columns run over channels first, the activations over bins.
        weight = self.out.weight.unflatten(1, (self.channels, self.bins)).transpose(1, 2).flatten(1)
        return F.dropout(F.linear(y.flatten(2), weight, self.out.bias), DROPOUT, self.training)
