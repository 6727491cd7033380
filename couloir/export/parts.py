"""What a family of models gives to be exported: parts, each of which becomes a file, or all of them one.

Shapes: B items, T feature frames, F feature bins, S output frames, D outputs, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from couloir.models.common.streaming import Streaming
from couloir.models.geometry import FrameGeometry

Metadata = Mapping[str, str | int]


@dataclass(frozen=True)
class OfflinePart:
    """A file that takes whole recordings: (B, T, F) and (B,) -> (B, S, D) and (B,).

    Attributes:
        name: of the file, without precision and suffix. output, output_lens: names of what it gives.
        module: in eval mode, traced with free B and T; items of a batch get what they would get alone.
        reference: the same of one item alone in PyTorch, if possible by another way than the module's.
        feature_dim: F. geometry: of its frames. scores: it gives scores of tokens.
        metadata: of an ONNX file, beside those of features and geometry.
        warnings: what those who use one elsewhere must know.
    """

    name: str
    module: nn.Module
    reference: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    feature_dim: int
    geometry: FrameGeometry
    output: str = "encoder_out"
    output_lens: str = "encoder_out_lens"
    scores: bool = False
    metadata: Metadata = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StreamingPart:
    """A file that takes windows (B, T, F) and states, and gives (B, S, D) and new states.

    Attributes:
        streaming: of the encoder. head: what stands behind it. Others: as of `OfflinePart`; the metadata are those
            beside the streaming's own.
    """

    name: str
    streaming: Streaming
    head: nn.Module
    output: str = "encoder_out"
    scores: bool = False
    metadata: Metadata = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowsPart:
    """A file whose rows are independent of each other: (R, ...) inputs -> (R, D).

    Attributes:
        module: in eval mode. inputs, output: names. rows: inputs that come up in an item of features (T, F).
        Others: as of `OfflinePart`.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    output: str
    rows: Callable[[Tensor], tuple[Tensor, ...]]
    scores: bool = False
    metadata: Metadata = field(default_factory=dict)


ExportPart = OfflinePart | StreamingPart | RowsPart


@dataclass(frozen=True)
class ScriptedPart:
    """A TorchScript file of a whole model.

    Attributes:
        encoder: which is traced. modules: those that are scripted as they are, by the names of the file's attributes.
    """

    encoder: OfflinePart | StreamingPart
    modules: Mapping[str, nn.Module]
