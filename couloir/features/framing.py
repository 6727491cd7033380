"""Where Kaldi's windows lie on the samples, and what kind they are. Imports nothing heavy."""

from __future__ import annotations

from typing import TypeVar

from couloir.errors import must_be
from couloir.limits import MAX_SAMPLE_RATE

MIN_WINDOW_SAMPLES = 8  # a spectrum of 4 points, as many as the fewest filters
MAX_FRAME_LENGTH_MS = 1000.0  # 40 times what speech is analysed with

Count = TypeVar("Count")
"""An int, or an integer array or tensor."""


class KaldiFraming:
    """The geometry of a Kaldi filterbank. A configuration that inherits it has the fields that are declared here."""

    sample_rate: int
    frame_length_ms: float
    frame_shift_ms: float
    low_freq: float
    high_freq: float

    snip_edges: bool
    """Windows lie within the signal; otherwise each is centred on its share of it, and both ends are mirrored."""
    window: str
    """ "povey" or "hamming"."""
    sample_scale: float
    """What samples in [-1, 1] are multiplied by."""
    dither: float
    """Standard deviation of the noise that is added in training, on the scale of the scaled samples."""
    padding_value: float
    bins_flag: str
    """The flag of the number of mel filters."""

    @property
    def num_mel_bins(self) -> int:
        """Number of mel filters."""
        raise NotImplementedError

    def as_metadata(self) -> dict[str, str]:
        """What a file of a model says of its features."""
        raise NotImplementedError

    @property
    def window_samples(self) -> int:
        """Samples under one window."""
        return int(self.frame_length_ms * self.sample_rate / 1000)

    @property
    def shift_samples(self) -> int:
        """Samples from one window to the next."""
        return int(self.frame_shift_ms * self.sample_rate / 1000)

    @property
    def fft_samples(self) -> int:
        """Length of the Fourier transform: the next power of two."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def top_freq(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.high_freq if self.high_freq > 0 else self.sample_rate / 2 + self.high_freq

    @property
    def left_margin(self) -> int:
        """Samples of the first window that lie before the signal."""
        return 0 if self.snip_edges else (self.window_samples - self.shift_samples) // 2

    @property
    def first_window_s(self) -> float:
        """Where the share of the signal begins that the first window stands for: a shift around its middle. In s."""
        return ((self.window_samples - self.shift_samples) / 2 - self.left_margin) / self.sample_rate

    def num_windows(self, num_samples: Count) -> Count:
        """Windows of ``num_samples`` samples: all that fit, or one for every full or at least half shift."""
        shift, window = self.shift_samples, self.window_samples
        if self.snip_edges:
            return (num_samples - window + shift) // shift * (num_samples >= window)  # type: ignore[operator, return-value]
        return (num_samples + shift // 2) // shift  # type: ignore[operator, return-value]

    def min_samples_of_windows(self, count: int) -> int:
        """The fewest samples that have ``count`` windows, at least one."""
        shift = self.shift_samples
        return (count - 1) * shift + self.window_samples if self.snip_edges else count * shift - shift // 2

    def check_framing(self) -> None:
        """Refuse what no filterbank can be made of. Raises `UserError`."""
        if not 1 <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise must_be("--sample-rate", f"from 1 to {MAX_SAMPLE_RATE} Hz", self.sample_rate)
        if not 0 < self.frame_shift_ms <= self.frame_length_ms <= MAX_FRAME_LENGTH_MS:
            raise must_be(
                "--frame-shift-ms and --frame-length-ms",
                f"above 0 and at most {MAX_FRAME_LENGTH_MS:g}, the shift no longer than the length",
                f"{self.frame_shift_ms} and {self.frame_length_ms}",
            )
        if self.shift_samples < 1 or self.window_samples < MIN_WINDOW_SAMPLES:
            raise must_be(
                "--frame-shift-ms and --frame-length-ms",
                f"at least 1 and {MIN_WINDOW_SAMPLES} samples at {self.sample_rate} Hz",
                f"{self.frame_shift_ms} and {self.frame_length_ms} ms",
            )
        if not 4 <= self.num_mel_bins <= self.fft_samples // 2:
            raise must_be(
                self.bins_flag,
                f"from 4 to {self.fft_samples // 2}, the points of the spectrum of {self.frame_length_ms:g} ms",
                self.num_mel_bins,
            )
        if not 0 <= self.low_freq < self.top_freq <= self.sample_rate / 2:
            raise must_be(
                "--high-freq",
                f"between --low-freq {self.low_freq} Hz and {self.sample_rate / 2} Hz",
                f"{self.top_freq} Hz",
            )
