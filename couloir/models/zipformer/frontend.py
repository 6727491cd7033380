"""Convolutional front end: 100 feature frames per second in, 50 out.

Source: the "Conv-Embed" of Yao et al. 2024 (arXiv:2310.11230), "Downsampled encoder structure"; its last block is a
ConvNeXt layer (Liu et al. 2022, arXiv:2201.03545).
"""
# Shapes: B batch, C channels, C' channels of the output, D model dimension, F feature bins, F' bins of the output,
# T frames, T' frames of the output.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.activations import activate, activate_linear, dropout_mask
from couloir.models.common.balancer import Balancer
from couloir.models.common.convolution import conv_last
from couloir.models.common.init import scale_parameters
from couloir.models.common.schedule import ScheduledFloat, dropout_schedule
from couloir.models.common.whiten import Whiten
from couloir.models.zipformer.activations import SWOOSH_L, SWOOSH_R
from couloir.models.zipformer.norm import BiasNorm

LOOK_AHEAD = 3
FIRST_LAYER_GRAD_SCALE = 0.2


def pointwise_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution to a channels-last image (..., C) -> (..., C')."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class ConvNeXt(nn.Module):
    """Depth-wise 7 x 7 convolution and a point-wise bottleneck, around which the input passes.

    Args:
        channels: width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, groups=channels, padding=3)
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.hidden_balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.pointwise_conv2 = scale_parameters(nn.Conv2d(3 * channels, channels, 1), 0.01)
        self.out_balancer = Balancer(min_positive=0.4, max_positive=0.6, min_abs=1.0, max_abs=6.0)
        self.out_whiten = Whiten(1, 5.0, grad_scale=0.01)
        self.layerdrop_rate = ScheduledFloat((0.0, 0.2), (20000.0, 0.015))

    def _branch(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        hidden = pointwise_last(self.pointwise_conv1, conv_last(self.depthwise_conv, x, padding))
        hidden, out = self.hidden_balancer(hidden), self.pointwise_conv2
        assert out.bias is not None
        y = activate_linear(hidden.flatten(0, 1), out.weight.flatten(1), out.bias, SWOOSH_L)
        return y.view(*hidden.shape[:-1], -1)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, T, F, C) -> (B, T, F, C). ``padding`` (B, T) is True for frames that count as zero."""
        masked = x if padding is None else x.masked_fill(padding[:, :, None, None], 0.0)
        branch = self._branch(masked, (3, 3))
        rate = self.layerdrop_rate()
        if rate > 0.0:
            keep = (torch.rand(x.shape[0], 1, 1, 1, device=x.device) > rate).to(x.dtype)
            x = torch.addcmul(x, branch, keep)
        else:
            x = x + branch
        return self.out_whiten(self.out_balancer(x))

    def streaming_forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (B, T + 3, F, C) with three frames of look-ahead -> (B, T, F, C).

        ``cache`` (B, C, 3, F) are the three frames before the chunk; the new one is returned too.
        """
        extended = torch.cat([cache.permute(0, 2, 3, 1), x], dim=1)
        frames = x.shape[1] - LOOK_AHEAD
        branch = self._branch(extended, (0, 3))
        return x[:, :frames] + branch, extended[:, frames : frames + LOOK_AHEAD].permute(0, 3, 1, 2)


class _ScaleGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * FIRST_LAYER_GRAD_SCALE


class Conv2dSubsampling(nn.Module):
    """Three convolutions, a ConvNeXt block and a projection.

    Args:
        feature_dim: mel bins. out_channels: output width. channels: of the three convolutions.
    """

    def __init__(self, feature_dim: int, out_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        first, second, third = channels
        # The positions of the layers are icefall's; those without parameters are applied in `_convolve`.
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, first, 3, padding=(0, 1)),
                "2": Balancer(max_abs=1.0),
                "4": nn.Conv2d(first, second, 3, stride=2),
                "5": Balancer(max_abs=4.0),
                "7": nn.Conv2d(second, third, 3, stride=(1, 2)),
                "8": Balancer(max_abs=4.0),
            }
        )
        self.convnext = ConvNeXt(third)
        self.bins = ((feature_dim - 1) // 2 - 1) // 2
        self.channels = third
        self.out = nn.Linear(third * self.bins, out_channels)
        self.out_whiten = Whiten(1, ScheduledFloat((0.0, 4.0), (20000.0, 8.0), default=4.0), grad_scale=0.02)
        self.out_norm = BiasNorm(out_channels)
        self.dropout = dropout_schedule()

    def _convolve(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, T', F', C)."""
        conv = self.conv
        y = conv_last(conv["0"], x.unsqueeze(-1))
        if self.training and y.requires_grad:
            y = _ScaleGrad.apply(y)
        y = conv_last(conv["4"], activate(conv["2"](y), SWOOSH_R))
        y = conv_last(conv["7"], activate(conv["5"](y), SWOOSH_R))
        return activate(conv["8"](y), SWOOSH_R)

    def _project(self, x: Tensor) -> Tensor:
        """(B, T', F', C) -> (B, T', D). The weight's columns run over channels first, the input's over bins."""
        weight = self.out.weight.unflatten(1, (self.channels, self.bins)).transpose(1, 2).flatten(1)
        return F.linear(x.flatten(2), weight, self.out.bias)

    def forward(self, x: Tensor, lens: Tensor | None = None) -> Tensor:
        """(B, T, F) -> (B, (T - 7) // 2, D).

        Args:
            x: features. lens: (B,) output lengths; frames beyond them then count as zero in the ConvNeXt block,
                as they would if the item were alone. None: they are what the padding gives, as in the reference.
        """
        x = self._convolve(x)
        padding = None if lens is None else torch.arange(x.shape[1], device=x.device) >= lens[:, None]
        x = self.out_norm(self.out_whiten(self._project(self.convnext(x, padding))))
        rate = self.dropout()
        return x * dropout_mask(x, rate, shared_dim=1) if rate > 0.0 else x

    def streaming_forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (B, T, F) -> (B, (T - 7) // 2 - 3, D), and the new cache (B, C, 3, F')."""
        x, cache = self.convnext.streaming_forward(self._convolve(x), cache)
        return self.out_norm(self._project(x)), cache
