"""SAN-M encoder: self-attention with memory blocks.

Source: Gao et al. 2020 (arXiv:2006.01713, SAN-M); as the encoder of a Paraformer Gao et al. 2022
(arXiv:2206.08317), section 3.1.

Shapes: B batch, T frames, F feature bins, D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.attention import MemoryAttention
from couloir.models.paraformer.config import ParaformerConfig
from couloir.models.paraformer.layers import FeedForward, layer_norm, padding_of
from couloir.models.paraformer.positions import ScaledPositions, from_one


class SanmEncoderLayer(nn.Module):
    """Pre-norm layer: attention with memory, then a feed-forward module.

    Args:
        config: sizes. in_width: of the inputs. Where it is not the model's, the attention stands without a residual.
    """

    def __init__(self, config: ParaformerConfig, in_width: int) -> None:
        super().__init__()
        width, dropout = config.encoder_dim, config.dropout
        self.self_attn = MemoryAttention(
            in_width,
            width,
            config.encoder_num_heads,
            config.encoder_kernel,
            config.encoder_shift,
            config.attention_dropout,
        )
        self.feed_forward = FeedForward(width, config.encoder_feedforward_dim, dropout)
        self.norm1 = layer_norm(in_width)
        self.norm2 = layer_norm(width)
        self.residual = in_width == width
        self.dropout = dropout

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """(B, T, D'), padding (B, T) -> (B, T, D)."""
        attended = F.dropout(self.self_attn(self.norm1(x), padding), self.dropout, self.training)
        x = x + attended if self.residual else attended
        return x + F.dropout(self.feed_forward(self.norm2(x)), self.dropout, self.training)


class SanmEncoder(nn.Module):
    """Positions, layers, norm: as many output frames as input frames.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.embed = ScaledPositions(from_one, config.feature_dim, width)
        self.encoders0 = nn.ModuleList([SanmEncoderLayer(config, config.feature_dim)])
        self.encoders = nn.ModuleList(SanmEncoderLayer(config, width) for _ in range(config.num_encoder_layers - 1))
        self.after_norm = layer_norm(width)

    def forward(self, feats: Tensor, lens: Tensor, exact: bool = True) -> tuple[Tensor, Tensor]:
        """(B, T, F) and lengths (B,) -> (B, T, D) and (B,).

        What stands beyond a length changes nothing before it; ``exact`` is there for the other encoder.
        """
        x, padding = self.embed(feats), padding_of(lens, feats.shape[1])
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, padding)
        return self.after_norm(x), lens
