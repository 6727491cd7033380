"""What transcripts, vocabularies and error rates are made of: phones, words or characters.

A recogniser's unit says how its transcripts are written, how its errors are counted and what they are called, which
speaking rates are plausible, and which vocabularies suit it. Everything that depends on it asks here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from couloir.errors import must_be
from couloir.files import atomic_write
from couloir.text.spelling import as_characters, as_words, characters_of
from couloir.texts import read_lines

UNIT_FILE = "unit.txt"
"""Beside a tokenizer, and in a folder of Shar splits: the name of the unit that its texts are made of."""
AUTO = "auto"
_SUPRASEGMENTALS = "ˈˌ˥˦˧˨˩.|"

_ARPABET = "aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
ARPABET = frozenset(_ARPABET.split())


@dataclasses.dataclass(frozen=True)
class Unit:
    """A kind of unit.

    Attributes:
        name: what ``--unit`` calls it; plural: what ``--transcripts`` does, and the flags of its rates.
        rate_name: of its error rate.
        prepare: a transcript, its language's tag, and whether capitals become small letters -> what is learned.
        split: a transcript -> its units. is_ipa: they are IPA, which articulatory features are known of.
        min_per_second, max_per_second: speaking rates outside of which a transcript is another recording's.
        tokenizers: kinds of vocabulary, the default first; vocab_size: of that, at most, where none is given.
    """

    name: str
    plural: str
    rate_name: str
    prepare: Callable[[str, str, bool], str]
    split: Callable[[str], list[str]]
    min_per_second: float
    max_per_second: float
    tokenizers: tuple[str, ...]
    vocab_size: int | None = None
    is_ipa: bool = False


def _phones_of(text: str) -> list[str]:
    from couloir.text.ipa import segment  # its table takes longer than all of this, which the flags' parsers import

    return segment(text)


def _as_phones(text: str, language: str = "", lower_case: bool = True) -> str:
    return "".join(_phones_of(text))


PHONE = Unit(
    "phone", "phones", "PER", _as_phones, _phones_of, 3.0, 20.0, ("phones", "unigram", "bpe", "chars"), is_ipa=True
)
WORD = Unit("word", "words", "WER", as_words, str.split, 0.3, 8.0, ("unigram", "bpe", "chars"), 500)
CHAR = Unit("char", "chars", "CER", as_characters, characters_of, 0.5, 30.0, ("chars", "unigram", "bpe"))
NAMED_PHONE = dataclasses.replace(PHONE, prepare=as_words, split=str.split, is_ipa=False)
"""Phones with names of several letters (ARPABET), which blanks separate."""

UNITS = {unit.name: unit for unit in (PHONE, WORD, CHAR)}
BY_PLURAL = {unit.plural: unit for unit in UNITS.values()}


def unit_named(name: str) -> Unit:
    """A unit by its name. Raises `UserError` for another one."""
    if name not in UNITS:
        raise must_be("unit", "one of " + ", ".join(UNITS), repr(name))
    return UNITS[name]


def unit_of(pieces: Sequence[str]) -> Unit:
    """The unit of a vocabulary's texts, by its pieces without special ones.

    Phones where they are IPA or ARPABET, characters where each is one and none a space, else words.
    """
    from couloir.text.ipa import are_phones

    plain = list(dict.fromkeys(piece.strip("▁") for piece in pieces))
    plain = [piece for piece in plain if piece]
    if are_phones([piece for piece in plain if piece.strip(_SUPRASEGMENTALS)]):
        return PHONE
    names = {piece.rstrip("012").lower() for piece in plain}
    if len(names & ARPABET) > 0.8 * len(ARPABET) and max(map(len, names)) <= 4:
        return NAMED_PHONE
    has_spaces = any("▁" in piece or piece in (" ", "<space>") for piece in pieces)
    return WORD if has_spaces or any(len(piece) > 1 for piece in plain) else CHAR


def save_unit(folder: Path, unit: Unit) -> None:
    """Write down what the texts in a folder are made of."""
    with atomic_write(folder / UNIT_FILE, "w") as out:
        out.write(f"{unit.name}\n")


def unit_beside(place: str | Path) -> Unit | None:
    """The unit that was written down in a folder, or beside a file; None where none was.

    Raises:
        UserError: it is no unit.
    """
    path = Path(place)
    path = (path if path.is_dir() else path.parent) / UNIT_FILE
    if not path.is_file():
        return None
    name = "".join(read_lines(path)).strip()
    if name not in UNITS:
        raise must_be(f"the unit in {path}", "one of " + ", ".join(UNITS), repr(name[:40]))
    return UNITS[name]
