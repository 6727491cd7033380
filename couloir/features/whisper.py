"""Whisper's log-mel features in numpy: the constants of every implementation here, and one that needs no torch.

Shapes: N samples, T frames, F mel filters.
"""

from __future__ import annotations

import numpy as np

from couloir.features.kaldi import under_filters
from couloir.features.log_mel_config import LogMelConfig

LOWEST_POWER = 1e-10
RANGE = 8.0
"""Logarithms are not taken further than this below the utterance's greatest one."""
_LINEAR_HZ_PER_MEL = 200 / 3
_LOGARITHMIC_FROM_HZ = 1000.0
_LOGARITHMIC_STEP = np.log(6.4) / 27


def hann_window(config: LogMelConfig) -> np.ndarray:
    """A raised cosine whose period is the window: (400,) float64."""
    size = config.window_samples
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def mel_filterbank(config: LogMelConfig) -> np.ndarray:
    """Triangles in Hz, of equal area, between places of equal distance on Slaney's mel scale: (201, F) float64."""
    hertz = np.linspace(0, config.sample_rate / 2, config.window_samples // 2 + 1)[:, None]
    edges = _hertz(np.linspace(0, _mel(config.sample_rate / 2), config.feature_dim + 2))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hertz - left) / (centre - left), (right - hertz) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def _mel(hertz: float) -> float:
    """Slaney's scale above 1 kHz."""
    return _LOGARITHMIC_FROM_HZ / _LINEAR_HZ_PER_MEL + np.log(hertz / _LOGARITHMIC_FROM_HZ) / _LOGARITHMIC_STEP


def _hertz(mel: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    bend = _LOGARITHMIC_FROM_HZ / _LINEAR_HZ_PER_MEL
    above = _LOGARITHMIC_FROM_HZ * np.exp(_LOGARITHMIC_STEP * (mel - bend))
    return np.where(mel < bend, mel * _LINEAR_HZ_PER_MEL, above)


def fourier_basis(config: LogMelConfig) -> np.ndarray:
    """The matrix that turns 400 samples into their spectrum, the window folded in: (400, 402) float64.

    Columns are real and imaginary parts in turn.
    """
    return np.fft.rfft(np.diag(hann_window(config))).view(np.float64)


def log_mel_numpy(wave: np.ndarray, config: LogMelConfig | None = None) -> np.ndarray:
    """The features of one utterance: (N,) float32 in [-1, 1] -> (T, F) float32."""
    config = config or LogMelConfig()
    count, margin = config.num_frames(len(wave)), config.window_samples // 2
    if count == 0:
        return np.zeros((0, config.feature_dim), np.float32)
    mirrored = np.pad(wave.astype(np.float32, copy=False), margin, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, config.window_samples)
    frames = frames[:: config.shift_samples][:count] * hann_window(config).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames))).astype(np.float32)
    logarithms = np.log10(np.maximum(under_filters(power, mel_filterbank(config)), LOWEST_POWER))
    return (np.maximum(logarithms, logarithms.max() - RANGE) + 4) / 4
