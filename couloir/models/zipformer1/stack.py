"""Stacks of layers, each at its own frame rate.

Source: Yao et al. 2024, arXiv:2310.11230, "Downsampled encoder structure".

Shapes: T frames of the stack's input, B batch, D model dimension, k the stack's down-sampling factor, N its
layers, L frames of left context.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from couloir.models.common.schedule import ScheduledFloat
from couloir.models.zipformer1.layer import LayerState, ZipformerEncoderLayer
from couloir.models.zipformer1.positional import RelPositionalEncoding
from couloir.models.zipformer1.resampling import AttentionDownsample, SimpleCombiner, SimpleUpsample

WARMUP_BATCHES = 4000.0
FIRST_DROP, LAST_DROP = 0.5, 0.05


def layer_drop_schedule(stack: int, num_stacks: int, layer: int, num_layers: int) -> ScheduledFloat:
    """Layer drop of one layer: 0 in the first batch, 0.5 until its part of the warm-up begins, 0.05 from its end on.

    Within its part it falls by 0.45 times (batch - begin) / end: icefall's way, which jumps at the end.
    """
    begin = WARMUP_BATCHES * (stack + 1) / (num_stacks + 1)
    width = WARMUP_BATCHES / (num_stacks + 1) / num_layers
    begin, end = begin + layer * width, begin + (layer + 1) * width
    before_jump = FIRST_DROP - (FIRST_DROP - LAST_DROP) * (end - begin) / end
    return ScheduledFloat((0.0, 0.0), (0.0, FIRST_DROP), (begin, FIRST_DROP), (end, before_jump), (end, LAST_DROP))


def layers_to_drop(rates: Sequence[float], shared: random.Random) -> set[int]:
    """Layers that a batch leaves out, by their rates.

    How many is drawn from ``shared``, which processes that train together seed alike, so that none waits for the
    others; which, each process draws for itself.
    """
    total = sum(rates)
    number = int(total) + (shared.random() < total - int(total))
    # The largest of u^(1/rate) are a sample without replacement weighted by the rates (Efraimidis and Spirakis 2006).
    keys = [(random.random() ** (1.0 / rate), layer) for layer, rate in enumerate(rates) if rate > 0.0]
    return {layer for _, layer in sorted(keys, reverse=True)[:number]}


@dataclass
class StackMasks:
    """What all stacks share in one call, at the rate of the embedding.

    Attributes:
        padding: (T, B), True beyond an item's length; None: no item is shorter than T.
        chunks: (T, T), True where the source is out of the target's reach; None: all is in reach.
        item_lens: (B,) lengths where each item must get what it would get alone, else None.
    """

    padding: Tensor | None = None
    chunks: Tensor | None = None
    item_lens: Tensor | None = None

    def at_rate(self, factor: int) -> StackMasks:
        """The same after down-sampling by ``factor``."""
        return StackMasks(
            None if self.padding is None else self.padding[::factor],
            None if self.chunks is None else self.chunks[::factor, ::factor],
            None if self.item_lens is None else (self.item_lens + factor - 1) // factor,
        )

    def attention(self) -> Tensor | None:
        """True where a source is hidden, (1, 1 or B, 1 or T, T)."""
        if self.padding is None:
            return self.chunks
        hidden = self.padding.t()[None, :, None, :]
        return hidden if self.chunks is None else hidden | self.chunks


class ZipformerEncoder(nn.Module):
    """Layers of one stack, which start as copies of one layer.

    Args:
        layer: the layer to copy. channels: D. drop_rates: layer drop of each copy.
        seed: tells the stack's draws of how many layers to drop from those of the other stacks.
    """

    def __init__(
        self, layer: ZipformerEncoderLayer, channels: int, drop_rates: Sequence[ScheduledFloat], seed: int
    ) -> None:
        super().__init__()
        self.encoder_pos = RelPositionalEncoding(channels)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in drop_rates)
        self.drop_rates = nn.ModuleList(drop_rates)
        self.seed = seed

    def _dropped(self) -> set[int]:
        if not self.training:
            return set()
        counts = [rate.batch_count or 0.0 for rate in self.drop_rates if isinstance(rate, ScheduledFloat)]
        return layers_to_drop([rate() for rate in self.drop_rates], random.Random(f"{counts[0]} {self.seed}"))

    def forward(self, x: Tensor, masks: StackMasks, feature_mask: Tensor | None = None) -> Tensor:
        """(T, B, D) -> (T, B, D).

        Args:
            x: input. masks: at the rate of ``x``. feature_mask: (T, B, D) of 0 and 1, or None.
        """
        pos_emb, hidden = self.encoder_pos(x), masks.attention()
        padding = None if masks.padding is None else masks.padding.unsqueeze(-1)
        dropped = self._dropped()
        if feature_mask is not None:
            x = x * feature_mask
        for index, layer in enumerate(self.layers):
            if index in dropped:
                continue
            x = layer(x, pos_emb, hidden, padding)
            if feature_mask is not None:
                x = x * feature_mask
        return x

    def streaming_forward(
        self, x: Tensor, states: Sequence[LayerState], mask: Tensor | None
    ) -> tuple[Tensor, list[LayerState]]:
        """One chunk (T, B, D) -> (T, B, D), and the new states of the layers.

        ``mask`` (1, B, 1, L + T) is True where a cached frame is hidden.
        """
        pos_emb = self.encoder_pos(x, states[0].cached_key.shape[0])
        new_states = []
        for layer, state in zip(self.layers, states):
            assert isinstance(layer, ZipformerEncoderLayer)
            x, state = layer.streaming_forward(x, state, pos_emb, mask)
            new_states.append(state)
        return x, new_states


class DownsampledZipformerEncoder(nn.Module):
    """A stack that works on every k frames merged into one, combined with its input.

    Args:
        encoder: the layers. in_channels, channels: widths of the input and of the layers. factor: k.
    """

    def __init__(self, encoder: ZipformerEncoder, in_channels: int, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downsample = AttentionDownsample(in_channels, channels, factor)
        self.encoder = encoder
        self.upsample = SimpleUpsample(channels, factor)
        self.out_combiner = SimpleCombiner(in_channels, channels)

    def _combine(self, x0: Tensor, x: Tensor) -> Tensor:
        combined: Tensor = self.out_combiner(x0, self.upsample(x)[: x0.shape[0]])
        return combined

    def forward(self, x: Tensor, masks: StackMasks, feature_mask: Tensor | None = None) -> Tensor:
        """(T, B, in_channels) -> (T, B, D).

        Args:
            x: input. masks: at the rate of ``x``. feature_mask: (ceil(T / k), B, D) of 0 and 1, or None.
        """
        merged = self.downsample(x, masks.item_lens)
        return self._combine(x, self.encoder(merged, masks.at_rate(self.factor), feature_mask))

    def streaming_forward(
        self, x: Tensor, states: Sequence[LayerState], mask: Tensor | None
    ) -> tuple[Tensor, list[LayerState]]:
        """As `ZipformerEncoder.streaming_forward`; ``mask`` is at the stack's own rate."""
        y, new_states = self.encoder.streaming_forward(self.downsample(x), states, mask)
        return self._combine(x, y), new_states


def feature_keep_mask(keep: Tensor, channels: int, unmasked: int) -> Tensor | None:
    """The mask (T, B, channels) that zeroes channels from ``unmasked`` on where ``keep`` (T, B) is 0."""
    if unmasked == channels:
        return None
    ones = torch.ones_like(keep).unsqueeze(-1).expand(-1, -1, unmasked)
    return torch.cat([ones, keep.unsqueeze(-1).expand(-1, -1, channels - unmasked)], dim=-1)
