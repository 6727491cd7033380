"""The Zipformer encoder: stacks at different frame rates.

Source: Yao et al. 2024, arXiv:2310.11230, "Downsampled encoder structure".
"""
# Shapes: B batch, D model dimension, L frames of left context, T frames.

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.attention import chunk_mask
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.layer import Zipformer2EncoderLayer
from couloir.models.zipformer.stack import (
    DownsampledZipformer2Encoder,
    SimpleDownsample,
    Zipformer2Encoder,
    layer_skip_schedule,
)

FEATURE_MASK_KEEP = 0.875


def fit_channels(x: Tensor, width: int, channels: int) -> Tensor:
    """Cut the last axis from ``width`` to ``channels``, or pad it with zeros."""
    return x[..., :channels] if channels <= width else F.pad(x, (0, channels - width))


def merge_outputs(outputs: list[Tensor], widths: Sequence[int]) -> Tensor:
    """The last stack's channels, and beyond them those of the latest stack that has them."""
    pieces, width = [outputs[-1]], widths[-1]
    for output, channels in zip(reversed(outputs[:-1]), reversed(widths[:-1])):
        if channels > width:
            pieces.append(output[..., width:])
            width = channels
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def build_stack(config: ZipformerConfig, index: int) -> nn.Module:
    """One stack of the encoder, down-sampled if its factor is more than 1."""
    sizes = config.as_stacks()[index]
    layer = Zipformer2EncoderLayer(
        channels=sizes["encoder_dim"],
        feedforward_dim=sizes["feedforward_dim"],
        num_heads=sizes["num_heads"],
        query_head_dim=sizes["query_head_dim"],
        pos_head_dim=sizes["pos_head_dim"],
        value_head_dim=sizes["value_head_dim"],
        pos_dim=config.pos_dim,
        kernel=sizes["cnn_module_kernel"],
        causal=config.causal,
    )
    factor, layers, stacks = sizes["downsampling_factor"], sizes["num_encoder_layers"], len(config.downsampling_factor)
    skip_rates = [layer_skip_schedule(index, stacks, i, layers, factor) for i in range(layers)]
    encoder = Zipformer2Encoder(layer, skip_rates, config.pos_dim)
    return encoder if factor == 1 else DownsampledZipformer2Encoder(encoder, sizes["encoder_dim"], factor)


class Zipformer2(nn.Module):
    """Zipformer encoder of embedded frames. Works on (T, B, D).

    Args:
        config: its sizes.
    """

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(build_stack(config, i) for i in range(len(config.downsampling_factor)))
        self.downsample_output = SimpleDownsample(config.output_downsampling_factor)

    def chunk_and_left_context(self) -> tuple[int, int]:
        """A chunk size in frames and a left context in chunks (-1: unlimited).

        In training they are drawn from the configured ones; in eval mode they are always the same.
        """
        config = self.config
        if self.training and config.causal:
            chunk = random.choice(config.chunk_size)
            left = random.choice(config.left_context_frames) if chunk > 0 else -1
        else:
            chunk, left = config.fixed_context
        return (chunk, -1 if left < 0 else max(left // chunk, 1)) if chunk > 0 else (-1, -1)

    def forward(self, x: Tensor, lens: Tensor, exact_padding: bool = False) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            x: embedded frames (T, B, D). lens: (B,) their lengths.
            exact_padding: give each item what it would get alone. Otherwise an item's last frames depend on the
                padding behind it, as in the reference.

        Returns:
            (S, B, output_dim) and (B,) lengths.
        """
        chunk_size, left_chunks = self.chunk_and_left_context()
        padding = torch.arange(x.shape[0], device=x.device) >= lens[:, None]
        attention_mask = chunk_mask(x.shape[0], chunk_size, left_chunks, x.device) if chunk_size > 0 else None
        item_lens = lens if exact_padding else None
        feature_masks = self.feature_masks(x)
        outputs: list[Tensor] = []
        widths = self.config.encoder_dim
        for stack, width, channels, feature_mask in zip(self.encoders, (widths[0], *widths), widths, feature_masks):
            x = fit_channels(x, width, channels)
            x = stack(x, padding, attention_mask, chunk_size, item_lens, feature_mask)
            outputs.append(x)
        x = self.downsample_output(merge_outputs(outputs, widths), item_lens)
        return x, self.config.geometry.sub_sampled(lens)

    def feature_masks(self, x: Tensor) -> list[Tensor | None]:
        """Masks (1, B, D) of each stack that, in training, hide the upper channels of some sequences."""
        config = self.config
        if not self.training:
            return [None] * len(config.encoder_dim)
        first, second = (torch.rand(2, x.shape[1], device=x.device) < FEATURE_MASK_KEEP).to(x.dtype)
        second = first * second
        masks: list[Tensor | None] = []
        for channels, unmasked in zip(config.encoder_dim, config.encoder_unmasked_dim):
            middle = (channels - unmasked) // 2
            widths = ((torch.ones_like(first), unmasked), (first, middle), (second, channels - unmasked - middle))
            mask = torch.cat([keep[None, :, None].expand(1, -1, width) for keep, width in widths], dim=-1)
            masks.append(None if unmasked == channels else mask)
        return masks

    def streaming_forward(
        self, x: Tensor, lens: Tensor, states: list[Tensor], mask: Tensor, left_context: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode one chunk.

        Args:
            x: (T, B, D). lens: (B,) valid frames. states: six tensors per layer (`streaming.initial_states`).
            mask: (B, L + T), True where a cached or new frame is hidden. left_context: L, frames.

        Returns:
            (S, B, output_dim), (B,) lengths, and the new states.
        """
        outputs: list[Tensor] = []
        new_states: list[Tensor] = []
        used, widths = 0, self.config.encoder_dim
        layer_counts = self.config.num_encoder_layers
        for stack, width, channels, layers in zip(self.encoders, (widths[0], *widths), widths, layer_counts):
            assert isinstance(stack, (Zipformer2Encoder, DownsampledZipformer2Encoder))
            stack_states = states[6 * used : 6 * (used + layers)]
            x, stack_states = stack.streaming_forward(
                fit_channels(x, width, channels), stack_states, left_context, mask
            )
            used += layers
            outputs.append(x)
            new_states += stack_states
        x = self.downsample_output(merge_outputs(outputs, widths))
        return x, self.config.geometry.sub_sampled(lens), new_states
