"""Tokens of speech as text, for language models. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from couloir.errors import must_be

START, END = "<|sound_start|>", "<|sound_end|>"
_TOKENS = re.compile(r"(?:<\|sound_\d{4}\|>)*")
_NUMBER = re.compile(r"\d{4}")


def as_text(ids: Sequence[int]) -> str:
    """Ids below 10000 between marks: ``<|sound_start|><|sound_0012|><|sound_end|>``."""
    wrong = next((i for i in ids if not 0 <= i <= 9999), None)
    if wrong is not None:
        raise must_be("a token of speech", "from 0 to 9999", wrong)
    return START + "".join(f"<|sound_{i:04d}|>" for i in ids) + END


def from_text(text: str, rows: int) -> list[int]:
    """Ids of what `as_text` made, with or without its marks, and spaces around.

    Args:
        text: of a language model. rows: of the codebook.

    Raises:
        UserError: there is something else in it, or an id that the codebook has not.
    """
    inner = text.strip().removeprefix(START).removesuffix(END)
    if not _TOKENS.fullmatch(inner):
        raise must_be("a text of speech tokens", "made of `<|sound_NNNN|>`", repr(text[:60]))
    ids = [int(found) for found in _NUMBER.findall(inner)]
    if ids and max(ids) >= rows:
        raise must_be("a token of speech", f"from 0 to {rows - 1}", max(ids))
    return ids
