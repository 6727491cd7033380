"""The sizes of a Paraformer read off its weights, so that a bare checkpoint needs no flags.

Heads of SAN-M layers, shifts of memories, thresholds and the meaning of the last token do not show in the weights: they
are taken from a configuration, by default the general models'.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from couloir.config import flag_name
from couloir.errors import UserError, must_be
from couloir.models.paraformer.config import PRESETS, ParaformerConfig

IN_WEIGHTS = frozenset(
    {
        "encoder",
        "decoder",
        "predictor",
        "vocab_size",
        "feature_dim",
        "encoder_dim",
        "encoder_feedforward_dim",
        "num_encoder_layers",
        "encoder_kernel",
        "decoder_feedforward_dim",
        "num_decoder_layers",
        "num_decoder_attention_layers",
        "use_ctc",
    }
)
"""Fields of a configuration that weights tell; a Conformer's tell the encoder's heads, a SAN-M decoder's its kernel."""
TIMES = "predictor.cif_output2.weight"
ALWAYS_THERE = ("encoder.after_norm.weight", "decoder.output_layer.weight", "predictor.cif_output.weight")


def is_paraformer(names: Collection[str]) -> bool:
    """Whether tensors of these names are a Paraformer's."""
    return all(name in names for name in ALWAYS_THERE)


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(found[1]) + 1 for name in weights if (found := pattern.match(name))), default=0)


def paraformer_config(
    weights: Mapping[str, Tensor], origin: str, said: ParaformerConfig | None = None
) -> ParaformerConfig:
    """The sizes that weights have.

    Args:
        weights: a state dict. origin: what to call it in an error. said: where to take the rest from; None: the
            published model of these sizes, or the defaults.

    Raises:
        UserError: the weights are no Paraformer's.
    """
    if not is_paraformer(weights):
        missing = next(name for name in ALWAYS_THERE if name not in weights)
        raise UserError(f"{origin} is no Paraformer: `{missing}` is not in it")
    try:
        found = {**_encoder_sizes(weights), **_decoder_sizes(weights)}
    except KeyError as error:
        raise UserError(f"{origin} is no Paraformer that can be built: {error} is not in it") from None
    found["predictor"] = "v1" if weights["predictor.cif_conv1d.weight"].shape[1] == 1 else "v2"
    if TIMES in weights:
        found.update(predictor="v3", time_factor=weights["predictor.upsample_cnn.weight"].shape[2])
    found["use_ctc"] = "ctc.ctc_lo.weight" in weights
    if found["encoder"] == "conformer":
        found["feature_dim"] = _bins(weights["encoder.embed.out.0.weight"], said)
    return replace(_published(found) if said is None else said, **found)


def _encoder_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = _layers(weights, "encoder.encoders")
    width = weights["encoder.after_norm.weight"].shape[0]
    if "encoder.encoders0.0.self_attn.fsmn_block.weight" in weights:
        first = "encoder.encoders0.0."
        return {
            "encoder": "sanm",
            "encoder_dim": width,
            "feature_dim": weights[first + "norm1.weight"].shape[0],
            "encoder_feedforward_dim": weights[first + "feed_forward.w_1.weight"].shape[0],
            "num_encoder_layers": layers + 1,
            "encoder_kernel": weights[first + "self_attn.fsmn_block.weight"].shape[2],
        }
    first = "encoder.encoders.0."
    return {
        "encoder": "conformer",
        "encoder_dim": width,
        "encoder_num_heads": weights[first + "self_attn.pos_bias_u"].shape[0],
        "encoder_feedforward_dim": weights[first + "feed_forward.w_1.weight"].shape[0],
        "num_encoder_layers": layers,
        "encoder_kernel": weights[first + "conv_module.depthwise_conv.weight"].shape[2],
    }


def _decoder_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    attending, others = _layers(weights, "decoder.decoders"), _layers(weights, "decoder.decoders2")
    sizes: dict[str, Any] = {
        "vocab_size": weights["decoder.output_layer.weight"].shape[0],
        "num_decoder_layers": attending + others,
        "num_decoder_attention_layers": attending,
    }
    if "decoder.decoders3.0.feed_forward.w_1.weight" in weights:
        kernels = [weights[name] for name in weights if name.startswith("decoder.") and "fsmn_block" in name]
        sizes["decoder_kernel"] = kernels[0].shape[2] if kernels else ParaformerConfig.decoder_kernel
        sizes["decoder_feedforward_dim"] = weights["decoder.decoders3.0.feed_forward.w_1.weight"].shape[0]
        return {"decoder": "sanm", **sizes}
    sizes["decoder_feedforward_dim"] = weights["decoder.decoders.0.feed_forward.w_1.weight"].shape[0]
    return {"decoder": "san", **sizes}


def _bins(projection: Tensor, said: ParaformerConfig | None) -> int:
    """Feature bins before the convolutions. Four numbers give one width: the one said, else the multiple of 4."""
    bins = projection.shape[1] // projection.shape[0]
    if said is not None and said.front_end_bins == bins:
        return said.feature_dim
    return 4 * bins + 4


def _published(found: Mapping[str, Any]) -> ParaformerConfig:
    """The published model of that kind and width, whatever its vocabulary; the defaults where there is none."""
    same = ("encoder", "decoder", "encoder_dim", "num_encoder_layers")
    for preset in PRESETS.values():
        if all(getattr(preset, name) == found[name] for name in same):
            return preset
    # A Conformer is FunASR's recipe, whose sentences have no end of their own.
    return PRESETS["aishell" if found["encoder"] == "conformer" else "small"]


def adapted(
    said: ParaformerConfig, weights: Mapping[str, Tensor], typed: Collection[str], origin: str
) -> ParaformerConfig:
    """A configuration brought to the sizes that weights have.

    Args:
        said: what defaults and flags say. weights: a state dict. typed: the fields that a person gave.
        origin: what to call the weights in an error.

    Raises:
        UserError: they are no Paraformer's, or a field that was typed contradicts them.
    """
    found = paraformer_config(weights, origin, said)
    for name in [field.name for field in fields(ParaformerConfig) if field.name in set(typed)]:
        if getattr(said, name) != getattr(found, name):
            theirs = f"{getattr(found, name)} (the weights in {origin} are of that size)"
            raise must_be(flag_name(name), theirs, getattr(said, name), "leave it out")
    return found
