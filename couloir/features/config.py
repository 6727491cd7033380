"""Configuration of the features and of their augmentation. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from couloir.config import option
from couloir.errors import must_be


@dataclass(frozen=True)
class FbankConfig:
    """Filterbank features.

    Kaldi's log-mel filterbank, as lhotse's and icefall's recipes use it: no dither, edges reflected, samples in
    [-1, 1], Povey window, pre-emphasis 0.97, power spectrum. A model is tied to the values it was trained with.
    """

    feature_dim: int = option(80, "number of mel filters", unit="bins")
    sample_rate: int = option(16000, "sample rate that the features expect", unit="Hz")
    frame_length_ms: float = option(25.0, "length of the analysis window", unit="ms")
    frame_shift_ms: float = option(10.0, "distance of one frame from the next", unit="ms")
    low_freq: float = option(20.0, "lower edge of the first filter", unit="Hz")
    high_freq: float = option(
        -400.0, "upper edge of the last filter; at or below 0 it counts from half the sample rate", unit="Hz"
    )

    def __post_init__(self) -> None:
        if self.feature_dim < 4:
            raise must_be("--feature-dim", "at least 4", self.feature_dim)
        if not 0 < self.frame_shift_ms <= self.frame_length_ms:
            raise must_be(
                "--frame-shift-ms", f"above 0 and at most --frame-length-ms {self.frame_length_ms}", self.frame_shift_ms
            )
        if not 0 <= self.low_freq < self.top_freq <= self.sample_rate / 2:
            raise must_be(
                "--high-freq",
                f"between --low-freq {self.low_freq} Hz and {self.sample_rate / 2} Hz",
                f"{self.top_freq} Hz",
            )

    @property
    def window_samples(self) -> int:
        """Samples under one window."""
        return int(self.frame_length_ms * self.sample_rate / 1000)

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.frame_shift_ms * self.sample_rate / 1000)

    @property
    def fft_samples(self) -> int:
        """Length of the Fourier transform: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def top_freq(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.high_freq if self.high_freq > 0 else self.sample_rate / 2 + self.high_freq
