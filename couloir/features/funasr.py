"""FunASR's low-frame-rate features in numpy, without torch.

Shapes: N samples, W windows, T frames, F bins of a frame.
"""

from __future__ import annotations

import numpy as np

from couloir.features.kaldi import fbank_numpy
from couloir.features.lfr_config import LfrConfig


def lfr_numpy(wave: np.ndarray, config: LfrConfig | None = None) -> np.ndarray:
    """The features of one utterance: (N,) float32 in [-1, 1] -> (T, F) float32."""
    config = config or LfrConfig()
    shift, scale = (np.array(values, np.float32) for values in config.statistics())
    return (stacked(fbank_numpy(wave, config), config) + shift) * scale


def stacked(windows: np.ndarray, config: LfrConfig) -> np.ndarray:
    """Every ``lfr_n``-th window with its neighbours, the first and last ones repeated at the ends: (W, bins) -> (T, F).

    Window j of frame i is window n i + j - (m - 1) // 2 of the utterance.
    """
    count = config.stacked(len(windows))
    if count == 0:
        return np.zeros((0, config.feature_dim), np.float32)
    places = config.lfr_n * np.arange(count)[:, None] + np.arange(config.lfr_m) - config.left_windows
    return windows[places.clip(0, len(windows) - 1)].reshape(count, -1)
