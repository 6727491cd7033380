"""A quantizer's sizes and weights from the files of Ichigo, WhisperSpeech, and our own; codebooks grown and merged.

Shapes: R rows of a codebook, C channels of a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from couloir.checkpoint import Weights, load_checkpoint, load_weights, model_weights
from couloir.errors import UserError, must_be
from couloir.models.quantizer.config import PRESETS, QuantizerConfig
from couloir.models.quantizer.model import Quantizer

BOOK = "rq.layers.0._codebook."
_BOOKS = tuple(BOOK + name for name in ("embed", "embed_avg", "cluster_size"))
_COUNTERS = ("_codebook_usage", "val_true", "val_total")
_OLD_NAMES = (("out_blocks.", "_out_blocks."), ("rq.project_", "rq.layers.0.project_"))
NOISE = 0.01
"""Standard deviation of what copied rows of a codebook get."""


def read_quantizer(path: Path) -> Weights:
    """The weights under the names of `Quantizer`, counters left out.

    Raises:
        UserError: the file is missing, damaged, no quantizer's, or would run code.
    """
    checkpoint = load_checkpoint(path)
    entry = "state_dict" if "state_dict" in checkpoint else "model"
    return own_names(model_weights(checkpoint, str(path), entry))


def own_names(weights: Mapping[str, Tensor]) -> Weights:
    """Names of trainers and of older and newer libraries brought to ours."""
    found = {}
    for name, tensor in weights.items():
        name = name.removeprefix("model.")
        for old, new in _OLD_NAMES:
            if name.startswith(old):
                name = new + name.removeprefix(old)
        if name not in _COUNTERS:
            found[name] = tensor.reshape(1).float() if name == f"{BOOK}initted" else tensor
    return found


def quantizer_config(
    weights: Mapping[str, Tensor], origin: str, said: QuantizerConfig | None = None
) -> QuantizerConfig:
    """The sizes that weights have.

    Args:
        weights: a state dict. origin: what to call it in an error. said: where to take the rest from, the mask's row
            among it; None: the published model of these sizes, or the defaults with the last row as the mask.

    Raises:
        UserError: they are no quantizer's.
    """
    try:
        _, rows, dim = weights[f"{BOOK}embed"].shape
        context, width = weights["positional_embedding.weight"].shape
        half = weights["_out_blocks.0.attn.rotary.inv_freq"].shape[0]
    except (KeyError, ValueError) as error:
        raise UserError(f"{origin} is no quantizer of speech: {error}") from None
    found = {
        "encoder_dim": width,
        "num_heads": width // max(2 * half, 1),
        "audio_context": context,
        "codes": rows - 1,
        "codebook_dim": dim,
        "num_layers": sum(name.endswith(".attn.query.weight") for name in weights),
    }
    for preset in () if said is not None else PRESETS.values():
        if all(getattr(preset, name) == size for name, size in found.items()):
            return preset
    return replace(said if said is not None else QuantizerConfig(mask_code=-1), **found)  # type: ignore[arg-type]


def load_quantizer(path: Path, said: QuantizerConfig | None = None) -> Quantizer:
    """A quantizer in eval mode.

    Args:
        path: the file. said: the configuration that it must have; None: the one read off the weights.

    Raises:
        UserError: as `read_quantizer`; a tensor is missing or of another size.
    """
    weights = read_quantizer(path)
    found = quantizer_config(weights, str(path))
    for name in ("codes", "encoder_dim", "codebook_dim") if said is not None else ():
        if getattr(found, name) != getattr(said, name):
            raise must_be(
                f"{path}: {name}", str(getattr(said, name)), getattr(found, name), "name the size that it has"
            )
    model = Quantizer(said or found)
    counters = {name: tensor for name, tensor in model.state_dict().items() if name in _COUNTERS}
    load_weights(model, {**counters, **weights}, str(path))
    return model.eval()


def expanded(weights: Mapping[str, Tensor], codes: int, noise: float = NOISE, whole: bool = True) -> Weights:
    """A codebook repeated up to ``codes`` and the mask; copies get Gaussian noise, by which training tells them apart.

    Args:
        weights: a state dict. codes: of the result. noise: its standard deviation. whole: repeat all rows, the mask's
            among them, as the reference does: the new mask is then a copy of whatever row comes last. False repeats
            the codes alone, puts the old mask last, and normalises the copies.
    """
    found = dict(weights)
    for name in _BOOKS:
        old = weights[name]
        source, size = (old, codes + 1) if whole else (old[:, :-1], codes)
        repeats = -(-size // source.shape[1])
        grown = torch.cat([source] * repeats, dim=1)[:, :size].clone()
        grown[:, source.shape[1] :] += noise * torch.randn_like(grown[:, source.shape[1] :])
        if not whole:
            if name.endswith(".embed"):
                grown = torch.nn.functional.normalize(grown, dim=-1)
            grown = torch.cat([grown.clamp(min=0) if name.endswith("size") else grown, old[:, -1:]], dim=1)
        found[name] = grown
    return found


def merged(trained: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Weights:
    """The codebook of a trained quantizer, its mask last, and behind it the codes of the one it began with, without
    theirs; everything else is the trained one's.

    Raises:
        UserError: their codes are not of one width.
    """
    found = dict(trained)
    for name in _BOOKS:
        ours, theirs = trained[name], first[name][:, :-1]
        if ours.shape[2:] != theirs.shape[2:]:
            raise must_be("the codes to merge", f"{ours.shape[-1]} channels wide", f"{theirs.shape[-1]}")
        found[name] = torch.cat([ours, theirs], dim=1)
    return found
