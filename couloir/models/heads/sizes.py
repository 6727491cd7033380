"""The sizes of output heads read off their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from couloir.config import flag_name
from couloir.errors import UserError, must_be
from couloir.models.heads.config import HeadsConfig

if TYPE_CHECKING:
    from torch import Tensor


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


def refuse_other_sizes(pairs: Iterable[tuple[Any, Any]], typed: Collection[str], origin: str) -> None:
    """Refuse what a person typed where weights say otherwise.

    Args:
        pairs: configurations before and after they were brought to the sizes that weights have.
        typed: the fields that a person gave and that weights tell. origin: what to call the weights.

    Raises:
        UserError: with the first field that differs.
    """
    for before, after in pairs:
        for field in fields(before):
            given, theirs = getattr(before, field.name), getattr(after, field.name)
            if field.name in typed and given != theirs:
                what = f"{_shown(theirs)} (the weights in {origin} are of that size)"
                raise must_be(flag_name(field.name), what, _shown(given), "leave it out")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
