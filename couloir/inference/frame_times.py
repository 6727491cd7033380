"""When a model's output frames are, and where its recordings may be cut. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from couloir.features.config import FbankConfig
from couloir.features.front_end import FrontEndConfig
from couloir.models.geometry import FrameGeometry


@dataclass(frozen=True)
class FrameTimes:
    """A model's geometry in time.

    Attributes:
        shift: distance of the output frames in s. first: where the first one begins, in s.
        min_samples: the fewest samples that give a frame.
        step_samples: windows of a long recording begin at multiples of these.
    """

    shift: float
    first: float
    min_samples: int
    step_samples: int


def frame_times(geometry: FrameGeometry, features: FrontEndConfig) -> FrameTimes:
    """The times of a model with these features."""
    return FrameTimes(
        shift=geometry.factor * features.frame_step_s,
        first=features.first_frame_s + geometry.first_frame * features.frame_step_s,
        min_samples=features.min_samples(geometry.shortest),
        step_samples=geometry.window_step * features.step_samples,
    )


USUAL = frame_times(FrameGeometry(), FbankConfig())
"""Of icefall's models: frames of 40 ms, the first of which begins at 35 ms; 85 ms at least; windows each 160 ms."""
