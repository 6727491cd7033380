"""The sizes of a Zipformer read off its weights, so that a bare checkpoint needs no flags.

All published models have positional heads of width 4, the one size that shapes do not tell. Which channels feature
masking spares in training, and the chunks that a causal model was trained with, do not show in the weights either and
change no size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from couloir.errors import UserError
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.sizes import heads_config, refuse_other_sizes
from couloir.models.zipformer.config import PRESETS, ZipformerConfig

if TYPE_CHECKING:
    from torch import Tensor

POS_HEAD_DIM = 4
NOT_IN_WEIGHTS = {"pos_head_dim", "encoder_unmasked_dim", "chunk_size", "left_context_frames"}
"""Fields of a configuration that a checkpoint's weights do not tell."""
_LAYER = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.self_attn_weights\.in_proj\.weight")


def zipformer_config(
    weights: Mapping[str, Tensor], origin: str, pos_head_dim: Sequence[int] = (POS_HEAD_DIM,)
) -> ZipformerConfig:
    """The encoder's sizes.

    Args:
        weights: a state dict. origin: what to call it in an error.
        pos_head_dim: widths of the positional heads, one per stack or one for all.

    Raises:
        UserError: the weights are no second-generation Zipformer's.
    """
    last_layer: dict[int, int] = {}
    for name in weights:
        if found := _LAYER.fullmatch(name):
            stack, layer = int(found[1]), int(found[2])
            last_layer[stack] = max(last_layer.get(stack, 0), layer)
    if not last_layer or "encoder.downsample_output.bias" not in weights:
        raise UserError(
            f"{origin} is no second-generation Zipformer: `encoder.encoders.*` layers or "
            "`encoder.downsample_output.bias` are not in it"
        )
    widths = [pos_head_dim[min(i, len(pos_head_dim) - 1)] for i in range(len(last_layer))]
    stacks = [_stack_sizes(weights, i, last_layer[i] + 1, width) for i, width in zip(sorted(last_layer), widths)]
    columns: dict[str, Any] = {name: tuple(stack[name] for stack in stacks) for name in stacks[0]}
    first = "encoder.encoders.0." + ("" if stacks[0]["downsampling_factor"] == 1 else "encoder.") + "layers.0."
    channels = tuple(weights[f"encoder_embed.conv.{i}.weight"].shape[0] for i in (0, 4, 7))
    return ZipformerConfig(
        **columns,
        pos_head_dim=tuple(widths),
        pos_dim=weights[first + "self_attn_weights.linear_pos.weight"].shape[1],
        encoder_unmasked_dim=columns["encoder_dim"],
        causal=any("chunkwise_conv" in name for name in weights),
        output_downsampling_factor=weights["encoder.downsample_output.bias"].numel(),
        frontend_channels=channels,
        feature_dim=4 * (weights["encoder_embed.out.weight"].shape[1] // channels[2]) + 4,
    )


def _stack_sizes(weights: Mapping[str, Tensor], index: int, layers: int, pos_head_dim: int) -> dict[str, int]:
    stack = f"encoder.encoders.{index}."
    factor = weights[stack + "downsample.bias"].numel() if stack + "downsample.bias" in weights else 1
    layer = stack + ("" if factor == 1 else "encoder.") + "layers.0."

    def rows(name: str) -> int:
        return weights[layer + name + ".weight"].shape[0]

    heads = rows("self_attn_weights.linear_pos") // pos_head_dim
    conv = layer + "conv_module1.depthwise_conv."
    kernel = conv + ("weight" if conv + "weight" in weights else "chunkwise_conv.weight")
    return {
        "num_encoder_layers": layers,
        "downsampling_factor": factor,
        "feedforward_dim": rows("feed_forward2.in_proj"),
        "num_heads": heads,
        "encoder_dim": weights[layer + "bypass_scale"].shape[0],
        "query_head_dim": (rows("self_attn_weights.in_proj") // heads - pos_head_dim) // 2,
        "value_head_dim": rows("self_attn1.in_proj") // heads,
        "cnn_module_kernel": weights[kernel].shape[-1],
    }


def adapted(
    zipformer: ZipformerConfig, heads: HeadsConfig, weights: Mapping[str, Tensor], typed: Collection[str], origin: str
) -> tuple[ZipformerConfig, HeadsConfig]:
    """Configurations brought to the sizes that weights have.

    Args:
        zipformer, heads: what defaults and flags say. weights: a state dict. typed: the fields that a person gave.
        origin: what to call the weights in an error.

    Raises:
        UserError: they are no second-generation Zipformer's, or a field that was typed contradicts them.
    """
    sizes = zipformer_config(weights, origin, zipformer.pos_head_dim)
    found = replace(sizes, chunk_size=zipformer.chunk_size, left_context_frames=zipformer.left_context_frames)
    widths = heads
    if heads.use_transducer and "decoder.embedding.weight" in weights:
        read = heads_config(weights, origin)
        widths = replace(heads, **{name: getattr(read, name) for name in ("decoder_dim", "joiner_dim", "context_size")})
    refuse_other_sizes(((zipformer, found), (heads, widths)), set(typed) - NOT_IN_WEIGHTS, origin)
    return found, widths


def same_sizes(config: ZipformerConfig, other: ZipformerConfig) -> bool:
    """Whether two configurations take the same weights."""
    names = [field.name for field in fields(ZipformerConfig) if field.name not in NOT_IN_WEIGHTS - {"pos_head_dim"}]
    return all(getattr(config, name) == getattr(other, name) for name in names)


def preset_name(config: ZipformerConfig) -> str:
    """The published size that a configuration is, streaming or not, if need be at another output rate; "" if none."""
    for rate in (None, config.output_downsampling_factor):
        for name, preset in PRESETS.items():
            factor = rate or preset.output_downsampling_factor
            if same_sizes(config, replace(preset, output_downsampling_factor=factor, causal=config.causal)):
                return name
    return ""
