"""Speech recognition model: front end, Zipformer encoder and heads. Its state dict is icefall's."""
# Shapes: B batch, D model dimension, F feature bins, S output frames, T frames.

from __future__ import annotations

import torch
from torch import Tensor

from couloir.models.common.schedule import set_batch_count
from couloir.models.common.state import get_training_state, set_training_state
from couloir.models.geometry import FrameGeometry
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.model import Padding, SpeechModel
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.encoder import Zipformer2
from couloir.models.zipformer.frontend import Conv2dSubsampling
from couloir.models.zipformer.streaming import left_context_mask

__all__ = [
    "AsrModel",
    "build_model",
    "get_training_state",
    "num_subsampled_frames",
    "set_batch_count",
    "set_training_state",
]


def num_subsampled_frames(feat_lens: Tensor, config: ZipformerConfig) -> Tensor:
    """Encoder output lengths (B,) of ``feat_lens`` (B,) feature frames."""
    return config.geometry.output_frames(feat_lens)


class AsrModel(SpeechModel):
    """Zipformer with the configured heads.

    Args:
        zipformer: encoder sizes. heads: heads and their sizes.
    """

    def __init__(self, zipformer: ZipformerConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.zipformer_config = zipformer
        self.encoder_embed = Conv2dSubsampling(
            zipformer.feature_dim, zipformer.encoder_dim[0], zipformer.frontend_channels
        )
        self.encoder = Zipformer2(zipformer)
        self.add_heads(heads, zipformer.output_dim)

    def forward_encoder(
        self, feats: Tensor, feat_lens: Tensor, padding: Padding | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of features.

        Args:
            feats: (B, T, F) log-mel features. feat_lens: (B,) their lengths, each at least 9.
            padding: "exact" gives every item what it would get alone, whatever the batch; "reference" lets an
                item's last frames depend on the padding behind it, as icefall does. None: exact in eval mode, and
                the cheaper reference in training.

        Returns:
            (B, S, D) and (B,) lengths.
        """
        exact = padding == "exact" if padding is not None else not self.training
        lens = self.zipformer_config.geometry.embedded(feat_lens)
        embedded = self.encoder_embed(feats, lens if exact else None)
        encoded, lens = self.encoder(embedded.transpose(0, 1).contiguous(), lens, exact)
        return encoded.transpose(0, 1), lens

    def geometry(self) -> FrameGeometry:
        """As of `SpeechModel`."""
        return self.zipformer_config.geometry

    def context(self) -> tuple[int, int] | None:
        """As of `SpeechModel`."""
        return self.zipformer_config.fixed_context if self.zipformer_config.causal else None

    def streaming_forward(self, feats: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Encode the next chunk of every stream; eval mode only.

        Args:
            feats: (B, 2 c + 13, F): a chunk of c frames at 50 per second advances 2 c feature frames and looks 13
                further ahead. states: from `streaming.initial_states` or the last call.

        Returns:
            (B, S, D) and the new states.
        """
        *layer_states, embed_state, processed = states
        x, embed_state = self.encoder_embed.streaming_forward(feats, embed_state)
        batch, frames, _ = x.shape
        left_context = layer_states[0].shape[0] * self.zipformer_config.downsampling_factor[0]
        mask = torch.cat([left_context_mask(processed, left_context), x.new_zeros(batch, frames).bool()], dim=1)
        lens = torch.full_like(processed, frames)
        x, _, layer_states = self.encoder.streaming_forward(x.transpose(0, 1), lens, layer_states, mask, left_context)
        return x.transpose(0, 1), [*layer_states, embed_state, processed + frames]


def build_model(zipformer: ZipformerConfig, heads: HeadsConfig) -> AsrModel:
    """A freshly initialised model."""
    return AsrModel(zipformer, heads)
