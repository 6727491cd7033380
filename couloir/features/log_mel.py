"""Whisper's log-mel features in torch: batched with lengths, on CPU and GPU, and in an exportable form.

Shapes: B batch, N samples, M samples with margins, T frames, W samples of a window, F mel filters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.features import whisper
from couloir.features.log_mel_config import LogMelConfig
from couloir.features.windows import constant, exportable_windows, mirrored, pad_behind, windows


class LogMel(nn.Module):
    """The front end "log_mel".

    Each utterance is mirrored at its own ends and held against its own greatest value, so that its features do not
    depend on the batch. There are no parameters, and the state dict is empty.
    """

    window: Tensor
    mel: Tensor

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = config or LogMelConfig()
        self.padding_value, self.feature_dim = self.config.padding_value, self.config.feature_dim
        constant(self, "window", whisper.hann_window(self.config))
        # Real and imaginary parts stand in turn, and the power under a filter is the sum over both.
        constant(self, "mel", np.repeat(whisper.mel_filterbank(self.config), 2, axis=0))

    def num_frames(self, num_samples: int) -> int:
        """Frames of ``num_samples`` samples."""
        return self.config.num_frames(num_samples)

    def exportable(self) -> nn.Module:
        """The same features from matrix products and slices."""
        return ExportableLogMel(self.config)

    def metadata(self) -> dict[str, str]:
        """What a file of a model says of these features."""
        return self.config.as_metadata()

    @torch.no_grad()
    def forward(self, waves: Tensor, wave_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) float32 samples in [-1, 1], (B,) -> (B, T, F), ``padding_value`` behind each end, and (B,) frames."""
        with torch.autocast(waves.device.type, enabled=False):
            margin, shift = self.config.window_samples // 2, self.config.shift_samples
            count, feat_lens = self.num_frames(waves.shape[1]), self.config.num_frames(wave_lens)
            blocks = count + -(-(2 * margin + shift) // shift)
            samples = mirrored(waves.float(), wave_lens, margin, margin, blocks * shift, edge_twice=False)
            power = self._spectrum(self._frames(samples, count)).square() @ self.mel
            logarithms = power.clamp(min=whisper.LOWEST_POWER).log10()
            floor = self._greatest(logarithms, feat_lens) - whisper.RANGE
            feats = (torch.maximum(logarithms, floor[:, None, None]) + 4) / 4
            return pad_behind(feats, feat_lens, self.padding_value), feat_lens

    @staticmethod
    def _greatest(logarithms: Tensor, feat_lens: Tensor) -> Tensor:
        """(B, T, F) -> each utterance's greatest one (B,), also where there are no frames."""
        lowest = math.log10(whisper.LOWEST_POWER)
        return F.pad(pad_behind(logarithms, feat_lens, lowest).amax(dim=2), (0, 1), value=lowest).amax(dim=1)

    def _frames(self, samples: Tensor, count: int) -> Tensor:
        """(B, M) -> (B, T, W)."""
        return windows(samples, self.config.window_samples, self.config.shift_samples, count)

    def _spectrum(self, frames: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W + 2): real and imaginary parts in turn."""
        if not frames.numel():  # which MKL refuses
            return frames.new_zeros(*frames.shape[:2], self.config.window_samples + 2)
        return torch.view_as_real(torch.fft.rfft(frames * self.window)).flatten(-2)


class ExportableLogMel(LogMel):
    """The same features from matrix products and slices alone."""

    basis: Tensor

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__(config)
        constant(self, "basis", whisper.fourier_basis(self.config))

    def _frames(self, samples: Tensor, count: int) -> Tensor:
        return exportable_windows(samples, self.config.window_samples, self.config.shift_samples, count)

    def _spectrum(self, frames: Tensor) -> Tensor:
        return frames @ self.basis
