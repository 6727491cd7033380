"""Convolution modules: gated depth-wise convolution, symmetric or chunk-causal.

Source: the convolution module of Gulati et al. 2020 (Conformer, arXiv:2005.08100), section 2.2, with the activation of
Yao et al. 2024 (arXiv:2310.11230), "SwooshR and SwooshL activation functions"; the chunk-causal form is icefall's.
"""
# Shapes: B batch, C channels, D model dimension, T frames.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.activations import ActivationDropoutLinear
from couloir.models.common.balancer import Balancer
from couloir.models.common.convolution import depthwise
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.common.whiten import Whiten
from couloir.models.zipformer.activations import SWOOSH_R
from couloir.models.zipformer.norm import cast_like


class ChunkCausalDepthwiseConv(nn.Module):
    """A causal convolution plus one that sees the whole chunk, with a learnt gain near the chunk's edges.

    Args:
        channels: channels. kernel: odd kernel size of the chunk-wise part, frames.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.left_pad = kernel // 2
        self.chunkwise_conv_scale = nn.Parameter(torch.zeros(2, channels, kernel))
        self.causal_conv = nn.Conv1d(channels, channels, (kernel + 1) // 2, groups=channels)
        self.chunkwise_conv = nn.Conv1d(channels, channels, kernel, groups=channels, padding=kernel // 2)

    def forward(self, x: Tensor, chunk_size: int = -1, lens: Tensor | None = None) -> Tensor:
        """Convolve along time, (T, B, C) -> (T, B, C).

        Args:
            x: input, zero beyond each item's length.
            chunk_size: frames; -1 or more than T means one chunk of T frames.
            lens: (B,) lengths; an item shorter than a chunk then is one chunk of its own length, as it would
                be alone. None: every item counts as T frames long, as in the reference.
        """
        frames, batch, channels = x.shape
        size = frames if chunk_size < 0 or chunk_size > frames else chunk_size
        causal = depthwise(F.pad(x, (0, 0, 0, 0, self.left_pad, 0)), self.causal_conv, 0)
        chunks = -(-frames // size)
        padded = F.pad(x, (0, 0, 0, 0, 0, chunks * size - frames))
        # (chunks * size, B, C) -> (size, chunks * B, C)
        split = padded.reshape(chunks, size, batch * channels).transpose(0, 1).reshape(size, chunks * batch, channels)
        local = depthwise(split, self.chunkwise_conv, self.left_pad).reshape(size, chunks, batch, channels)
        if lens is None:
            local = local * cast_like(local, self._edge_gain(size)).t()[:, None, None]
        local = local.transpose(0, 1).reshape(chunks * size, batch, channels)[:frames]
        if lens is not None:
            local = local * cast_like(local, self._item_gain(frames, chunk_size, lens))
        return causal + local

    def _edge_gain(self, size: int) -> Tensor:
        """Gain (C, size) of the frames of one chunk."""
        left, right = self.chunkwise_conv_scale[0], self.chunkwise_conv_scale[1]
        if size < self.kernel:
            return 1.0 + left[:, :size] + right[:, self.kernel - size :]
        return 1.0 + F.pad(left, (0, size - self.kernel)) + F.pad(right, (size - self.kernel, 0))

    def _item_gain(self, frames: int, chunk_size: int, lens: Tensor) -> Tensor:
        """Gain (T, B, C) where an item shorter than a chunk is one chunk of its own length."""
        size = lens if chunk_size < 0 else lens.clamp(max=chunk_size)
        position = torch.arange(frames, device=lens.device)[:, None] % size
        from_left, from_right = position, position + self.kernel - size
        gains = F.pad(self.chunkwise_conv_scale, (0, 1)).permute(0, 2, 1)
        left = gains[0][from_left.clamp(max=self.kernel)]
        right = gains[1][torch.where(from_right < 0, self.kernel, from_right)]
        return 1.0 + left + right

    def streaming_forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve one chunk, (T, B, C) -> (T, B, C). ``cache`` (B, C, kernel // 2) are the frames before it."""
        extended = torch.cat([cache.permute(2, 0, 1), x], dim=0)
        causal = depthwise(extended, self.causal_conv, 0)
        local = depthwise(x, self.chunkwise_conv, self.left_pad)
        local = local * cast_like(local, self._edge_gain(x.shape[0])).t()[:, None]
        return causal + local, extended[extended.shape[0] - self.left_pad :].permute(1, 2, 0)


class ConvolutionModule(nn.Module):
    """gated linear unit -> depth-wise convolution -> SwooshR -> linear.

    Args:
        channels: width. kernel: odd kernel size, frames. causal: chunk-causal convolution.
    """

    def __init__(self, channels: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.channels = channels
        self.in_proj = nn.Linear(channels, 2 * channels)
        self.balancer1 = Balancer(
            min_positive=ScheduledFloat((0.0, 0.05), (8000.0, 0.025)),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=ScheduledFloat((0.0, 5.0), (8000.0, 10.0), default=1.0),
        )
        self.depthwise_conv: nn.Module
        if causal:
            self.depthwise_conv = ChunkCausalDepthwiseConv(channels, kernel)
        else:
            self.depthwise_conv = nn.Conv1d(channels, channels, kernel, groups=channels, padding=kernel // 2)
        self.balancer2 = Balancer(
            min_positive=ScheduledFloat((0.0, 0.1), (8000.0, 0.05)),
            max_positive=1.0,
            min_abs=ScheduledFloat((0.0, 0.2), (20000.0, 0.5)),
            max_abs=10.0,
        )
        self.whiten = Whiten(1, ScheduledFloat((0.0, 7.5), (20000.0, 15.0), default=7.5), grad_scale=0.01)
        self.out_proj = ActivationDropoutLinear(channels, channels, SWOOSH_R, initial_scale=0.05)

    def _gate(self, x: Tensor, padding: Tensor | None) -> Tensor:
        gated = F.glu(self.balancer1(self.in_proj(x), slice(self.channels, None)), dim=-1)
        return gated if padding is None else gated.masked_fill(padding.t().unsqueeze(-1), 0.0)

    def forward(
        self, x: Tensor, padding: Tensor | None = None, chunk_size: int = -1, lens: Tensor | None = None
    ) -> Tensor:
        """(T, B, D) -> (T, B, D).

        Args:
            x: input. padding: (B, T), True beyond an item's length.
            chunk_size, lens: see `ChunkCausalDepthwiseConv.forward`; unused by the symmetric convolution.
        """
        x = self._gate(x, padding)
        if isinstance(self.depthwise_conv, nn.Conv1d):
            x = depthwise(x, self.depthwise_conv, self.depthwise_conv.kernel_size[0] // 2)
        else:
            x = self.depthwise_conv(x, chunk_size, lens)
        return self.out_proj(self.whiten(self.balancer2(x)))

    def streaming_forward(self, x: Tensor, cache: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (T, B, D) -> (T, B, D), and the new cache (B, D, kernel // 2)."""
        assert isinstance(self.depthwise_conv, ChunkCausalDepthwiseConv)
        x, cache = self.depthwise_conv.streaming_forward(self._gate(x, padding), cache)
        return self.out_proj(x), cache
