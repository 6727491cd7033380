"""Speech recognition model: front end, Zipformer encoder and heads. Its state dict is icefall's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from couloir.models.common.init import scale_parameters
from couloir.models.common.schedule import set_batch_count
from couloir.models.common.state import get_training_state, set_training_state
from couloir.models.heads.attention_decoder import AttentionDecoder
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.transducer import Decoder, Joiner
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

Padding = Literal["exact", "reference"]
CTC_DROPOUT = 0.1


def num_subsampled_frames(feat_lens: Tensor, config: ZipformerConfig) -> Tensor:
    """Encoder output lengths (B,) of ``feat_lens`` (B,) feature frames."""
    return config.geometry.output_frames(feat_lens)


class AsrModel(nn.Module):
    """Zipformer with the configured heads.

    Args:
        zipformer: encoder sizes. heads: heads and their sizes.
    """

    def __init__(self, zipformer: ZipformerConfig, heads: HeadsConfig) -> None:
        super().__init__()
        self.zipformer_config = zipformer
        self.heads_config = heads
        self.encoder_embed = Conv2dSubsampling(
            zipformer.feature_dim, zipformer.encoder_dim[0], zipformer.frontend_channels
        )
        self.encoder = Zipformer2(zipformer)
        width, vocab = zipformer.output_dim, heads.vocab_size
        # Registered in the order of icefall's state dict.
        if heads.use_transducer:
            self.decoder = Decoder(vocab, heads.decoder_dim, heads.blank_id, heads.context_size)
            self.joiner = Joiner(width, heads.decoder_dim, heads.joiner_dim, vocab)
            self.simple_am_proj = scale_parameters(nn.Linear(width, vocab), 0.25)
            self.simple_lm_proj = scale_parameters(nn.Linear(heads.decoder_dim, vocab), 0.25)
        if heads.use_ctc:
            self.ctc_output = nn.Sequential(nn.Dropout(CTC_DROPOUT), nn.Linear(width, vocab), nn.LogSoftmax(dim=-1))
        if heads.use_attention_decoder:
            self.attention_decoder = AttentionDecoder(heads, width)

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

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """(B, S, D) -> CTC log-probabilities (B, S, V)."""
        return self.ctc_output(encoder_out)


def build_model(zipformer: ZipformerConfig, heads: HeadsConfig) -> AsrModel:
    """A freshly initialised model."""
    return AsrModel(zipformer, heads)
