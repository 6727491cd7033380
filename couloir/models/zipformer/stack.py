"""Stacks of layers, each at a frame rate and width of its own.

Source: Yao et al. 2024, arXiv:2310.11230, "Downsampled encoder structure".
"""
# Shapes: B batch, D model dimension, T frames.

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from couloir.models.common.schedule import ScheduledFloat
from couloir.models.zipformer.layer import BypassModule, StackContext, Zipformer2EncoderLayer
from couloir.models.zipformer.positional import CompactRelPositionalEncoding

WARMUP_BATCHES = 4000.0


def layer_skip_schedule(stack: int, num_stacks: int, layer: int, num_layers: int, factor: int) -> ScheduledFloat:
    """Layer drop of one layer: 0.5 until its part of the warm-up begins, 0.035 sqrt(factor) from its end on."""
    begin = WARMUP_BATCHES * (stack + 1) / (num_stacks + 1)
    width = WARMUP_BATCHES / (num_stacks + 1) / num_layers
    return ScheduledFloat((begin + width * layer, 0.5), (begin + width * (layer + 1), 0.035 * math.sqrt(factor)))


class Zipformer2Encoder(nn.Module):
    """Layers of one stack, which start as copies of one layer.

    Args:
        layer: the layer to copy. skip_rates: layer drop of each copy. pos_dim: width of the positional encoding.
    """

    def __init__(self, layer: Zipformer2EncoderLayer, skip_rates: list[ScheduledFloat], pos_dim: int) -> None:
        super().__init__()
        self.encoder_pos = CompactRelPositionalEncoding(pos_dim)
        layers = [copy.deepcopy(layer) for _ in skip_rates]
        for copied, skip_rate in zip(layers, skip_rates):
            copied.bypass.skip_rate = skip_rate
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None,
        attention_mask: Tensor | None,
        chunk_size: int,
        item_lens: Tensor | None,
        feature_mask: Tensor | None,
    ) -> Tensor:
        """(T, B, D) -> (T, B, D).

        Args:
            x: input. padding: (B, T), True beyond an item's length. attention_mask: (T, T), True where hidden.
            chunk_size, item_lens, feature_mask: see `StackContext`.
        """
        hidden = None if padding is None else padding[None, :, None, :]
        if attention_mask is not None:
            hidden = attention_mask if hidden is None else hidden | attention_mask
        context = StackContext(self.encoder_pos(x), hidden, padding, chunk_size, item_lens, feature_mask)
        if feature_mask is not None:
            x = x * feature_mask
        for layer in self.layers:
            x = layer(x, context)
        return x

    def streaming_forward(
        self, x: Tensor, states: list[Tensor], left_context: int, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """One chunk; see `Zipformer2EncoderLayer.streaming_forward`. ``states`` has six tensors per layer."""
        pos_emb = self.encoder_pos(x, left_context)
        new_states: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Zipformer2EncoderLayer)
            x, layer_states = layer.streaming_forward(x, states[6 * i : 6 * i + 6], pos_emb, mask)
            new_states += layer_states
        return x, new_states


class SimpleDownsample(nn.Module):
    """Weighted mean of groups of frames, with learnt weights.

    Args:
        factor: frames per group.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lens: Tensor | None = None) -> Tensor:
        """(T, B, D) -> (ceil(T / factor), B, D).

        Args:
            x: input. lens: (B,) lengths; the frames beyond an item's length then repeat its last one, as they
                would if it were alone. None: only the frames beyond T do, as in the reference.
        """
        if self.factor == 1:
            return x
        frames, batch, channels = x.shape
        groups = (frames + self.factor - 1) // self.factor
        missing = groups * self.factor - frames
        if lens is not None:
            index = torch.arange(groups * self.factor, device=x.device)[:, None].minimum(lens - 1)
            x = x.gather(0, index.unsqueeze(-1).expand(-1, -1, channels))
        elif torch.jit.is_tracing() or missing > 0:
            x = torch.cat([x, x[frames - 1 :].expand(missing, -1, -1)], dim=0)
        weights = self.bias.softmax(dim=0).to(x.dtype)
        grouped = x.reshape(groups, self.factor, batch * channels)
        return torch.matmul(weights, grouped).view(groups, batch, channels)


class DownsampledZipformer2Encoder(nn.Module):
    """A stack that works on every ``factor`` frames merged into one, with a bypass around it.

    Args:
        encoder: the layers. channels: width. factor: down-sampling.
    """

    def __init__(self, encoder: Zipformer2Encoder, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downsample = SimpleDownsample(factor)
        self.encoder = encoder
        self.out_combiner = BypassModule(channels)

    def _combine(self, x0: Tensor, x: Tensor) -> Tensor:
        frames, batch, channels = x0.shape
        x = x.unsqueeze(1).expand(-1, self.factor, -1, -1).reshape(-1, batch, channels)[:frames]
        return self.out_combiner(x0, x)

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None,
        attention_mask: Tensor | None,
        chunk_size: int,
        item_lens: Tensor | None,
        feature_mask: Tensor | None,
    ) -> Tensor:
        """As `Zipformer2Encoder.forward`; masks, lengths and chunk size are given at 50 frames per second."""
        factor = self.factor
        y = self.encoder(
            self.downsample(x, item_lens),
            None if padding is None else padding[:, ::factor],
            None if attention_mask is None else attention_mask[::factor, ::factor],
            chunk_size if chunk_size < 0 else chunk_size // factor,
            None if item_lens is None else (item_lens + factor - 1) // factor,
            feature_mask,
        )
        return self._combine(x, y)

    def streaming_forward(
        self, x: Tensor, states: list[Tensor], left_context: int, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """As `Zipformer2Encoder.streaming_forward`; context and mask are given at 50 frames per second."""
        y, states = self.encoder.streaming_forward(
            self.downsample(x), states, left_context // self.factor, mask[:, :: self.factor]
        )
        return self._combine(x, y), states
