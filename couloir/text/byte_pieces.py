"""Byte-fallback pieces ``<0x00>``...``<0xFF>``: a character that a vocabulary lacks, as its bytes in UTF-8."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def byte_of(piece: str) -> int | None:
    """The byte that a piece stands for, or None."""
    found = _BYTE.fullmatch(piece)
    return int(found[1], 16) if found else None


def text_of(values: Sequence[int]) -> str:
    """The text of bytes; each that is part of no character becomes U+FFFD, as in sentencepiece."""
    return _UNDECODABLE.sub("\ufffd", bytes(values).decode("utf-8", "surrogateescape"))


def with_bytes_joined(surfaces: Sequence[str], values: Sequence[int | None]) -> list[str]:
    """What each token adds to a text: the first of a run of bytes adds the characters of the run, the others nothing.

    Args:
        surfaces: of the tokens that are no bytes. values: `byte_of` each token.
    """
    joined, at = list(surfaces), 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] is not None:
            end += 1
        if end > at:
            run = text_of([value for value in values[at:end] if value is not None])
            joined[at:end] = [run, *[""] * (end - at - 1)]
        at = end + 1
    return joined
