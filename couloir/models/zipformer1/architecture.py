"""The sizes of a first-generation Zipformer read off its weights, so that a bare checkpoint needs no flags.

All sizes show in the weights. Contexts, and which channels feature masking spares in training, do not, and change none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from couloir.errors import UserError
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.sizes import heads_config, refuse_other_sizes
from couloir.models.zipformer1.config import (
    EMBED_CHANNELS,
    POS_HEAD_DIM,
    PRESETS,
    WEIGHT_BOUND,
    Zipformer1Config,
)

NOT_IN_WEIGHTS = frozenset(field.name for field in fields(Zipformer1Config)) - set(WEIGHT_BOUND)
"""Fields of a configuration that a checkpoint's weights do not tell."""
EMBED = "encoder.encoder_embed."
_LAYER = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.self_attn\.in_proj2\.weight")


def owns(names: Collection[str]) -> bool:
    """Whether a state dict with these names is a first-generation Zipformer's."""
    return EMBED + "out.weight" in names and "encoder.downsample_output.query" in names


def zipformer1_config(weights: Mapping[str, Tensor], origin: str) -> Zipformer1Config:
    """The encoder's sizes.

    Args:
        weights: a state dict. origin: what to call it in an error.

    Raises:
        UserError: the weights are no first-generation Zipformer's.
    """
    last_layer: dict[int, int] = {}
    for name in weights:
        if found := _LAYER.fullmatch(name):
            stack, layer = int(found[1]), int(found[2])
            last_layer[stack] = max(last_layer.get(stack, 0), layer)
    if not last_layer or not owns(weights.keys()):
        raise UserError(
            f"{origin} is no first-generation Zipformer: `encoder.encoders.*` layers or "
            f"`{EMBED}out.weight` are not in it"
        )
    stacks = [_stack_sizes(weights, i, last_layer[i] + 1) for i in sorted(last_layer)]
    columns: dict[str, Any] = {name: tuple(stack[name] for stack in stacks) for name in stacks[0]}
    bins = weights[EMBED + "out.weight"].shape[1] // EMBED_CHANNELS[2]
    return Zipformer1Config(**columns, encoder_unmasked_dims=columns["encoder_dims"], feature_dim=4 * bins + 4)


def _stack_sizes(weights: Mapping[str, Tensor], index: int, layers: int) -> dict[str, int]:
    stack = f"encoder.encoders.{index}."
    upsampled = weights.get(stack + "upsample.bias")
    layer = stack + ("" if upsampled is None else "encoder.") + "layers.0."

    def shape(name: str) -> tuple[int, ...]:
        return tuple(weights[layer + name + ".weight"].shape)

    return {
        "num_encoder_layers": layers,
        "zipformer_downsampling_factors": 1 if upsampled is None else upsampled.shape[0],
        "feedforward_dims": shape("feed_forward1.in_proj")[0],
        "nhead": shape("self_attn.linear_pos")[0] // POS_HEAD_DIM,
        "encoder_dims": shape("pooling.proj")[0],
        "attention_dims": 2 * shape("self_attn.in_proj2")[0],
        "cnn_module_kernels": shape("conv_module1.depthwise_conv")[-1],
    }


def adapted(
    zipformer: Zipformer1Config,
    heads: HeadsConfig,
    weights: Mapping[str, Tensor],
    typed: Collection[str],
    origin: str,
) -> tuple[Zipformer1Config, HeadsConfig]:
    """Configurations brought to the sizes that weights have.

    Args:
        zipformer, heads: what defaults and flags say. weights: a state dict. typed: the fields that a person gave.
        origin: what to call the weights in an error.

    Raises:
        UserError: they are no first-generation Zipformer's, or a field that was typed contradicts them.
    """
    found = replace(
        zipformer1_config(weights, origin),
        **{name: getattr(zipformer, name) for name in ("short_chunk_size", "num_left_chunks", "decode_chunk_len")},
    )
    read = heads_config(weights, origin)
    widths = replace(heads, **{name: getattr(read, name) for name in ("decoder_dim", "joiner_dim", "context_size")})
    refuse_other_sizes(((zipformer, found), (heads, widths)), set(typed) - NOT_IN_WEIGHTS, origin)
    return found, widths


def same_sizes(config: Zipformer1Config, other: Zipformer1Config) -> bool:
    """Whether two configurations take the same weights."""
    return all(getattr(config, name) == getattr(other, name) for name in WEIGHT_BOUND)


def preset_name(config: Zipformer1Config) -> str:
    """The known size that a configuration is; "" if none."""
    return next((name for name, preset in PRESETS.items() if same_sizes(config, preset)), "")
