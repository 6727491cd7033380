"""Which feature frames the frames of a model's output stand for. Imports no torch.

Shapes: T feature frames, E frames of the embedding, S output frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from couloir.errors import must_be
from couloir.features.metadata import from_entries, prefixed

METADATA_PREFIX = "geometry_"
MAX_FRAMES = 1000
"""Feature frames that a file may claim for any of the numbers below: 10 s."""
READ_OFF = ("output_factor",)
"""What files need not say, since a run of the model shows it."""

Count = TypeVar("Count")


@dataclass(frozen=True)
class FrameGeometry:
    """Sub-sampling of a model: an embedding, which convolutions reach over, and a coarser output behind it.

    The defaults are those of icefall's convolutional embeddings, whose exported files say nothing of it.

    Attributes:
        embedding_factor: feature frames from one frame of the embedding to the next.
        embedding_margin: feature frames by which its convolutions reach further: E = (T - margin) // factor.
        output_factor: frames of the embedding for each output frame, the last of which may stand for fewer.
        window_step: in feature frames; a window of a long recording begins at a multiple of these, so that every part
            of the model groups the same frames as in the uncut recording.
    """

    embedding_factor: int = 2
    embedding_margin: int = 7
    output_factor: int = 2
    window_step: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value, lowest = getattr(self, field.name), int(field.name != "embedding_margin")
            if not lowest <= value <= MAX_FRAMES:
                raise must_be(METADATA_PREFIX + field.name, f"from {lowest} to {MAX_FRAMES}", value)

    def embedded(self, frames: Count) -> Count:
        """E for T feature frames (an int, or an integer array or tensor); below 1 where they are too few."""
        return (frames - self.embedding_margin) // self.embedding_factor  # type: ignore[operator, return-value]

    def frames_of(self, embedded: int) -> int:
        """T that give E frames of the embedding, at least."""
        return self.embedding_margin + embedded * self.embedding_factor

    def output_frames(self, frames: Count) -> Count:
        """S for T feature frames, as `embedded`."""
        return self.sub_sampled(self.embedded(frames))

    def sub_sampled(self, embedded: Count) -> Count:
        """S for E frames of the embedding."""
        return (embedded + self.output_factor - 1) // self.output_factor  # type: ignore[operator, return-value]

    @property
    def factor(self) -> int:
        """Feature frames from one output frame to the next."""
        return self.embedding_factor * self.output_factor

    @property
    def shortest(self) -> int:
        """The fewest feature frames that give an output frame."""
        return self.frames_of(1)

    @property
    def first_frame(self) -> float:
        """Where the first output frame begins, in feature frames.

        A frame of the embedding sees `shortest` of them and stands for the `embedding_factor` in their middle. An
        output frame is the mean of such frames, and begins with the first.
        """
        return self.embedding_margin / 2

    def as_metadata(self) -> dict[str, str]:
        """What a model's file says, where it is not the default."""
        return {
            METADATA_PREFIX + field.name: str(getattr(self, field.name))
            for field in fields(self)
            if field.name not in READ_OFF and getattr(self, field.name) != field.default
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> FrameGeometry:
        """What a file's metadata says. Raises `UserError` for what `as_metadata` does not write."""
        return from_entries(cls, prefixed(metadata, METADATA_PREFIX), origin)
