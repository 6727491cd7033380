"""Predictor: how many tokens there are, and a vector for each.

Source: Gao et al. 2022 (arXiv:2206.08317), section 3.2; Dong and Xu 2020 (arXiv:1905.11235), section 3.

Shapes: B batch, T encoder frames, K tokens, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.cif import fire_peaks, integrate, running_sum
from couloir.models.paraformer.config import ParaformerConfig
from couloir.models.paraformer.layers import padding_of

SMALLEST_SUM = 1.0e-6
"""By which weights are scaled at most, also where there are none."""


class Prediction(NamedTuple):
    """What a predictor makes of encoder frames.

    Attributes:
        acoustic: (B, K, D), 0 behind an item's tokens; K is at least 1. token_num: (B,) int64 tokens.
        raw_sum: (B,) sum of the weights, before they are scaled. alphas: (B, T') weights; peaks: (B, T'), see
            `cif.fire_peaks`; T' is T, and T + 1 with a tail.
    """

    acoustic: Tensor
    token_num: Tensor
    raw_sum: Tensor
    alphas: Tensor
    peaks: Tensor


class Predictor(nn.Module):
    """Convolution and projection to one weight per frame, then integrate-and-fire.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        self.depthwise = config.predictor == "v1"
        kernel = config.predictor_left + config.predictor_right + 1
        self.cif_conv1d = nn.Conv1d(width, width, kernel, groups=width if self.depthwise else 1)
        self.cif_output = nn.Linear(width, 1)
        self.margins = (config.predictor_left, config.predictor_right)
        self.smooth_factor, self.noise_threshold = config.smooth_factor, config.noise_threshold
        self.tail_threshold, self.tolerance = config.tail_threshold, config.last_fire_tolerance
        self.dropout = config.predictor_dropout

    def weights(self, hidden: Tensor, padding: Tensor) -> Tensor:
        """Weights (B, T) in float32 of frames (B, T, D), 0 where ``padding`` (B, T) is True."""
        with torch.autocast(hidden.device.type, enabled=False):
            channels_first = hidden.to(self.cif_output.weight.dtype).transpose(1, 2)
            convolved = self.cif_conv1d(F.pad(channels_first, self.margins))
            if self.depthwise:
                convolved = F.dropout(convolved, self.dropout, self.training) + channels_first
            logits = self.cif_output(F.relu(convolved).transpose(1, 2)).squeeze(-1)
            alphas = logits.sigmoid() * self.smooth_factor - self.noise_threshold
            return F.relu(alphas).masked_fill(padding, 0.0)

    def forward(self, hidden: Tensor, lens: Tensor) -> Prediction:
        """Find the tokens of recordings.

        The frame behind each, with the weight ``tail_threshold``, lets a token that is nearly full fire.

        Args:
            hidden: (B, T, D) encoder frames, zero beyond the lengths if an item is to be what it is alone.
            lens: (B,) of them.
        """
        alphas = F.pad(self.weights(hidden, padding_of(lens, hidden.shape[1])), (0, 1))
        frames = torch.arange(alphas.shape[1], device=lens.device)
        alphas = alphas + self.tail_threshold * (frames == lens[:, None])
        sums = running_sum(alphas)
        token_num = sums[:, -1].floor().long()
        most = token_num.max().clamp(min=1)
        rows = most if torch.jit.is_tracing() else int(most)
        return _fire(F.pad(hidden, (0, 0, 0, 1)), alphas, sums, token_num, rows, alphas.sum(dim=1))

    def teach(self, hidden: Tensor, lens: Tensor, target_lens: Tensor, rows: int) -> Prediction:
        """Fire a known number of tokens: the weights are scaled to it.

        Args:
            hidden: (B, T, D) encoder frames. lens: (B,) of them. target_lens: (B,) tokens.
            rows: K, the most tokens.
        """
        raw = self.weights(hidden, padding_of(lens, hidden.shape[1]))
        raw_sum = raw.sum(dim=1)
        alphas = raw * (target_lens / raw_sum.clamp(min=SMALLEST_SUM)).unsqueeze(1)
        sums = running_sum(alphas)
        fired = (sums[:, -1] + self.tolerance).floor().long()
        return _fire(hidden, alphas, sums, torch.minimum(fired, target_lens), rows, raw_sum)


class TimedPredictor(Predictor):
    """A predictor with a second head, whose finer frames say when tokens begin and end: BiCif.

    Source: Shi et al. 2023 (arXiv:2301.12343).

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__(config)
        width, self.factor = config.encoder_dim, config.time_factor
        self.upsample_cnn = nn.ConvTranspose1d(width, width, self.factor, self.factor)
        self.blstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.cif_output2 = nn.Linear(2 * width, 1)
        self.time_smooth_factor, self.time_noise_threshold = config.time_smooth_factor, config.time_noise_threshold

    def time_weights(self, hidden: Tensor, lens: Tensor, token_num: Tensor) -> Tensor:
        """Weights (B, T * factor) in float32 that sum up to ``token_num`` (B,); see `cif.token_spans`.

        Args:
            hidden: (B, T, D) encoder frames. lens: (B,) of them. token_num: (B,) tokens, the sentence's end included.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            channels_first = hidden.to(self.cif_output2.weight.dtype).transpose(1, 2)
            finer = self.upsample_cnn(channels_first).transpose(1, 2)
            packed = nn.utils.rnn.pack_padded_sequence(
                finer, (lens * self.factor).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
            )
            both, _ = nn.utils.rnn.pad_packed_sequence(self.blstm(packed)[0], True, total_length=finer.shape[1])
            alphas = self.cif_output2(both).squeeze(-1).sigmoid() * self.time_smooth_factor - self.time_noise_threshold
            alphas = F.relu(alphas).masked_fill(padding_of(lens * self.factor, finer.shape[1]), 0.0)
            return alphas * (token_num / alphas.sum(dim=1).clamp(min=SMALLEST_SUM)).unsqueeze(1)


def _fire(
    hidden: Tensor, alphas: Tensor, sums: Tensor, token_num: Tensor, rows: int | Tensor, raw_sum: Tensor
) -> Prediction:
    with torch.autocast(hidden.device.type, enabled=False):
        acoustic = integrate(hidden.to(alphas.dtype), sums, rows)
    behind = torch.arange(acoustic.shape[1], device=hidden.device) >= token_num[:, None]
    acoustic = acoustic.masked_fill(behind.unsqueeze(-1), 0.0)
    return Prediction(acoustic, token_num, raw_sum, alphas, fire_peaks(sums.detach()))
