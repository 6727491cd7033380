"""Configuration of Whisper's log-mel front end. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from couloir.config import option
from couloir.errors import must_be
from couloir.features.framing import Count
from couloir.features.metadata import as_entries, from_entries, prefixed, unusual_fields

MAX_BINS = 200


@dataclass(frozen=True)
class LogMelConfig:
    """Whisper's log-mel features.

    400 samples under a Hann window every 160, mirrored at both ends; filters of equal area on Slaney's mel scale;
    logarithms to base 10, not more than 8 below the utterance's greatest one, mapped to about [-1, 1].
    """

    feature_dim: int = option(80, "number of mel filters: 80, or 128 of Whisper large-v3", unit="bins")
    padding_value: float = option(-1.5, "what stands in frames behind an utterance's end")

    name: ClassVar[str] = "log_mel"
    sample_rate: ClassVar[int] = 16000
    window_samples: ClassVar[int] = 400
    shift_samples: ClassVar[int] = 160
    mel_copies: ClassVar[int] = 1
    mask_value: ClassVar[float | None] = None
    bins_flag: ClassVar[str] = "--feature-dim"

    def __post_init__(self) -> None:
        if not 4 <= self.feature_dim <= MAX_BINS:
            raise must_be("--feature-dim", f"from 4 to {MAX_BINS}", self.feature_dim)
        if not math.isfinite(self.padding_value):
            raise must_be("--padding-value", "a number", self.padding_value)

    @property
    def num_mel_bins(self) -> int:
        """Number of mel filters."""
        return self.feature_dim

    @property
    def frame_step_s(self) -> float:
        """Distance of one frame from the next in s."""
        return self.shift_samples / self.sample_rate

    @property
    def step_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.shift_samples

    @property
    def first_frame_s(self) -> float:
        """Where the first frame begins in s: its middle is the first sample."""
        return -self.frame_step_s / 2

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of ``num_samples`` samples: one for every full shift."""
        return num_samples // self.shift_samples  # type: ignore[operator, return-value]

    def min_samples(self, frames: int) -> int:
        """The fewest samples that have this number of frames."""
        return frames * self.shift_samples

    def num_samples(self, frames: int) -> int:
        """The samples that this number of frames stands for."""
        return frames * self.shift_samples

    def unusual(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        return unusual_fields(self)

    def as_metadata(self) -> dict[str, str]:
        """What a file of a model says of its features: their name, and what is unusual."""
        return as_entries(self.name, self.unusual())

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> LogMelConfig:
        """The features that a file's metadata describes. Raises `UserError` for what `as_metadata` does not write."""
        return from_entries(cls, prefixed(metadata, f"{cls.name}_"), origin)
