"""The sizes of output heads read off their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from couloir.errors import UserError
from couloir.models.heads.config import HeadsConfig


def heads_config(weights: Mapping[str, Tensor], origin: str) -> HeadsConfig:
    """The CTC and transducer heads. Raises `UserError` when there is neither."""
    ctc, embedding = weights.get("ctc_output.1.weight"), weights.get("decoder.embedding.weight")
    if ctc is None and embedding is None:
        raise UserError(f"{origin} has neither a CTC nor a transducer head")
    sizes: dict[str, Any] = {"vocab_size": (ctc if ctc is not None else embedding).shape[0]}  # type: ignore[union-attr]
    if embedding is not None:
        conv = weights.get("decoder.conv.weight")
        sizes["decoder_dim"] = embedding.shape[1]
        sizes["joiner_dim"] = weights["joiner.encoder_proj.weight"].shape[0]
        sizes["context_size"] = 1 if conv is None else conv.shape[2]
    return HeadsConfig(use_transducer=embedding is not None, use_ctc=ctc is not None, **sizes)
