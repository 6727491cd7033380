"""Transcripts in the letters of a language, as a recogniser of words or of characters learns them.

Letters, marks and digits stay, and what joins them inside a word (``it's``, ``как-то``, ``col·lega``); punctuation
becomes a blank. Digits are not spelt out: `has_digits` says where they are.
"""

from __future__ import annotations

import re
import unicodedata

from couloir.text.languages import small_letters

_JOINERS = {
    **dict.fromkeys("'’‘ʼ`´ꞌ", "'"), **dict.fromkeys("-\u2010\u2011", "-"), **{c: c for c in "·׳״\u200c\u200d"},
}  # fmt: skip
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_UNSPACED = "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_BESIDE_UNSPACED = re.compile(rf"(?<={_UNSPACED}) | (?={_UNSPACED})")


def as_words(text: str, language: str = "", lower_case: bool = True) -> str:
    """Words with one blank between any two: composed letters, half-width forms, one kind of apostrophe and of hyphen.

    Args:
        language: tag, which decides how letters become small. lower_case: False leaves their case as it is.
    """
    text = unicodedata.normalize("NFC", text.translate(_HALF_WIDTH))
    if lower_case:
        text = unicodedata.normalize("NFC", small_letters(text, language))
    kinds = ["", *map(unicodedata.category, text), ""]
    parts = []
    for before, character, kind, after in zip(kinds, text, kinds[1:], kinds[2:]):
        if character in _JOINERS and before[:1] in ("L", "M", "N") and after[:1] in ("L", "M", "N"):
            parts.append(_JOINERS[character])
        elif kind[0] in "LMN":
            parts.append(character)
        elif kind != "Cf":  # which nobody sees
            parts.append(" ")
    return " ".join("".join(parts).split())


def as_characters(text: str, language: str = "", lower_case: bool = True) -> str:
    """As `as_words`, without the blanks beside Chinese characters and kana, which are written without."""
    return _BESIDE_UNSPACED.sub("", as_words(text, language, lower_case))


def characters_of(text: str) -> list[str]:
    """The characters of a text without its blanks, as character error rates count them."""
    return list("".join(text.split()))


def has_digits(text: str) -> bool:
    """Whether a text holds digits, whose words nobody knows from it."""
    return any(map(str.isdigit, text))
