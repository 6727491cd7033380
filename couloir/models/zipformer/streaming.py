"""Streaming: what a causal encoder sees at a time, and what it remembers between chunks.

Shapes: B streams, S output frames of a chunk, F feature bins, D model dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from couloir.errors import must_be
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.frontend import LOOK_AHEAD
from couloir.models.zipformer.layer import LAYER_STATES

if TYPE_CHECKING:
    from couloir.models.zipformer.model import AsrModel

EMBED_STATE, PROCESSED = "embed_states", "processed_lens"
SECOND_AXIS = ("cached_key", "cached_nonlin", "cached_val")
"""What the names of states begin with that count frames, or one head, before streams."""


def state_shapes(config: ZipformerConfig, batch: int, left_context: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the streaming states in the order of the exported models.

    Six per layer (`LAYER_STATES`), numbered over all layers, then ``embed_states``. ``processed_lens`` (B,) follows.

    Args:
        config: encoder. batch: streams. left_context: frames at 50 per second.
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []
    number = 0
    for sizes in config.as_stacks():
        left = left_context // sizes["downsampling_factor"]
        dim, heads, kernel = sizes["encoder_dim"], sizes["num_heads"], sizes["cnn_module_kernel"]
        values = (left, batch, sizes["value_head_dim"] * heads)
        layer_shapes: list[tuple[int, ...]] = [
            (left, batch, sizes["query_head_dim"] * heads),
            (1, batch, left, 3 * dim // 4),
            values,
            values,
            (batch, dim, kernel // 2),
            (batch, dim, kernel // 2),
        ]
        for _ in range(sizes["num_encoder_layers"]):
            shapes += [(f"{name}_{number}", shape) for name, shape in zip(LAYER_STATES, layer_shapes)]
            number += 1
    shapes.append((EMBED_STATE, (batch, config.frontend_channels[2], 3, config.frontend_bins)))
    return shapes


def initial_states(
    config: ZipformerConfig, batch: int, left_context: int, device: torch.device | None = None
) -> list[Tensor]:
    """All-zero states in the order of `state_shapes`, then ``processed_lens`` (B,) int64."""
    states = [torch.zeros(shape, device=device) for _, shape in state_shapes(config, batch, left_context)]
    return [*states, torch.zeros(batch, dtype=torch.int64, device=device)]


def left_context_mask(processed: Tensor, left_context: int) -> Tensor:
    """(B, left_context), True for the slots, oldest first, that hold no frame yet. ``processed``: (B,) frames."""
    age = torch.arange(left_context, device=processed.device).flip(0)
    return processed[:, None] <= age


def chunk_and_left_context(config: ZipformerConfig) -> tuple[int, int]:
    """The one chunk size and left context (50 Hz frames) of an encoder that streams. Raises `UserError`."""
    if not config.causal:
        raise must_be("--causal", "True for a streaming export", "False", "use export_onnx.py")
    for flag, values in (("--chunk-size", config.chunk_size), ("--left-context-frames", config.left_context_frames)):
        if len(values) != 1 or values[0] <= 0:
            raise must_be(flag, "one positive number for a streaming export", ",".join(map(str, values)))
    return config.chunk_size[0], config.left_context_frames[0]


class ZipformerStreaming:
    """A causal Zipformer as `couloir.models.common.streaming.Streaming`.

    Args:
        model: in eval mode; its configuration has one chunk size and one left context.

    Raises:
        UserError: it has not, or is not causal.
    """

    def __init__(self, model: AsrModel) -> None:
        self.model, self.config = model, model.zipformer_config
        self.geometry, self.feature_dim = self.config.geometry, self.config.feature_dim
        chunk, self.left_context = chunk_and_left_context(self.config)
        self.context = {"chunk": chunk, "left": self.left_context}
        factor, margin = self.geometry.embedding_factor, self.geometry.embedding_margin
        ahead = margin + factor * LOOK_AHEAD
        self.chunk_frames, self.window_frames = factor * chunk, factor * chunk + ahead
        self.attributes = {"chunk_size": chunk, "left_context_len": self.left_context, "pad_length": ahead}
        self.names = [name for name, _ in state_shapes(self.config, 1, self.left_context)] + [PROCESSED]

    def initial(self, batch: int) -> list[Tensor]:
        """As `initial_states`."""
        return initial_states(self.config, batch, self.left_context, next(self.model.parameters()).device)

    def batch_axis(self, name: str) -> int:
        """As `Streaming.batch_axis`."""
        return 1 if name.startswith(SECOND_AXIS) else 0

    def step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, 2 c + 13, F) and states -> (B, S, D) and new states."""
        return self.model.streaming_forward(x, states)

    def metadata(self) -> dict[str, str | int]:
        """What sherpa-onnx makes the states from."""
        config = self.config
        lists = {
            "num_encoder_layers": config.num_encoder_layers,
            "encoder_dims": config.encoder_dim,
            "cnn_module_kernels": config.cnn_module_kernel,
            "left_context_len": [self.left_context // factor for factor in config.downsampling_factor],
            "query_head_dims": config.query_head_dim,
            "value_head_dims": config.value_head_dim,
            "num_heads": config.num_heads,
        }
        sizes = {name: ",".join(map(str, values)) for name, values in lists.items()}
        return {"decode_chunk_len": self.chunk_frames, "T": self.window_frames, **sizes}
