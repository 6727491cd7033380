"""Streaming: what the encoder sees at a time, and what it remembers between chunks.

Each stack has seven states, one of every kind of `LayerState` with a leading axis of layers. They stand kind by kind:
``cached_len_0 .. cached_len_4``, then ``cached_avg_0 ..``, as in the reference's exported models.

The attention caches of a stream that begins are zeros, and as in the reference they are attended to until they are
filled, since trained models and all exported formats work so. With ``hide_unfilled`` they are not, and chunk by chunk
the output is exactly that of the whole recording under the chunk mask.

Shapes: B streams, T feature frames of a window, F feature bins, S output frames of a chunk, D model dimension,
N layers of a stack, L cached frames of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from couloir.errors import must_be
from couloir.models.zipformer1.config import Zipformer1Config
from couloir.models.zipformer1.layer import LayerState

if TYPE_CHECKING:
    from couloir.models.zipformer1.model import Zipformer1Model

KINDS = LayerState._fields
ATTENTION = ("cached_key", "cached_val", "cached_val2")
"""Kinds whose states count frames before streams."""


def state_shapes(config: Zipformer1Config, batch: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the streaming states of B streams, in the order of the exported models.

    Raises:
        UserError: the left context is unlimited.
    """
    if config.left_context < 0:
        raise must_be("--num-left-chunks", "at least 0 where chunks are encoded one by one", config.num_left_chunks)
    by_stack = [_stack_shapes(sizes, config.left_context, batch) for sizes in config.as_stacks()]
    return [(f"{kind}_{stack}", shapes[kind]) for kind in KINDS for stack, shapes in enumerate(by_stack)]


def _stack_shapes(sizes: dict[str, int], left_context: int, batch: int) -> dict[str, tuple[int, ...]]:
    layers, width, attention = sizes["num_encoder_layers"], sizes["encoder_dims"], sizes["attention_dims"]
    left = left_context // sizes["zipformer_downsampling_factors"]
    values, conv = (layers, left, batch, attention // 2), (layers, batch, width, sizes["cnn_module_kernels"] - 1)
    keys = (layers, left, batch, attention)
    shapes = ((layers, batch), (layers, batch, width), keys, values, values, conv, conv)
    return dict(zip(KINDS, shapes))


def initial_states(config: Zipformer1Config, batch: int, device: torch.device | None = None) -> list[Tensor]:
    """All-zero states in the order of `state_shapes`; lengths are int64."""
    return [
        torch.zeros(shape, dtype=torch.int64 if name.startswith(KINDS[0]) else torch.float32, device=device)
        for name, shape in state_shapes(config, batch)
    ]


def split_layers(states: Sequence[Tensor]) -> list[list[LayerState]]:
    """The states of each stack's layers."""
    stacks = len(states) // len(KINDS)
    return [
        [LayerState(*layer) for layer in zip(*(state.unbind(0) for state in states[stack::stacks]))]
        for stack in range(stacks)
    ]


def join_layers(layers: Sequence[Sequence[LayerState]]) -> list[Tensor]:
    """What `split_layers` takes apart."""
    return [torch.stack([layer[kind] for layer in stack]) for kind in range(len(KINDS)) for stack in layers]


def unfilled_masks(layers: Sequence[Sequence[LayerState]], frames: int, factors: Sequence[int]) -> Iterator[Tensor]:
    """For each stack a mask (1, B, 1, L + T), True for the slots, oldest first, that hold no frame yet.

    Args:
        layers: states. frames: of the embedding in the chunk. factors: down-sampling of each stack.
    """
    for stack, factor in zip(layers, factors):
        left, filled = stack[0].cached_key.shape[0], stack[0].cached_len
        new = (frames + factor - 1) // factor
        slot = torch.arange(-left, new, device=filled.device)
        yield (slot < -filled[:, None])[None, :, None, :]


class Zipformer1Streaming:
    """The encoder as `couloir.models.common.streaming.Streaming`, with the context of its configuration.

    Args:
        model: in eval mode. hide_unfilled: whether slots of caches that hold no frame yet are hidden.

    Attributes:
        shortest_window: feature frames that the window of a stream's end has at least, by padding.

    Raises:
        UserError: the left context is unlimited.
    """

    def __init__(self, model: Zipformer1Model, hide_unfilled: bool = False) -> None:
        self.model, self.config = model, model.zipformer_config
        self.hide_unfilled = hide_unfilled
        self.geometry, self.feature_dim = self.config.geometry, self.config.feature_dim
        self.names = [name for name, _ in state_shapes(self.config, 1)]
        self.chunk_frames = self.config.decode_chunk_len
        self.window_frames = self.chunk_frames + self.geometry.embedding_margin
        # A shorter last window is padded to this, so that every stack gets a frame that is no repeat.
        self.shortest_window = self.geometry.frames_of(self.config.coarsest)
        self.context = {"chunk": self.config.decode_chunk_size, "left": self.config.left_context}
        self.attributes = {
            "decode_chunk_size": self.config.decode_chunk_size,
            "left_context_len": self.config.left_context,
            "pad_length": self.geometry.embedding_margin,
        }

    def initial(self, batch: int) -> list[Tensor]:
        """As `initial_states`."""
        return initial_states(self.config, batch, next(self.model.parameters()).device)

    def batch_axis(self, name: str) -> int:
        """As `Streaming.batch_axis`."""
        return 2 if name.rpartition("_")[0] in ATTENTION else 1

    def step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, T, F) and states -> (B, S, D) and new states."""
        return self.model.streaming_forward(x, states, self.hide_unfilled)

    def metadata(self) -> dict[str, str | int]:
        """What sherpa-onnx makes the states from."""
        config = self.config
        lists: dict[str, Sequence[int]] = {
            "num_encoder_layers": config.num_encoder_layers,
            "encoder_dims": config.encoder_dims,
            "attention_dims": config.attention_dims,
            "cnn_module_kernels": config.cnn_module_kernels,
            "left_context_len": [config.left_context // k for k in config.zipformer_downsampling_factors],
        }
        sizes = {name: ",".join(map(str, values)) for name, values in lists.items()}
        return {"decode_chunk_len": self.chunk_frames, "T": self.window_frames, **sizes}
