"""Parallel decoders: vectors of all tokens in, logits of all tokens out.

Source: Gao et al. 2022 (arXiv:2206.08317), section 3.1; the layers of the SAN-M form are those of Gao et al. 2020
(arXiv:2006.01713, SAN-M).

Shapes: B batch, K tokens, S encoder frames, D channels, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.attention import Attention, FusedCrossAttention
from couloir.models.paraformer.config import ParaformerConfig
from couloir.models.paraformer.layers import FeedForward, NormedFeedForward, layer_norm, padding_of
from couloir.models.paraformer.memory import Memory
from couloir.models.paraformer.positions import ScaledPositions, from_zero


class SanmDecoderLayer(nn.Module):
    """A feed-forward module without a residual, a memory block, attention to the encoder.

    Args:
        config: sizes. memory: with a memory block; without one the feed-forward module is all. attends: with attention.
    """

    def __init__(self, config: ParaformerConfig, memory: bool = True, attends: bool = True) -> None:
        super().__init__()
        width, dropout = config.encoder_dim, config.attention_dropout
        if memory:
            self.self_attn = Memory(width, config.decoder_kernel, config.decoder_shift, dropout)
        if attends:
            self.src_attn = FusedCrossAttention(width, config.decoder_num_heads, dropout)
        self.feed_forward = NormedFeedForward(width, config.decoder_feedforward_dim, config.dropout)
        self.norm1 = layer_norm(width)
        if memory:
            self.norm2 = layer_norm(width)
        if attends:
            self.norm3 = layer_norm(width)
        self.memory, self.attends = memory, attends
        self.dropout = config.dropout

    def forward(self, x: Tensor, behind: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, D), given what is behind the tokens (B, K), and the encoder's (B, S, D) and (B, S)."""
        y = self.feed_forward(self.norm1(x))
        if not self.memory:
            return y
        x = x + F.dropout(self.self_attn(self.norm2(y), behind), self.dropout, self.training)
        if self.attends:
            x = x + F.dropout(self.src_attn(self.norm3(x), memory, padding), self.dropout, self.training)
        return x


class SanmDecoder(nn.Module):
    """Layers that attend to the encoder, layers that do not, a last feed-forward layer; norm and output.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width, attending = config.encoder_dim, config.num_decoder_attention_layers
        self.embed = nn.Sequential(nn.Embedding(config.vocab_size, width))
        self.after_norm = layer_norm(width)
        self.output_layer = nn.Linear(width, config.vocab_size)
        self.decoders = nn.ModuleList(SanmDecoderLayer(config) for _ in range(attending))
        others = config.num_decoder_layers - attending
        self.decoders2 = nn.ModuleList(SanmDecoderLayer(config, attends=False) for _ in range(others))
        self.decoders3 = nn.ModuleList([SanmDecoderLayer(config, memory=False, attends=False)])

    def hidden(self, x: Tensor, token_num: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """Vectors (B, K, D) and lengths (B,), encoder output (B, S, D) and lengths (B,) -> (B, K, D), before logits."""
        behind, padding = padding_of(token_num, x.shape[1]), padding_of(memory_lens, memory.shape[1])
        for layer in (*self.decoders, *self.decoders2, *self.decoders3):
            x = layer(x, behind, memory, padding)
        return self.after_norm(x)

    def forward(self, x: Tensor, token_num: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """As `hidden`, up to logits (B, K, V)."""
        return self.output_layer(self.hidden(x, token_num, memory, memory_lens))


class SanDecoderLayer(nn.Module):
    """Pre-norm Transformer decoder layer whose tokens see one another in both directions.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width, heads = config.encoder_dim, config.decoder_num_heads
        self.self_attn = Attention(width, heads, config.attention_dropout)
        self.src_attn = Attention(width, heads, config.attention_dropout)
        self.feed_forward = FeedForward(width, config.decoder_feedforward_dim, config.dropout)
        self.norm1 = layer_norm(width)
        self.norm2 = layer_norm(width)
        self.norm3 = layer_norm(width)
        self.dropout = config.dropout

    def forward(self, x: Tensor, behind: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """As `SanmDecoderLayer.forward`."""
        normed = self.norm1(x)
        x = x + F.dropout(self.self_attn(normed, normed, behind), self.dropout, self.training)
        x = x + F.dropout(self.src_attn(self.norm2(x), memory, padding), self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.norm3(x)), self.dropout, self.training)


class SanDecoder(nn.Module):
    """Transformer decoder; token embeddings, which the sampler alone asks for, have positions.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.embed = nn.Sequential(
            nn.Embedding(config.vocab_size, width), ScaledPositions(from_zero, width, width, config.positional_dropout)
        )
        self.after_norm = layer_norm(width)
        self.output_layer = nn.Linear(width, config.vocab_size)
        self.decoders = nn.ModuleList(SanDecoderLayer(config) for _ in range(config.num_decoder_layers))

    def hidden(self, x: Tensor, token_num: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """As `SanmDecoder.hidden`."""
        behind, padding = padding_of(token_num, x.shape[1]), padding_of(memory_lens, memory.shape[1])
        for layer in self.decoders:
            x = layer(x, behind, memory, padding)
        return self.after_norm(x)

    def forward(self, x: Tensor, token_num: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """As `SanmDecoder.forward`."""
        return self.output_layer(self.hidden(x, token_num, memory, memory_lens))
