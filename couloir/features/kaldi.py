"""Kaldi's log-mel filterbank in numpy: the constants of every implementation here, and one that needs no torch.

The definition is Kaldi's `feature-window.cc` and `mel-computations.cc` without dither: a frame lies within the signal
(`snip_edges`) or is centred on its share of it, with both ends mirrored; each frame loses its mean, is pre-emphasised,
windowed, transformed, and its power is summed under triangles on the mel scale.

Shapes: N samples, T frames, W samples of a window, F mel filters, K points of a spectrum.
"""

from __future__ import annotations

import numpy as np

from couloir.features.config import FbankConfig
from couloir.features.framing import KaldiFraming

PREEMPHASIS = 0.97
LOWEST_POWER = float(np.finfo(np.float32).eps)
"""Filter outputs are not taken below this before the logarithm, so features are at least -15.94."""
SINGLE_THREADED_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS keeps a product to one thread. Its other threads would wait busily for more work
and take the cores from the model that runs next."""


def povey_window(size: int) -> np.ndarray:
    """Kaldi's own window, a raised cosine to the power 0.85. (size,) float64."""
    cosine = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    return cosine**0.85


def hamming_window(size: int) -> np.ndarray:
    """A raised cosine on a pedestal of 0.08. (size,) float64."""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(size) / (size - 1))


def window_of(config: KaldiFraming) -> np.ndarray:
    """The window that frames are multiplied by: (W,) float64."""
    size = config.window_samples
    return hamming_window(size) if config.window == "hamming" else povey_window(size)


def mel_filterbank(config: KaldiFraming) -> np.ndarray:
    """Triangles of equal width on the mel scale: (fft_samples // 2 + 1, F) float64.

    The row of half the sample rate is zero, as Kaldi leaves that bin out.
    """
    num_bins = config.fft_samples // 2
    low, high = _mel(np.array([config.low_freq, config.top_freq]))
    edges = np.linspace(low, high, config.num_mel_bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(np.arange(num_bins) * config.sample_rate / config.fft_samples)[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return np.vstack([np.maximum(0, np.minimum(rising, falling)), np.zeros(config.num_mel_bins)])


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


def windowed(frames: np.ndarray, config: KaldiFraming) -> np.ndarray:
    """Remove the mean of each frame, pre-emphasise and window it: (..., W) -> (..., W).

    Linear in the samples, which lets an exported graph fold it into its Fourier matrix.
    """
    frames = frames - frames.mean(axis=-1, keepdims=True)
    before = np.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    return (frames - PREEMPHASIS * before) * window_of(config).astype(frames.dtype)


def fourier_basis(config: KaldiFraming) -> np.ndarray:
    """The matrix that turns a frame of samples into its spectrum: (W, fft_samples + 2) float64.

    Columns are real and imaginary parts in turn. Mean removal, pre-emphasis and window are in it.
    """
    spectrum = np.fft.rfft(windowed(np.eye(config.window_samples), config), n=config.fft_samples)
    return spectrum.view(np.float64)


def fbank_numpy(wave: np.ndarray, config: KaldiFraming | None = None) -> np.ndarray:
    """Log-mel filterbank of one utterance, without torch: (N,) float32 in [-1, 1] -> (T, F) float32."""
    config = config or FbankConfig()
    count = config.num_windows(len(wave))
    if count == 0:
        return np.zeros((0, config.num_mel_bins), np.float32)
    frames = _frames(wave.astype(np.float32, copy=False), count, config)
    power = np.square(np.abs(np.fft.rfft(windowed(frames, config), n=config.fft_samples))).astype(np.float32)
    return np.log(np.maximum(under_filters(power, mel_filterbank(config)), LOWEST_POWER))


def under_filters(power: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(T, K) powers of at least one frame under (K, F) filters, on one thread: (T, F) float32."""
    bank = bank.astype(np.float32)
    rows = max(SINGLE_THREADED_PRODUCT // bank.size, 1)
    return np.concatenate([power[first : first + rows] @ bank for first in range(0, len(power), rows)])


def _frames(wave: np.ndarray, count: int, config: KaldiFraming) -> np.ndarray:
    """The windows of (N,) samples, scaled: (T, W)."""
    if config.sample_scale != 1:
        wave = wave * np.float32(config.sample_scale)
    if not config.snip_edges:
        margin = config.left_margin
        after = (count - 1) * config.shift_samples + config.window_samples - margin - len(wave)
        wave = np.pad(wave, (margin, after), mode="symmetric")
    return np.lib.stride_tricks.sliding_window_view(wave, config.window_samples)[:: config.shift_samples][:count]
