"""Configuration of the features and of their augmentation. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from couloir.config import flag_name, option
from couloir.errors import must_be
from couloir.features.framing import Count, KaldiFraming
from couloir.features.metadata import as_entries, from_entries, prefixed, unusual_fields

if TYPE_CHECKING:
    from couloir.features.front_end import FrontEndConfig

PADDING_LOG_MEL = math.log(1e-10)
"""What stands in frames behind an utterance's end (lhotse's padding value)."""


@dataclass(frozen=True)
class FbankConfig(KaldiFraming):
    """Filterbank features.

    Kaldi's log-mel filterbank, as lhotse's and icefall's recipes use it: no dither, edges reflected, samples in
    [-1, 1], Povey window, pre-emphasis 0.97, power spectrum. A model is tied to the values it was trained with.
    """

    feature_dim: int = option(80, "number of mel filters", unit="bins", rare=True)
    sample_rate: int = option(16000, "sample rate that the features expect", unit="Hz", rare=True)
    frame_length_ms: float = option(25.0, "length of the analysis window", unit="ms", rare=True)
    frame_shift_ms: float = option(10.0, "distance of one frame from the next", unit="ms", rare=True)
    low_freq: float = option(20.0, "lower edge of the first filter", unit="Hz", rare=True)
    high_freq: float = option(
        -400.0, "upper edge of the last filter; at or below 0 it counts from half the sample rate", unit="Hz", rare=True
    )

    name: ClassVar[str] = "fbank"
    snip_edges = False
    window = "povey"
    sample_scale = 1.0
    dither = 0.0
    padding_value = PADDING_LOG_MEL
    mask_value: ClassVar[float | None] = None
    mel_copies: ClassVar[int] = 1
    bins_flag = "--feature-dim"

    def __post_init__(self) -> None:
        self.check_framing()

    @property
    def num_mel_bins(self) -> int:
        """Number of mel filters."""
        return self.feature_dim

    @property
    def frame_step_s(self) -> float:
        """Distance of one frame from the next in s."""
        return self.frame_shift_ms / 1000

    @property
    def step_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.shift_samples

    @property
    def first_frame_s(self) -> float:
        """Where the first frame begins in s."""
        return self.first_window_s

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of ``num_samples`` samples."""
        return self.num_windows(num_samples)

    def min_samples(self, frames: int) -> int:
        """The fewest samples that have this number of frames."""
        return self.min_samples_of_windows(frames)

    def num_samples(self, frames: int) -> int:
        """The samples that this number of frames stands for."""
        return frames * self.shift_samples

    def unusual(self) -> dict[str, Any]:
        """The fields that are not at their defaults, which other programs take for granted: name -> value."""
        return unusual_fields(self)

    def as_metadata(self) -> dict[str, str]:
        """What a file of a model says of its features: their name, and what is unusual."""
        return as_entries(self.name, self.unusual())

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> FbankConfig:
        """The features that a file's metadata describes. Raises `UserError` for what `as_metadata` does not write."""
        return from_entries(cls, prefixed(metadata, f"{cls.name}_"), origin)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation.

    What is done to the waveforms and features of training batches, on the device, with torch's random numbers.
    SpecAugment is lhotse's: each part below is applied to an utterance with probability ``spec_aug_prob``.
    """

    enable_spec_aug: bool = option(
        True, "warp and mask the features; CR-CTC masks its views itself and needs False here"
    )
    spec_aug_time_warp_factor: int = option(
        80, "largest shift of a point in time when warping; below 1 for none", unit="frames", rare=True
    )
    spec_aug_prob: float = option(0.9, "probability that an utterance is warped, and likewise masked", rare=True)
    num_feature_masks: int = option(2, "frequency masks per utterance", unit="masks", rare=True)
    features_mask_size: int = option(27, "frequency masks are narrower than this", unit="bins", rare=True)
    num_frame_masks: int = option(10, "time masks per utterance, at most", unit="masks", rare=True)
    frames_mask_size: int = option(100, "time masks are narrower than this", unit="frames", rare=True)
    max_frames_mask_fraction: float = option(0.15, "share of an utterance that time masks may cover in all", rare=True)
    time_mask_ratio: float = option(
        2.5,
        "CR-CTC: times as many time masks, covering as many times more, in each view; icefall 2.5, ZIPA 2.0",
        rare=True,
    )
    use_volume_perturb: bool = option(False, "scale each waveform by a random factor, as ZIPA does")
    volume_perturb_prob: float = option(0.5, "probability that a waveform is scaled", rare=True)
    volume_perturb_range: tuple[float, ...] = option((0.125, 2.0), "smallest and largest volume factor", rare=True)

    use_speed_perturb: bool = option(False, "play each waveform at a random speed; pitch changes with it")
    speed_perturb_factors: tuple[float, ...] = option((0.9, 1.0, 1.1), "speeds, all equally likely", rare=True)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_prob") and not 0 <= value <= 1:
                raise must_be(flag_name(field.name), "between 0 and 1", value)
            if field.name.endswith("_mask_size") and value < 1:
                raise must_be(flag_name(field.name), "at least 1", value)
            if field.name.endswith("_masks") and value < 0:
                raise must_be(flag_name(field.name), "0 or more", value)
        if not 0 <= self.max_frames_mask_fraction <= 1:
            raise must_be("--max-frames-mask-fraction", "between 0 and 1", self.max_frames_mask_fraction)
        if not (math.isfinite(self.time_mask_ratio) and self.time_mask_ratio >= 0):
            raise must_be("--time-mask-ratio", "0 or more", self.time_mask_ratio)
        low_high = self.volume_perturb_range
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            raise must_be("--volume-perturb-range", "two factors above 0, the smaller one first", low_high)
        if not self.speed_perturb_factors or not all(0.5 <= factor <= 2 for factor in self.speed_perturb_factors):
            raise must_be("--speed-perturb-factors", "one or more speeds from 0.5 to 2", self.speed_perturb_factors)


def check_masks(augment: AugmentConfig, features: FrontEndConfig) -> None:
    """Refuse frequency masks that may cover every bin. Raises `UserError`."""
    if augment.num_feature_masks and augment.features_mask_size > features.num_mel_bins:
        expected = f"at most {features.bins_flag} {features.num_mel_bins}, so that a bin is left"
        raise must_be("--features-mask-size", expected, augment.features_mask_size)
