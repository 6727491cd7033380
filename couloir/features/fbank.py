"""Kaldi-compatible log-mel filterbank in torch: batched with lengths, on CPU and GPU, and in an exportable form.

Shapes: B batch, N samples, M samples with margins, T frames, W samples of a window, F mel filters.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.features import kaldi
from couloir.features.config import FbankConfig
from couloir.features.framing import KaldiFraming
from couloir.features.windows import constant, exportable_windows, mirrored, pad_behind, windows

# On a CPU frames are taken in blocks small enough that the intermediate results stay in the second-level cache.
_FRAMES_AT_A_TIME = 512


class Fbank(nn.Module):
    """The front end "fbank": Kaldi's log-mel filterbank, extracted on the fly.

    An utterance is mirrored at its own ends (or its windows lie within it), so its features do not depend on the batch
    it is in. No gradient flows to the samples. There are no parameters, and the state dict is empty.
    """

    window: Tensor
    window_before: Tensor
    mel: Tensor

    def __init__(self, config: KaldiFraming | None = None) -> None:
        super().__init__()
        self.config = config or FbankConfig()
        self.padding_value, self.feature_dim = self.config.padding_value, self.config.num_mel_bins
        window = kaldi.window_of(self.config)
        before = -kaldi.PREEMPHASIS * window[1:]
        # Kaldi makes a frame's first sample its own predecessor.
        window[0] *= 1 - kaldi.PREEMPHASIS
        # Real and imaginary parts stand in turn, and the power under a filter is the sum over both.
        mel = np.repeat(kaldi.mel_filterbank(self.config), 2, axis=0)
        constant(self, "window", window)
        constant(self, "window_before", before)
        constant(self, "mel", mel)
        self.eval()  # noise is for those who train

    def num_frames(self, num_samples: int) -> int:
        """Frames of ``num_samples`` samples: one for every full or at least half shift, or all windows that fit."""
        return self.config.num_windows(num_samples)

    def exportable(self) -> nn.Module:
        """The same features from matrix products and slices."""
        return ExportableFbank(self.config)

    def metadata(self) -> dict[str, str]:
        """What a file of a model says of these features."""
        return self.config.as_metadata()

    @torch.no_grad()
    def forward(self, waves: Tensor, wave_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            waves: (B, N) float32 samples in [-1, 1]; what stands behind a length is ignored.
            wave_lens: (B,) int64 samples.

        Returns:
            feats (B, T, F) float32 with T = num_windows(N), the configuration's ``padding_value`` behind each end;
            feat_lens (B,) int64.
        """
        with torch.autocast(waves.device.type, enabled=False):
            samples = self._with_margins(self._scaled(waves.float()), wave_lens)
            frames = self._frames(samples, self.config.num_windows(waves.shape[1]))
            feat_lens = self.config.num_windows(wave_lens)
            return self._extract(frames, feat_lens), feat_lens

    def _scaled(self, waves: Tensor) -> Tensor:
        """(B, N), in training with noise on top: one draw of torch's CPU generator for each sample."""
        if self.config.sample_scale != 1:
            waves = waves * self.config.sample_scale
        if self.training and self.config.dither:
            waves = waves + self.config.dither * torch.randn(waves.shape).to(waves.device, non_blocking=True)
        return waves

    def _with_margins(self, waves: Tensor, wave_lens: Tensor) -> Tensor:
        """(B, N) -> (B, M): what windows are cut from, M a multiple of the shift."""
        shift, margin = self.config.shift_samples, self.config.left_margin
        after = self.config.window_samples - margin
        num_blocks = self.config.num_windows(waves.shape[1]) + -(-(margin + after + shift) // shift)
        if self.config.snip_edges:
            return F.pad(waves, (0, num_blocks * shift - waves.shape[1]))
        return mirrored(waves, wave_lens, margin, after, num_blocks * shift, edge_twice=True)

    def _frames(self, samples: Tensor, count: int) -> Tensor:
        """(B, M) -> the first ``count`` windows (B, T, W)."""
        return windows(samples, self.config.window_samples, self.config.shift_samples, count)

    def _extract(self, frames: Tensor, feat_lens: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, F)."""
        if not frames.is_cpu:
            return pad_behind(self._log_mel(frames), feat_lens, self.padding_value)
        feats = frames.new_full((*frames.shape[:2], self.feature_dim), self.padding_value)
        for utterance, count in enumerate(feat_lens.tolist()):
            for start in range(0, count, _FRAMES_AT_A_TIME):
                part = slice(start, min(count, start + _FRAMES_AT_A_TIME))
                feats[utterance, part] = self._log_mel(frames[utterance, part])
        return feats

    def _log_mel(self, frames: Tensor) -> Tensor:
        """(..., W) -> (..., F)."""
        return (self._spectrum(frames).square_() @ self.mel).clamp_min_(kaldi.LOWEST_POWER).log_()

    def _spectrum(self, frames: Tensor) -> Tensor:
        """(..., W) -> (..., fft_samples + 2): real and imaginary parts in turn."""
        centred = frames - frames.mean(dim=-1, keepdim=True)
        windowed = centred * self.window
        windowed[..., 1:].addcmul_(centred[..., :-1], self.window_before)
        return torch.view_as_real(torch.fft.rfft(windowed, n=self.config.fft_samples)).flatten(-2)


class ExportableFbank(Fbank):
    """The same features from matrix products and slices alone, for TorchScript, ONNX, ncnn and browsers.

    The Fourier transform is a matrix, with mean removal, pre-emphasis and window folded into it. It traces with
    free batch size and length, and is about a third as fast as `Fbank` on a CPU.
    """

    basis: Tensor

    def __init__(self, config: KaldiFraming | None = None) -> None:
        super().__init__(config)
        constant(self, "basis", kaldi.fourier_basis(self.config))

    def _frames(self, samples: Tensor, count: int) -> Tensor:
        return exportable_windows(samples, self.config.window_samples, self.config.shift_samples, count)

    def _extract(self, frames: Tensor, feat_lens: Tensor) -> Tensor:
        return pad_behind(self._log_mel(frames), feat_lens, self.padding_value)

    def _spectrum(self, frames: Tensor) -> Tensor:
        return frames @ self.basis
