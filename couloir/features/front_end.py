"""Front ends by name: what turns samples into the features that a model takes.

A front end is a configuration, which alone knows where its frames lie on the samples, a module in torch, and a function
in numpy for runtimes without torch. Exported files describe it in their metadata, from which it is made again here.
Imports nothing heavy.

Shapes: B batch, N samples, T frames, F feature bins.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from couloir.errors import must_be
from couloir.features.framing import Count
from couloir.features.metadata import FRONT_END_KEY

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class FrontEndConfig(Protocol):
    """What a front end is, and the one place of its geometry.

    Attributes:
        name: by which it is registered.
    """

    name: ClassVar[str]

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""

    @property
    def feature_dim(self) -> int:
        """F, the bins of a frame."""

    @property
    def num_mel_bins(self) -> int:
        """The mel filters, of which a frame may hold several sets."""

    @property
    def bins_flag(self) -> str:
        """The flag of their number."""

    @property
    def mel_copies(self) -> int:
        """Sets of the mel filters' bins that a frame holds, one behind the other."""

    @property
    def frame_step_s(self) -> float:
        """Distance of one frame from the next in s."""

    @property
    def step_samples(self) -> int:
        """Samples from one frame to the next."""

    @property
    def first_frame_s(self) -> float:
        """Where the share of the signal begins that the first frame stands for, a step around its middle; in s."""

    @property
    def padding_value(self) -> float:
        """What stands in frames behind an utterance's end."""

    @property
    def mask_value(self) -> float | None:
        """What SpecAugment writes into masked places; None for the mean of the utterance."""

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of ``num_samples`` samples (an int, or an integer array or tensor)."""

    def min_samples(self, frames: int) -> int:
        """The fewest samples that have this number of frames, at least one."""

    def num_samples(self, frames: int) -> int:
        """The samples that this number of frames stands for."""

    def unusual(self) -> dict[str, Any]:
        """The fields that are not at their defaults, which other programs take for granted: name -> value."""

    def as_metadata(self) -> dict[str, str]:
        """What a file of a model says of its front end; the inverse of `from_metadata`."""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> FrontEndConfig:
        """From what a file says. Raises `UserError` for what `as_metadata` does not write."""


class FrontEnd(Protocol):
    """A front end in torch, a module without parameters.

    Attributes:
        config: of it. padding_value: what stands behind an utterance's end. feature_dim: bins F of a frame.
    """

    config: Any
    padding_value: float
    feature_dim: int

    def __call__(self, waves: Tensor, wave_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) float32 samples in [-1, 1] and (B,) lengths -> (B, T, F) float32 and (B,) int64.

        An utterance's frames do not depend on the batch it is in, nor on what stands behind its length.
        """

    def num_frames(self, num_samples: int) -> int:
        """Frames of ``num_samples`` samples."""

    def exportable(self) -> nn.Module:
        """The same of operations that TorchScript, ONNX and browsers have, for any batch size and length."""

    def metadata(self) -> dict[str, str]:
        """What a file of a model says of it."""

    def to(self, device: Any) -> Any:
        """Itself on a device."""


@dataclass(frozen=True)
class Implementation:
    """Where a front end is found: MODULE:NAME of its configuration, its module in torch and its function in numpy."""

    config: str
    module: str
    function: str


FRONT_ENDS = {
    "fbank": Implementation(
        "couloir.features.config:FbankConfig", "couloir.features.fbank:Fbank", "couloir.features.kaldi:fbank_numpy"
    ),
    "lfr": Implementation(
        "couloir.features.lfr_config:LfrConfig", "couloir.features.lfr:Lfr", "couloir.features.funasr:lfr_numpy"
    ),
    "log_mel": Implementation(
        "couloir.features.log_mel_config:LogMelConfig",
        "couloir.features.log_mel:LogMel",
        "couloir.features.whisper:log_mel_numpy",
    ),
}


def config_class(name: str, origin: str = "") -> type[FrontEndConfig]:
    """The configuration of the front end of that name.

    Args:
        name: of it. origin: what names it, for the message.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FRONT_ENDS:
        named = f"{FRONT_END_KEY} of {origin}" if origin else FRONT_END_KEY
        raise must_be(named, "one of " + ", ".join(sorted(FRONT_ENDS)), repr(name)[:60])
    return _found(FRONT_ENDS[name].config)


def make_front_end(config: FrontEndConfig) -> FrontEnd:
    """The module in torch of a configuration."""
    return _found(FRONT_ENDS[config.name].module)(config)


def numpy_front_end(config: FrontEndConfig) -> Callable[[np.ndarray], np.ndarray]:
    """The function without torch: (N,) float32 samples in [-1, 1] -> (T, F) float32."""
    function = _found(FRONT_ENDS[config.name].function)
    return lambda wave: function(wave, config)


def from_metadata(metadata: Mapping[str, str], origin: str) -> FrontEndConfig:
    """The front end that the metadata of a file describes.

    Files from elsewhere do not name theirs: it is what `name_in` finds.

    Raises:
        UserError: one that is not known, or a setting of it that is none.
    """
    return config_class(name_in(metadata), f"the metadata of {origin}").from_metadata(metadata, origin)


def name_in(metadata: Mapping[str, str]) -> str:
    """The name that a file gives its front end; without one "lfr" by FunASR's settings, or "fbank", as of icefall's."""
    return metadata.get(FRONT_END_KEY, "lfr" if "lfr_window_size" in metadata else "fbank")


def _found(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
