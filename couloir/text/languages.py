"""Tags of languages as people write them, and the voice of espeak-ng that pronounces each."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Tags for which espeak's voice of the same name is missing or is another accent than most recordings have.
VOICES = {"en": "en-us", "zh": "cmn", "no": "nb", "nn": "nb", "iw": "he", "in": "id", "pt": "pt-br", "kmr": "ku"}
_OF_REGIONS = {
    "pt-pt": "pt", "zh-hk": "yue", "zh-mo": "yue",
    **dict.fromkeys(("en-gb", "en-au", "en-nz", "en-ie", "en-in", "en-za"), "en"),
    **{f"es-{region}": "es-419" for region in ("ar", "bo", "cl", "co", "cr", "cu", "do", "ec", "gt", "hn", "mx", "ni")},
    **{f"es-{region}": "es-419" for region in ("pa", "pe", "pr", "py", "sv", "us", "uy", "ve")},
}  # fmt: skip
# fo, kaa and xex have no dictionary; Japanese kanji and Thai come out as nonsense; Burmese aborts the process.
_UNUSABLE = ("fo", "kaa", "xex", "ja", "th", "my")
_MOST_IN_CAPITALS = 0.99
_DOTLESS = str.maketrans({"I": "ı", "İ": "i"})
_TAG = re.compile(r"[a-z]{1,8}(-[a-z0-9]{1,8}){0,4}")


def language_tag(text: str) -> str:
    """One spelling of a language's tag: ``sv-se`` for ``sv-SE``, ``sv_SE`` and ``sv_SE.UTF-8``."""
    return text.strip().partition(".")[0].partition("@")[0].replace("_", "-").lower()


def voices_of(tag: str) -> list[str]:
    """Voices that may pronounce a language, the best first: of its region, of its name, of the language without region.

    An empty list where what espeak-ng says of it is of no use.
    """
    tag = language_tag(tag)
    base = tag.partition("-")[0]
    if base in _UNUSABLE or not _TAG.fullmatch(tag):
        return []
    found = [_OF_REGIONS.get(tag), VOICES.get(tag), tag, VOICES.get(base), base]
    return list(dict.fromkeys(voice for voice in found if voice))


def in_small_letters(texts: Sequence[str], language: str) -> list[str]:
    """The texts of a corpus; where all are in capitals, in small letters, since espeak-ng spells IT and US by letters.

    Where more than one in a hundred has small letters, or there is but one text, capitals mean something and stay.
    """
    capitals = sum(text.upper() == text != text.lower() for text in texts)
    if len(texts) < 2 or capitals < _MOST_IN_CAPITALS * sum(text.upper() != text.lower() for text in texts):
        return list(texts)
    return [small_letters(text, language) if text.upper() == text else text for text in texts]


def small_letters(text: str, language: str) -> str:
    """A text in small letters, as its language writes them: in Turkish and Azerbaijani ``I`` becomes ``ı``."""
    if language_tag(language).partition("-")[0] in ("tr", "az"):
        text = text.translate(_DOTLESS)
    return text.lower()
