"""Conformer encoder behind two convolutions that sub-sample by four.

Source: Gulati et al. 2020 (arXiv:2005.08100), section 2, in ESPnet's form.

Shapes: B batch, T feature frames, S output frames, F feature bins, D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.attention import RelativeAttention
from couloir.models.paraformer.config import ParaformerConfig
from couloir.models.paraformer.layers import FeedForward, layer_norm, padding_of
from couloir.models.paraformer.memory import depthwise
from couloir.models.paraformer.positions import RelativePositions

SHORTEST = 7
"""Feature frames that one output frame sees."""


def sub_sampled_as_reference(lens: Tensor, frames: int) -> Tensor:
    """Output lengths (B,) by the reference's mask, which depend on the padded length.

    Twice the mask's last two frames are dropped and then every second one is kept.
    """
    for _ in range(2):
        frames = (frames - 1) // 2
        lens = ((lens + 1) // 2).clamp(max=frames)
    return lens


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions of stride 2, a projection, and positions.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.conv = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU()
        )
        positions = RelativePositions(width, config.positional_dropout)
        self.out = nn.Sequential(nn.Linear(width * config.front_end_bins, width), positions)

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> (B, (T - 3) // 4, D) and the positions' encodings ((T - 3) // 4, D)."""
        feats = F.pad(feats, (0, 0, 0, max(0, SHORTEST - feats.shape[1])))
        image = self.conv(feats.unsqueeze(1))  # (B, D, S, F')
        return self.out(image.transpose(1, 2).flatten(2))


class ConvolutionModule(nn.Module):
    """linear -> gated linear unit -> depth-wise convolution -> batch norm -> swish -> linear.

    Args:
        width: channels. kernel: odd, frames.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, groups=width, padding=kernel // 2)
        self.norm = nn.BatchNorm1d(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, D). Frames where ``padding`` (B, S) is True count as zero in the convolution."""
        first, second, conv = self.pointwise_conv1, self.pointwise_conv2, self.depthwise_conv
        x = F.glu(F.linear(x, first.weight.squeeze(-1), first.bias), dim=-1)
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        margin = conv.kernel_size[0] // 2
        x = depthwise(x, conv.weight, conv.bias, margin, margin)
        x = F.silu(self.norm(x.flatten(0, 1)).view_as(x))
        return F.linear(x, second.weight.squeeze(-1), second.bias)


class ConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, norm.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width, hidden, dropout = config.encoder_dim, config.encoder_feedforward_dim, config.dropout
        self.self_attn = RelativeAttention(width, config.encoder_num_heads, config.attention_dropout)
        self.feed_forward = FeedForward(width, hidden, dropout, swish=True)
        self.feed_forward_macaron = FeedForward(width, hidden, dropout, swish=True)
        self.conv_module = ConvolutionModule(width, config.encoder_kernel)
        self.norm_ff = layer_norm(width)
        self.norm_mha = layer_norm(width)
        self.norm_ff_macaron = layer_norm(width)
        self.norm_conv = layer_norm(width)
        self.norm_final = layer_norm(width)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor, lens: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, D); ``lens`` (B,) makes every item what it is alone, None is the reference's way."""
        x = x + 0.5 * self._drop(self.feed_forward_macaron(self.norm_ff_macaron(x)))
        x = x + self._drop(self.self_attn(self.norm_mha(x), positions, padding, lens))
        x = x + self._drop(self.conv_module(self.norm_conv(x), None if lens is None else padding))
        x = x + 0.5 * self._drop(self.feed_forward(self.norm_ff(x)))
        return self.norm_final(x)


class ConformerEncoder(nn.Module):
    """Sub-sampling, layers, norm.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        self.embed = Subsampling(config)
        self.encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_encoder_layers))
        self.after_norm = layer_norm(config.encoder_dim)
        self.geometry = config.geometry

    def forward(self, feats: Tensor, lens: Tensor, exact: bool = True) -> tuple[Tensor, Tensor]:
        """(B, T, F) and lengths (B,) -> (B, S, D) and (B,).

        Args:
            feats, lens: features. exact: every item is what it would be alone. Otherwise lengths, positions and
                convolutions depend on the padding, as in the reference.
        """
        x, positions = self.embed(feats)
        if exact:
            lens = self.geometry.output_frames(lens).clamp(min=0)
        else:
            lens = sub_sampled_as_reference(lens, feats.shape[1])
        padding = padding_of(lens, x.shape[1])
        for layer in self.encoders:
            x = layer(x, positions, padding, lens if exact else None)
        return self.after_norm(x), lens
