"""What is asked of a model that encodes a recording chunk by chunk.

Shapes: B streams, T feature frames of a window, F feature bins, S output frames of a chunk, D model dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from couloir.models.geometry import FrameGeometry


class Streaming(Protocol):
    """A model with one chunk size and left context, and the states that it carries from chunk to chunk.

    Attributes:
        geometry: of its frames.
        chunk_frames: feature frames that a step goes on by.
        window_frames: feature frames that a step sees, those of the chunk and what its embedding looks ahead.
        feature_dim: F.
        names: of the states, in their order.
        context: what tells this chunk size and left context from others, as files are named by it.
        attributes: whole numbers that readers of a TorchScript file find on its encoder.
    """

    geometry: FrameGeometry
    chunk_frames: int
    window_frames: int
    feature_dim: int
    names: list[str]
    context: dict[str, int]
    attributes: dict[str, int]

    @property
    def model(self) -> nn.Module:
        """Whose weights `step` uses."""

    def initial(self, batch: int) -> list[Tensor]:
        """The states of B streams that begin; a state is of the type that it stays of."""

    def batch_axis(self, name: str) -> int:
        """The axis of a state that counts the streams."""

    def step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """A window (B, T, F) and the states before it -> (B, S, D) and the states behind it."""

    def metadata(self) -> dict[str, str | int]:
        """What a reader of an exported file makes the first states from."""


def pack_streams(streaming: Streaming, streams: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The states of several batches of streams as those of one batch, in their order."""
    return [torch.cat(parts, streaming.batch_axis(name)) for name, parts in zip(streaming.names, zip(*streams))]


def unpack_streams(streaming: Streaming, states: Sequence[Tensor]) -> list[list[Tensor]]:
    """The states of each stream of a batch, as of a batch of one: views of ``states``."""
    split = [state.split(1, streaming.batch_axis(name)) for name, state in zip(streaming.names, states)]
    return [list(parts) for parts in zip(*split)]
