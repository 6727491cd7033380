"""Kaldi-compatible log-mel filterbank in torch: batched with lengths, on CPU and GPU, and in an exportable form.

Shapes: B batch, N samples, T frames, W samples of a window, F feature bins.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.features import kaldi
from couloir.features.config import FbankConfig

PADDING_LOG_MEL = math.log(1e-10)
"""What stands in frames behind an utterance's end (lhotse's padding value)."""

# On a CPU so many frames are taken at a time that the intermediate results stay in the second-level cache.
_FRAMES_AT_A_TIME = 512


class Fbank(nn.Module):
    """Kaldi's 80-bin log-mel filterbank (snip_edges and dither off), extracted on the fly.

    An utterance is mirrored at its own ends, so its features do not depend on the batch it is in. No gradient
    flows to the samples. There are no parameters, and the state dict is empty.
    """

    window: Tensor
    window_before: Tensor
    mel: Tensor

    def __init__(self, config: FbankConfig | None = None) -> None:
        super().__init__()
        self.config = config or FbankConfig()
        window = kaldi.povey_window(self.config.window_samples)
        # Kaldi makes a frame's first sample its own predecessor; Povey's window is 0 there, so that it drops out.
        before = -kaldi.PREEMPHASIS * window[1:]
        # Real and imaginary parts stand in turn, and the power under a filter is the sum over both.
        mel = np.repeat(kaldi.mel_filterbank(self.config), 2, axis=0)
        self._constant("window", window)
        self._constant("window_before", before)
        self._constant("mel", mel)

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Frames of ``num_samples`` samples: one for every full or at least half shift."""
        return kaldi.num_frames(num_samples, self.config)

    @torch.no_grad()
    def forward(self, waves: Tensor, wave_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            waves: (B, N) float32 samples in [-1, 1]; what stands behind a length is ignored.
            wave_lens: (B,) int64 samples.

        Returns:
            feats (B, T, F) float32 with T = num_frames(N), `PADDING_LOG_MEL` behind each end; feat_lens (B,) int64.
        """
        with torch.autocast(waves.device.type, enabled=False):
            mirrored = self._mirrored(waves.float(), wave_lens)
            frames = self._frames(mirrored, self.num_frames(waves.shape[1]))
            feat_lens = kaldi.num_frames(wave_lens, self.config)
            return self._extract(frames, feat_lens), feat_lens

    def _mirrored(self, waves: Tensor, wave_lens: Tensor) -> Tensor:
        """(B, N) -> (B, M): every utterance continued by its mirror image at both ends, M a multiple of the shift."""
        shift, margin = self.config.shift_samples, kaldi.left_margin(self.config)
        after = self.config.window_samples - margin
        num_blocks = kaldi.num_frames(waves.shape[1], self.config) + -(-(margin + after + shift) // shift)
        outside = torch.cat([
            torch.arange(-margin, 0, device=waves.device).expand(waves.shape[0], margin),
            wave_lens[:, None] + torch.arange(after, device=waves.device),
        ], dim=1)  # fmt: skip
        period = 2 * wave_lens[:, None].clamp(min=1)
        inside = torch.remainder(outside, period)
        inside = torch.minimum(inside, period - 1 - inside)
        padded = F.pad(waves, (margin, num_blocks * shift - margin - waves.shape[1]))
        return padded.scatter(1, outside + margin, waves.gather(1, inside))

    def _frames(self, mirrored: Tensor, count: int) -> Tensor:
        """(B, M) -> the first ``count`` windows as a view (B, T, W)."""
        return mirrored.unfold(1, self.config.window_samples, self.config.shift_samples)[:, :count]

    def _extract(self, frames: Tensor, feat_lens: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, F)."""
        if not frames.is_cpu:
            return _pad_behind(self._log_mel(frames), feat_lens)
        feats = frames.new_full((*frames.shape[:2], self.config.feature_dim), PADDING_LOG_MEL)
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

    def __init__(self, config: FbankConfig | None = None) -> None:
        super().__init__(config)
        self._constant("basis", kaldi.fourier_basis(self.config))

    def _frames(self, mirrored: Tensor, count: int) -> Tensor:
        window, shift = self.config.window_samples, self.config.shift_samples
        blocks = mirrored.unflatten(1, (-1, shift))
        parts = [blocks[:, start : start + count] for start in range(-(-window // shift))]
        return torch.cat(parts, dim=-1)[..., :window]

    def _extract(self, frames: Tensor, feat_lens: Tensor) -> Tensor:
        return _pad_behind(self._log_mel(frames), feat_lens)

    def _spectrum(self, frames: Tensor) -> Tensor:
        return frames @ self.basis


def _pad_behind(feats: Tensor, feat_lens: Tensor) -> Tensor:
    behind = torch.arange(feats.shape[1], device=feats.device) >= feat_lens[:, None]
    return feats.masked_fill(behind[:, :, None], PADDING_LOG_MEL)
