"""Transducer heads: stateless predictor and joiner.

Source: Graves 2012 (arXiv:1211.3711), section 2; the predictor without state is that of Ghodsi et al. 2020,
"Rnn-transducer with stateless prediction network", ICASSP.
"""
# Shapes: B batch, U labels, V vocabulary.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.balancer import Balancer


def _balancer() -> nn.Module:
    return Balancer(min_positive=0.0, max_positive=1.0, min_abs=0.5, max_abs=1.0, prob=0.05)


class Decoder(nn.Module):
    """Stateless predictor (Ghodsi et al. 2020): an embedding and a convolution over the last tokens.

    Args:
        vocab_size: tokens. decoder_dim: width. context_size: tokens seen. balanced: whether balancers act in training.
    """

    def __init__(self, vocab_size: int, decoder_dim: int, context_size: int, balanced: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, decoder_dim)
        self.balancer, self.balancer2 = (_balancer() if balanced else nn.Identity() for _ in range(2))
        self.context_size = context_size
        self.vocab_size = vocab_size
        self.conv: nn.Module = nn.Identity()
        if context_size > 1:
            groups = decoder_dim // 4
            self.conv = nn.Conv1d(decoder_dim, decoder_dim, context_size, groups=groups, bias=False)

    def forward(self, y: Tensor, need_pad: bool = True) -> Tensor:
        """Predict from token histories.

        Args:
            y: (B, U) token ids; a negative id counts as no token.
            need_pad: give one output per token, as in training. Otherwise U is the context and gives one output.

        Returns:
            (B, U, decoder_dim) or (B, U - context_size + 1, decoder_dim).
        """
        embedded = self.embedding(y.clamp(min=0)) * (y >= 0).unsqueeze(-1)
        embedded = self.balancer(embedded)
        if self.context_size == 1:
            return embedded
        channels_first = embedded.permute(0, 2, 1)
        if need_pad:
            channels_first = F.pad(channels_first, (self.context_size - 1, 0))
        return self.balancer2(F.relu(self.conv(channels_first).permute(0, 2, 1)))


class Joiner(nn.Module):
    """Combines encoder and predictor outputs into logits.

    Args:
        encoder_dim, decoder_dim: widths of the inputs. joiner_dim: inner width. vocab_size: tokens.
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.decoder_proj = nn.Linear(decoder_dim, joiner_dim)
        self.output_linear = nn.Linear(joiner_dim, vocab_size)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor, project_input: bool = True) -> Tensor:
        """(..., encoder_dim) and (..., decoder_dim), broadcast to each other -> logits (..., V).

        ``project_input=False``: the inputs are projected already, (..., joiner_dim).
        """
        if project_input:
            encoder_out, decoder_out = self.encoder_proj(encoder_out), self.decoder_proj(decoder_out)
        return self.output_linear(torch.tanh(encoder_out + decoder_out))
