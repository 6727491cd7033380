"""Configuration of the low-frame-rate front end, and the am.mvn files that its statistics come in.

FunASR's front end: a Kaldi filterbank of samples on the 16-bit scale, under a Hamming window, without margins; of its
windows every sixth one with its neighbours; then a shift and a scale for each bin. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from couloir.config import Floats, from_mapping, option
from couloir.errors import UserError, must_be, unknown_name
from couloir.features.framing import Count, KaldiFraming
from couloir.features.metadata import as_entries, from_entries, prefixed, unusual_fields
from couloir.texts import read_text

# What sherpa-onnx reads, and the fields here that hold it.
SHERPA_KEYS = {"lfr_window_size": "lfr_m", "lfr_window_shift": "lfr_n"}
# What FunASR's configuration of a `WavFrontend` has, and the fields here that hold it. Without an entry its defaults
# stand, which stack nothing.
FUNASR_KEYS = {
    "fs": "sample_rate", "window": "window", "n_mels": "num_mel_bins", "frame_length": "frame_length_ms",
    "frame_shift": "frame_shift_ms", "lfr_m": "lfr_m", "lfr_n": "lfr_n", "dither": "dither", "snip_edges": "snip_edges",
}  # fmt: skip
FUNASR_DEFAULTS = {"lfr_m": 1, "lfr_n": 1}
FUNASR_SCALING = "upsacle_samples"  # as it is spelt there
FUNASR_UNUSED = ("cmvn_file", "filter_length_min", "filter_length_max")
SHERPA_STATISTICS = ("neg_mean", "inv_stddev")
MAX_STACKED = 100
MAX_STATISTICS_BYTES = 1 << 20
MARKERS = ("<AddShift>", "<Rescale>")


@dataclass(frozen=True)
class LfrConfig(KaldiFraming):
    """Low-frame-rate features.

    FunASR's: a filterbank, of which every ``lfr_n``-th frame is kept with its neighbours, normalised by the mean and
    standard deviation of each bin over the training data. A model is tied to the values it was trained with.
    """

    num_mel_bins: int = option(80, "number of mel filters", unit="bins")  # type: ignore[assignment]
    sample_rate: int = option(16000, "sample rate that the features expect", unit="Hz")
    frame_length_ms: float = option(25.0, "length of the analysis window", unit="ms")
    frame_shift_ms: float = option(10.0, "distance of one window from the next", unit="ms")
    low_freq: float = option(20.0, "lower edge of the first filter", unit="Hz")
    high_freq: float = option(
        0.0, "upper edge of the last filter; at or below 0 it counts from half the sample rate", unit="Hz"
    )
    window: str = option("hamming", "shape of the analysis window", choices=("hamming", "povey"))
    snip_edges: bool = option(True, "windows lie within the signal; otherwise its ends are mirrored")
    sample_scale: float = option(32768.0, "what samples in [-1, 1] are multiplied by")
    dither: float = option(
        1.0, "standard deviation of the noise that is added to the scaled samples in training; nowhere else"
    )
    lfr_m: int = option(7, "windows that are stacked in one frame", unit="windows")
    lfr_n: int = option(6, "distance of one frame from the next", unit="windows")
    neg_mean: Floats = option(
        (),
        "what is added to each bin: one number for each mel filter, or for each bin of a frame; none for nothing",
        hidden=True,
    )
    inv_stddev: Floats = option((), "what each bin is then multiplied by, as many numbers", hidden=True)

    name: ClassVar[str] = "lfr"
    padding_value = 0.0
    mask_value: ClassVar[float | None] = 0.0
    bins_flag = "--num-mel-bins"

    def __post_init__(self) -> None:
        self.check_framing()
        for flag, value in (("--lfr-m", self.lfr_m), ("--lfr-n", self.lfr_n)):
            if not 1 <= value <= MAX_STACKED:
                raise must_be(flag, f"from 1 to {MAX_STACKED}", value)
        if not (self.sample_scale > 0 and self.dither >= 0):
            found = f"{self.sample_scale} and {self.dither}"
            raise must_be("--sample-scale and --dither", "above 0, and 0 or more", found)
        _check_statistics(self.neg_mean, self.inv_stddev, (0, self.num_mel_bins, self.feature_dim))

    @property
    def feature_dim(self) -> int:
        """Bins of a frame: those of all its windows."""
        return self.num_mel_bins * self.lfr_m

    @property
    def mel_copies(self) -> int:
        """Sets of the mel filters' bins in a frame."""
        return self.lfr_m

    @property
    def frame_step_s(self) -> float:
        """Distance of one frame from the next in s."""
        return self.frame_shift_ms * self.lfr_n / 1000

    @property
    def step_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.shift_samples * self.lfr_n

    @property
    def first_frame_s(self) -> float:
        """Where the first frame begins in s: half a step before the middle of its windows."""
        middle = (self.lfr_m - 1) / 2 - self.left_windows
        return self.first_window_s + (middle + 0.5) * self.frame_shift_ms / 1000 - self.frame_step_s / 2

    @property
    def left_windows(self) -> int:
        """Windows of a frame that lie before the one at which it stands."""
        return (self.lfr_m - 1) // 2

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of ``num_samples`` samples."""
        return self.stacked(self.num_windows(num_samples))

    def stacked(self, windows: Count) -> Count:
        """Frames of ``windows`` windows: one for every ``lfr_n`` or less."""
        return (windows + self.lfr_n - 1) // self.lfr_n  # type: ignore[operator, return-value]

    def min_samples(self, frames: int) -> int:
        """The fewest samples that have this number of frames."""
        return self.min_samples_of_windows((frames - 1) * self.lfr_n + 1)

    def num_samples(self, frames: int) -> int:
        """The samples that this number of frames stands for."""
        return self.min_samples_of_windows(frames * self.lfr_n)

    def statistics(self) -> tuple[Floats, Floats]:
        """What is added to each of the F bins, and what it is multiplied by then."""
        if not self.neg_mean:
            return (0.0,) * self.feature_dim, (1.0,) * self.feature_dim
        times = self.feature_dim // len(self.neg_mean)
        return self.neg_mean * times, self.inv_stddev * times

    def with_statistics(self, path: Path) -> LfrConfig:
        """With the statistics of an am.mvn. Raises `UserError` as `read_statistics`, or where their number is wrong."""
        shift, scale = read_statistics(path)
        _check_statistics(shift, scale, (self.num_mel_bins, self.feature_dim), str(path))
        return self._with(shift, scale)

    @classmethod
    def from_funasr(cls, values: Mapping[str, Any], origin: str) -> LfrConfig:
        """What ``frontend_conf`` of a FunASR configuration says, without the statistics.

        Raises `UserError` for an entry that is not known, or a value that is none.
        """
        given = {key: value for key, value in values.items() if key not in FUNASR_UNUSED}
        scaled = given.pop(FUNASR_SCALING, True)
        if scaled not in (True, False):
            raise must_be(f"{FUNASR_SCALING} in {origin}", "true or false", repr(scaled)[:40])
        for key in given:
            if key not in FUNASR_KEYS:
                raise unknown_name(f"key in {origin}:", str(key), list(FUNASR_KEYS))
        said: dict[str, Any] = {**FUNASR_DEFAULTS, **{FUNASR_KEYS[key]: value for key, value in given.items()}}
        return from_mapping(cls, said if scaled else {**said, "sample_scale": 1.0}, origin=origin)

    def _with(self, shift: Floats, scale: Floats) -> LfrConfig:
        """With these statistics, one set of the mel filters' where all are alike."""
        bins = self.num_mel_bins
        if len(shift) > bins and all(values == values[:bins] * self.lfr_m for values in (shift, scale)):
            shift, scale = shift[:bins], scale[:bins]
        if not any(shift) and {*scale} <= {1.0}:
            shift, scale = (), ()
        return dataclasses.replace(self, neg_mean=shift, inv_stddev=scale)

    def unusual(self) -> dict[str, Any]:
        """The fields that are not at their defaults, apart from the statistics, and from noise in training."""
        return unusual_fields(self, *SHERPA_STATISTICS, "dither")

    def as_metadata(self) -> dict[str, str]:
        """What a file of a model says of its features: what sherpa-onnx reads, their name, and what is unusual."""
        said = {key: str(getattr(self, field)) for key, field in SHERPA_KEYS.items()}
        said |= {key: ",".join(map(repr, values)) for key, values in zip(SHERPA_STATISTICS, self.statistics())}
        others = {k: v for k, v in self.unusual().items() if k not in SHERPA_KEYS.values()}
        return as_entries(self.name, others) | said

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> LfrConfig:
        """The features that a file's metadata describes. Raises `UserError` for what `as_metadata` does not write."""
        prefix = f"{cls.name}_"
        said = {SHERPA_KEYS.get(prefix + key, key): value for key, value in prefixed(metadata, prefix).items()}
        said |= {key: metadata[key] for key in SHERPA_STATISTICS if key in metadata}
        config = from_entries(cls, said, origin)
        return config._with(config.neg_mean, config.inv_stddev)


def _check_statistics(shift: Floats, scale: Floats, sizes: Sequence[int], origin: str = "") -> None:
    named = f"the statistics of {origin}" if origin else "--neg-mean and --inv-stddev"
    if len(shift) != len(scale) or len(shift) not in sizes:
        expected = " or ".join(map(str, sorted({*sizes})))
        raise must_be(named, f"{expected} numbers each", f"{len(shift)} and {len(scale)}")
    if not all(map(math.isfinite, (*shift, *scale))) or not all(value > 0 for value in scale):
        raise must_be(named, "numbers, the scales above 0", "others")


def read_statistics(path: Path) -> tuple[Floats, Floats]:
    """Shift and scale of each bin in an am.mvn, a Kaldi network in text: negative means, inverse standard deviations.

    Raises:
        UserError: no such file, or none of that kind.
    """
    if not path.is_file():
        raise UserError(f"the statistics {path} do not exist")
    if path.stat().st_size > MAX_STATISTICS_BYTES:
        raise must_be(str(path), "an am.mvn file", f"a file of {path.stat().st_size >> 20} MiB")
    text = read_text(path)
    shift, scale = (_numbers_behind(text, marker, path) for marker in MARKERS)
    return shift, scale


def _numbers_behind(text: str, marker: str, path: Path) -> Floats:
    _, found, rest = text.partition(marker)
    inside, closed, _ = rest.partition("[")[2].partition("]")
    try:
        if not (found and closed):
            raise ValueError
        return tuple(map(float, inside.split()))
    except ValueError:
        raise must_be(str(path), f"an am.mvn file, with numbers in [ ] behind {marker}", "none") from None
