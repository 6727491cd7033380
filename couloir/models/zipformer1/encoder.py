"""The first-generation streaming Zipformer encoder: front end, and stacks at different frame rates.

Source: Yao et al. 2024, arXiv:2310.11230, "Downsampled encoder structure", describes its successor.

Shapes: B batch, T feature frames, F feature bins, E frames of the embedding, S output frames, D model dimension,
k a stack's down-sampling factor, L cached frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from couloir.models.common.attention import chunk_mask
from couloir.models.common.schedule import ScheduledFloat
from couloir.models.zipformer1.config import EMBED_CHANNELS, Zipformer1Config
from couloir.models.zipformer1.frontend import Conv2dSubsampling
from couloir.models.zipformer1.layer import LayerState, ZipformerEncoderLayer
from couloir.models.zipformer1.resampling import AttentionDownsample, SimpleCombiner
from couloir.models.zipformer1.stack import (
    DownsampledZipformerEncoder,
    StackMasks,
    ZipformerEncoder,
    feature_keep_mask,
    layer_drop_schedule,
)

FEATURE_MASK_PROB = 0.15
SHARE_OF_CHUNKS = 0.75
OUTPUT_FACTOR = 2


def build_stack(config: Zipformer1Config, index: int) -> nn.Module:
    """One stack of the encoder, down-sampled if its factor is more than 1."""
    sizes, stacks = config.as_stacks()[index], len(config.encoder_dims)
    width, factor, layers = sizes["encoder_dims"], sizes["zipformer_downsampling_factors"], sizes["num_encoder_layers"]
    layer = ZipformerEncoderLayer(
        width, sizes["attention_dims"], sizes["nhead"], sizes["feedforward_dims"], sizes["cnn_module_kernels"]
    )
    drop_rates = [layer_drop_schedule(index, stacks, i, layers) for i in range(layers)]
    encoder = ZipformerEncoder(layer, width, drop_rates, seed=index)
    if factor == 1:
        return encoder
    return DownsampledZipformerEncoder(encoder, config.encoder_dims[max(index - 1, 0)], width, factor)


class Zipformer(nn.Module):
    """Encoder of features.

    Args:
        config: its sizes and contexts.
    """

    def __init__(self, config: Zipformer1Config) -> None:
        super().__init__()
        self.config = config
        self.encoder_embed = Conv2dSubsampling(config.embed_bins, config.encoder_dims[0], EMBED_CHANNELS)
        stacks = range(len(config.encoder_dims))
        self.encoders = nn.ModuleList(build_stack(config, i) for i in stacks)
        self.skip_sources = [config.skip_source(i) for i in stacks]
        widths = config.encoder_dims
        self.skip_modules = nn.ModuleDict(
            {
                str(i): SimpleCombiner(widths[source], widths[i - 1])
                for i, source in enumerate(self.skip_sources)
                if source is not None
            }
        )
        self.skip_dropout = ScheduledFloat((0.0, 0.5), (4000.0, 0.025))
        self.downsample_output = AttentionDownsample(config.output_dim, config.output_dim, OUTPUT_FACTOR)

    def chunk_and_left_context(self, frames: int) -> tuple[int, int]:
        """Chunk size in 50 Hz frames (-1: full context) and chunks before it (-1: all), for E ``frames``.

        In training it is drawn: full context, or a multiple of the coarsest factor up to ``short_chunk_size``.
        """
        config = self.config
        if not self.training:
            return config.decode_chunk_size, config.num_left_chunks
        coarsest = config.coarsest
        groups = frames // coarsest
        drawn = random.randint(1, groups - 1) if groups > 1 else groups
        if drawn > SHARE_OF_CHUNKS * groups or groups < 2:
            return -1, -1
        return (drawn % (config.short_chunk_size // coarsest) + 1) * coarsest, config.num_left_chunks

    def forward(self, feats: Tensor, feat_lens: Tensor, exact_padding: bool = False) -> tuple[Tensor, Tensor]:
        """Encode a batch, whose attention is masked as if it came in chunks.

        Args:
            feats: (B, T, F). feat_lens: (B,).
            exact_padding: give each item what it would get alone. Otherwise an item's last frames depend on the
                padding behind it, as in the reference.

        Returns:
            (B, S, D) and (B,) lengths.
        """
        x = self.encoder_embed(feats).transpose(0, 1).contiguous()
        lens = self.config.geometry.embedded(feat_lens).to(x.device)
        chunk_size, left_chunks = self.chunk_and_left_context(x.shape[0])
        masks = StackMasks(
            padding=torch.arange(x.shape[0], device=x.device)[:, None] >= lens,
            chunks=chunk_mask(x.shape[0], chunk_size, left_chunks, x.device) if chunk_size > 0 else None,
            item_lens=lens if exact_padding else None,
        )
        feature_masks = self.feature_masks(x)
        outputs: list[Tensor] = []
        for index, stack in enumerate(self.encoders):
            x = stack(self._with_skip(index, x, outputs), masks, feature_masks[index])
            outputs.append(x)
        x = self.downsample_output(x, masks.item_lens)
        return x.transpose(0, 1), self.config.geometry.sub_sampled(lens)

    def _with_skip(self, index: int, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The input of a stack: the output of that before it, in most batches combined with an earlier one's."""
        source = self.skip_sources[index]
        rate = self.skip_dropout()
        if source is None or (rate > 0.0 and random.random() < rate):
            return x
        combined: Tensor = self.skip_modules[str(index)](outputs[source], x)
        return combined

    def feature_masks(self, x: Tensor) -> list[Tensor | None]:
        """Masks (ceil(E / k), B, D) that, in training, hide the upper channels of some frames of all stacks.

        Args:
            x: embedded frames (E, B, D).
        """
        stacks = self.config.as_stacks()
        if not self.training:
            return [None] * len(stacks)
        frames, batch, _ = x.shape
        coarsest = self.config.coarsest
        keep = torch.rand(-(-frames // coarsest), batch, device=x.device).ge_(FEATURE_MASK_PROB).to(x.dtype)
        masks = []
        for sizes in stacks:
            factor = sizes["zipformer_downsampling_factors"]
            repeated = keep.repeat_interleave(coarsest // factor, dim=0)[: -(-frames // factor)]
            masks.append(feature_keep_mask(repeated, sizes["encoder_dims"], sizes["encoder_unmasked_dims"]))
        return masks

    def streaming_forward(
        self, feats: Tensor, states: Sequence[Sequence[LayerState]], masks: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, list[list[LayerState]]]:
        """Encode the next chunk of B streams.

        Args:
            feats: (B, T, F), chunk and look-ahead. states: of each stack's layers.
            masks: of each stack, (1, B, 1, L + E / k), True where a cached frame is hidden.

        Returns:
            (B, S, D) and the new states.
        """
        x = self.encoder_embed(feats).transpose(0, 1)
        outputs: list[Tensor] = []
        new_states: list[list[LayerState]] = []
        for index, stack in enumerate(self.encoders):
            assert isinstance(stack, (ZipformerEncoder, DownsampledZipformerEncoder))
            x = self._with_skip(index, x, outputs)
            x, state = stack.streaming_forward(x, states[index], None if masks is None else masks[index])
            outputs.append(x)
            new_states.append(state)
        return self.downsample_output(x).transpose(0, 1), new_states
