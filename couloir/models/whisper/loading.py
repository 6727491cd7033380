"""A Whisper's sizes and weights from the files of OpenAI, Hugging Face, CTranslate2, and our own.

Shapes: V vocabulary, D channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from couloir.checkpoint import Weights, load_checkpoint, load_weights, model_weights
from couloir.errors import UserError, must_be
from couloir.models.whisper.config import WhisperConfig
from couloir.models.whisper.ctranslate2 import is_ctranslate2, read_ctranslate2
from couloir.models.whisper.model import Whisper

FILES = ("model.safetensors", "model.bin", "pytorch_model.bin", "model.pt")
"""What holds the weights in a folder, the first of them that is there."""
HEAD_WIDTH = 64
"""Of every published model."""
_HUGGING_FACE = {
    "layers": "blocks",
    "self_attn": "attn",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn": "cross_attn",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
    "embed_tokens": "token_embedding",
}
_TIED = ("proj_out.weight",)
"""The output layer, which is the embedding."""


def read_whisper(path: Path) -> tuple[WhisperConfig, Weights]:
    """Sizes and weights, under OpenAI's names.

    Args:
        path: a file, or a folder that holds one of `FILES`.

    Raises:
        UserError: it is missing, damaged, no Whisper's, or would run code.
    """
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"{path} holds no Whisper: none of {', '.join(FILES)} is in it")
        path = found
    if is_ctranslate2(path):
        weights = read_ctranslate2(path)
        return whisper_config(weights, str(path)), weights
    checkpoint = load_checkpoint(path)
    entry = "model_state_dict" if "model_state_dict" in checkpoint else "model"
    weights = from_hugging_face(model_weights(checkpoint, str(path), entry))
    dims = checkpoint.get("dims")
    return whisper_config(weights, str(path), dims if isinstance(dims, Mapping) else None), weights


def load_whisper(path: Path) -> Whisper:
    """A model in eval mode. Raises as `read_whisper`, and where a tensor is missing or is of another size."""
    config, weights = read_whisper(path)
    model = Whisper(config)
    load_weights(model, weights, str(path))
    return model.eval()


def from_hugging_face(weights: Mapping[str, Tensor]) -> Weights:
    """Hugging Face's names brought to OpenAI's. Those that are OpenAI's already stay."""
    return {_renamed(name): tensor for name, tensor in weights.items() if name not in _TIED}


def _renamed(name: str) -> str:
    name = name.removeprefix("model.").replace(".embed_positions.weight", ".positional_embedding")
    side, _, rest = name.partition(".")
    if rest.startswith("layer_norm."):
        return f"{side}.{'ln_post' if side == 'encoder' else 'ln'}.{rest.removeprefix('layer_norm.')}"
    return ".".join(_HUGGING_FACE.get(part, part) for part in name.split("."))


def whisper_config(weights: Mapping[str, Tensor], origin: str, dims: Mapping[str, Any] | None = None) -> WhisperConfig:
    """The sizes that weights have.

    Args:
        weights: under OpenAI's names. origin: what to call them in an error. dims: OpenAI's table of sizes, which alone
            tells the number of heads; None: they are `HEAD_WIDTH` wide.

    Raises:
        UserError: the weights are no Whisper's.
    """
    try:
        conv, audio = weights["encoder.conv1.weight"], weights["encoder.positional_embedding"]
        tokens, text = weights["decoder.token_embedding.weight"], weights["decoder.positional_embedding"]
    except KeyError as error:
        raise UserError(f"{origin} is no Whisper: {error} is not in it") from None
    for name, tensor, axes in (("conv1", conv, 3), ("positions", audio, 2), ("tokens", tokens, 2), ("text", text, 2)):
        if tensor.dim() != axes:
            raise must_be(f"{origin}: {name}", f"a tensor of {axes} axes", tuple(tensor.shape))
    return WhisperConfig(
        feature_dim=conv.shape[1],
        audio_context=audio.shape[0],
        encoder_dim=conv.shape[0],
        encoder_num_heads=_heads(conv.shape[0], dims, "n_audio_head"),
        num_encoder_layers=_layers(weights, "encoder"),
        vocab_size=tokens.shape[0],
        text_context=text.shape[0],
        decoder_dim=tokens.shape[1],
        decoder_num_heads=_heads(tokens.shape[1], dims, "n_text_head"),
        num_decoder_layers=_layers(weights, "decoder"),
    )


def _heads(width: int, dims: Mapping[str, Any] | None, name: str) -> int:
    said = None if dims is None else dims.get(name)
    return said if isinstance(said, int) and said > 0 else max(width // HEAD_WIDTH, 1)


def _layers(weights: Mapping[str, Tensor], side: str) -> int:
    pattern = re.compile(rf"{side}\.blocks\.(\d{{1,3}})\.")
    return max((int(found[1]) + 1 for name in weights if (found := pattern.match(name))), default=0)
