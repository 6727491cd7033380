"""Lines of a key and a value, as Kaldi's tables have them: each key once, whatever form its letters have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from couloir.errors import UserError
from couloir.texts import read_lines, split_fields


def normal_key(key: str) -> str:
    """Keys that look alike are one: ``é`` is one letter, or a letter and a mark."""
    return unicodedata.normalize("NFC", key)


def refuse_repeated(path: Path, what: str, keys: Iterable[tuple[int, str]]) -> None:
    """Raise `UserError` naming both lines of the first key that is there twice.

    Args:
        what: a key is called; keys: (number of its line, key), in order.
    """
    seen: dict[str, int] = {}
    for number, key in keys:
        first = seen.setdefault(normal_key(key), number)
        if first != number:
            raise UserError(f"{path} must have each {what} once, but lines {first} and {number} both have {key}")


def read_keyed(path: Path) -> dict[str, str]:
    """Key in normal form -> value. Raises `UserError` for a key that is there twice, naming both lines."""
    lines = [(number, split_fields(line, 2)) for number, line in enumerate(read_lines(path), 1)]
    rows = [(number, fields[0], "".join(fields[1:])) for number, fields in lines if fields]
    refuse_repeated(path, "key", ((number, key) for number, key, _ in rows))
    return {normal_key(key): value for _, key, value in rows}
