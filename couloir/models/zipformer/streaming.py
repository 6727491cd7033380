"""Streaming states: what a causal encoder remembers between chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.layer import LAYER_STATES


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
    shapes.append(("embed_states", (batch, config.frontend_channels[2], 3, config.frontend_bins)))
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
