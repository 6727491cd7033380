"""Feed-forward, convolution and pooling modules of a layer.

Source: the first two are those of Gulati et al. 2020 (Conformer, arXiv:2005.08100), sections 2.2 and 2.3, with
DoubleSwish and causal convolutions; pooling is icefall's.

Shapes: T frames, B batch, D model dimension, K frames of a kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.activations import ActivationDropoutLinear, activate_linear
from couloir.models.common.convolution import depthwise
from couloir.models.common.init import scale_parameters
from couloir.models.zipformer1.activations import DOUBLE_SWISH
from couloir.models.zipformer1.balancer import ActivationBalancer

DROPOUT = 0.1


class FeedforwardModule(nn.Module):
    """linear -> DoubleSwish -> dropout -> linear.

    Args:
        channels: D. hidden: inner width.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden)
        self.balancer = ActivationBalancer(max_abs=10.0, min_prob=0.25)
        self.out_proj = ActivationDropoutLinear(
            hidden, channels, DOUBLE_SWISH, initial_scale=0.01, shared_over_time=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, D)."""
        projected: Tensor = self.out_proj(self.balancer(self.in_proj(x)), DROPOUT if self.training else 0.0)
        return projected


class ConvolutionModule(nn.Module):
    """gated linear unit -> causal depth-wise convolution -> DoubleSwish -> linear.

    Args:
        channels: D. kernel: K, odd.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.cached = kernel - 1
        self.pointwise_conv1 = nn.Conv1d(channels, 2 * channels, 1)
        self.deriv_balancer1 = ActivationBalancer(max_abs=10.0, max_positive=1.0)
        self.depthwise_conv = nn.Conv1d(channels, channels, kernel, groups=channels)
        self.deriv_balancer2 = ActivationBalancer(max_abs=20.0, max_positive=1.0)
        self.pointwise_conv2 = scale_parameters(nn.Conv1d(channels, channels, 1), 0.05)

    def _gate(self, x: Tensor) -> Tensor:
        conv = self.pointwise_conv1
        return F.glu(self.deriv_balancer1(F.linear(x, conv.weight.squeeze(-1), conv.bias)), dim=-1)

    def _project(self, convolved: Tensor) -> Tensor:
        out = self.pointwise_conv2
        assert out.bias is not None
        return activate_linear(self.deriv_balancer2(convolved), out.weight.squeeze(-1), out.bias, DOUBLE_SWISH)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(T, B, D) -> (T, B, D). ``padding`` (T, B, 1) is True beyond an item's length."""
        gated = self._gate(x)
        if padding is not None:
            gated = gated.masked_fill(padding, 0.0)
        return self._project(depthwise(F.pad(gated, (0, 0, 0, 0, self.cached, 0)), self.depthwise_conv, 0))

    def streaming_forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) -> (T, B, D), and the new cache (B, D, K - 1) of gated frames."""
        # In the layout of the cache: for the few frames of a chunk that is up to four times faster on a CPU.
        extended = torch.cat([cache, self._gate(x).permute(1, 2, 0)], dim=-1)
        return self._project(self.depthwise_conv(extended).permute(2, 0, 1)), extended[..., x.shape[0] :]


class PoolingModule(nn.Module):
    """The mean of the frames so far, projected.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = scale_parameters(nn.Linear(channels, channels, bias=False), 0.1)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """(T, B, D) -> (T, B, D). ``padding`` (T, B, 1), True beyond an item's length, gives zeros there."""
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        mean = _running_sum(x) / _counts(x)
        pooled: Tensor = self.proj(mean)
        return pooled if padding is None else pooled.masked_fill(padding, 0.0)

    def streaming_forward(self, x: Tensor, cached_len: Tensor, cached_avg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk (T, B, D) -> (T, B, D), the new count (B,) int64 of frames, and their mean (B, D)."""
        before = cached_len.to(cached_avg.dtype)[:, None]
        mean = (_running_sum(x) + cached_avg * before) / (_counts(x) + before)
        return self.proj(mean), cached_len + x.shape[0], mean[-1]


def _running_sum(x: Tensor) -> Tensor:
    return x.cumsum(dim=0, dtype=torch.promote_types(x.dtype, torch.float32))


def _counts(x: Tensor) -> Tensor:
    """1 to T, (T, 1, 1)."""
    return torch.arange(1, x.shape[0] + 1, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))[
        :, None, None
    ]
