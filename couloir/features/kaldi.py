"""Kaldi's log-mel filterbank in numpy: the constants of every implementation here, and one that needs no torch.

The definition is Kaldi's `feature-window.cc` and `mel-computations.cc` with `snip_edges` and `dither` off:
a frame is centred on its share of the signal, both ends are mirrored, each frame loses its mean, is
pre-emphasised, windowed, transformed, and its power is summed under triangles on the mel scale.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from couloir.features.config import FbankConfig

PREEMPHASIS = 0.97
LOWEST_POWER = float(np.finfo(np.float32).eps)
"""Filter outputs are not taken below this before the logarithm, so features are at least -15.94."""
SINGLE_THREADED_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS keeps a product to one thread. Its other threads would wait busily for more work
and take the cores from the model that runs next."""

Count = TypeVar("Count")


def num_frames(num_samples: Count, config: FbankConfig) -> Count:
    """Frames of ``num_samples`` samples (an int, or an integer array or tensor)."""
    shift = config.shift_samples
    return (num_samples + shift // 2) // shift  # type: ignore[operator, return-value]


def left_margin(config: FbankConfig) -> int:
    """Samples of the first window that lie before the signal."""
    return (config.window_samples - config.shift_samples) // 2


def povey_window(size: int) -> np.ndarray:
    """Kaldi's own window, a raised cosine to the power 0.85. (size,) float64."""
    cosine = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    return cosine**0.85


def mel_filterbank(config: FbankConfig) -> np.ndarray:
    """Triangles of equal width on the mel scale: (fft_samples // 2 + 1, feature_dim) float64.

    The row of half the sample rate is zero, as Kaldi leaves that bin out.
    """
    num_bins = config.fft_samples // 2
    low, high = _mel(np.array([config.low_freq, config.top_freq]))
    edges = np.linspace(low, high, config.feature_dim + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(np.arange(num_bins) * config.sample_rate / config.fft_samples)[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return np.vstack([np.maximum(0, np.minimum(rising, falling)), np.zeros(config.feature_dim)])


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


def windowed(frames: np.ndarray) -> np.ndarray:
    """Remove the mean of each frame, pre-emphasise and window it: (..., W) -> (..., W).

    Linear in the samples, which lets an exported graph fold it into its Fourier matrix.
    """
    frames = frames - frames.mean(axis=-1, keepdims=True)
    before = np.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    return (frames - PREEMPHASIS * before) * povey_window(frames.shape[-1]).astype(frames.dtype)


def fourier_basis(config: FbankConfig) -> np.ndarray:
    """The matrix that turns a frame of samples into its spectrum: (W, fft_samples + 2) float64.

    Columns are real and imaginary parts in turn. Mean removal, pre-emphasis and window are in it.
    """
    spectrum = np.fft.rfft(windowed(np.eye(config.window_samples)), n=config.fft_samples)
    return spectrum.view(np.float64)


def fbank_numpy(wave: np.ndarray, config: FbankConfig | None = None) -> np.ndarray:
    """Log-mel filterbank of one utterance, without torch: (N,) float32 in [-1, 1] -> (T, F) float32."""
    config = config or FbankConfig()
    count, margin = num_frames(len(wave), config), left_margin(config)
    if count == 0:
        return np.zeros((0, config.feature_dim), np.float32)
    after = (count - 1) * config.shift_samples + config.window_samples - margin - len(wave)
    mirrored = np.pad(wave.astype(np.float32, copy=False), (margin, after), mode="symmetric")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, config.window_samples)[:: config.shift_samples]
    power = np.square(np.abs(np.fft.rfft(windowed(frames), n=config.fft_samples))).astype(np.float32)
    bank = mel_filterbank(config).astype(np.float32)
    rows = max(SINGLE_THREADED_PRODUCT // bank.size, 1)
    energies = [power[first : first + rows] @ bank for first in range(0, count, rows)]
    return np.log(np.maximum(np.concatenate(energies), LOWEST_POWER))
