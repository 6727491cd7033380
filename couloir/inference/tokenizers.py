"""The one place that finds the tokenizer of a model. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from couloir.errors import UserError
from couloir.files import may_be_read

KEPT_TOKENIZER = "lang"
"""The folder of a run directory into which training copies its tokenizer."""
PLACES = (".", "ipa_simplified", "data/lang", "../lang")
"""Where others put one, seen from the weights."""


def find_tokenizer(
    folder: Path, saved: Mapping[str, Any], given: Path | None, fallback: str = "", flag: str = "--tokens"
) -> Path:
    """The tokenizer that was given, or the one beside weights.

    Args:
        folder: of the weights. saved: the configuration that was saved with them, as plain values; empty for those of
            another system. given: by a flag. fallback: one to take where there is none beside them. flag: which names
            one.

    Raises:
        UserError: there is none.
    """
    if given is not None:
        return given
    for place in _candidates(folder, saved, fallback):
        if place.is_file() or (place.is_dir() and (any(place.glob("*.model")) or (place / "tokens.txt").is_file())):
            return place
    raise UserError(f"no tokenizer was found beside {folder}; name its tokens.txt or bpe.model with {flag}")


def kept_tokenizer(folder: Path) -> Path | None:
    """What training left in the run directory of some weights, if anything."""
    kept = folder / KEPT_TOKENIZER
    return kept if kept.is_dir() else None


def _candidates(folder: Path, saved: Mapping[str, Any], fallback: str) -> Iterator[Path]:
    """What training left in the run directory comes first, under its own name where that folder holds several."""
    text = saved.get("text")
    named = text.get("bpe_model") if isinstance(text, Mapping) else None
    named = named if isinstance(named, str) else ""
    kept = folder / KEPT_TOKENIZER
    if name := Path(named or fallback).name:
        kept_file = kept / name
        if kept_file.is_file():
            yield kept_file
    yield kept
    if named and may_be_read(named, folder):
        yield Path(named)
    yield from (folder / place for place in PLACES)
    if fallback:
        yield Path(fallback)


def tokens_beside(path: Path) -> Path:
    """The tokens.txt of a model file or folder; where there is none, the first place at which it may be."""
    folder = path if path.is_dir() else path.parent
    places = [place / "tokens.txt" for place in (folder, folder / "lang", folder.parent)]
    return next((place for place in places if place.is_file()), places[0])
