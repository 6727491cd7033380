"""Text in the International Phonetic Alphabet: one normal form, its segments, its diacritics.

The normal form is NFD with the rows of ``ipa_normalisation.tsv`` applied. All functions are pure and quick
(translation tables and one regular expression), so they can run inside a data loader.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.resources import files

TIE = "\u0361"
# ZIPA's `--remove-diacritics`: aspiration, palatalisation, labialisation, ejective, length, rhoticity, velarisation,
# pharyngealisation, nasalisation, no release, voicelessness, syllabicity, dental, velarised, laminal; and TAB, which
# stands in the published set by accident and is kept so that texts come out the same.
DIACRITICS = "\u02b0\u02b2\u02b7\u02bc\u02d0\u02de\u02e0\u02e4\u0303\u031a\u0325\u0329\u032a\u0334\u033a\t"

_MARKS = "\u02b0-\u0360\u0362-\u036f\u1ab0-\u1aff\u1d2c-\u1d6a\u1d78\u1d9b-\u1dff\u2071\u207f\u2090-\u209c\ua700-\ua71f"
_LETTER = rf"[^\s{TIE}{_MARKS}]"
# Leading marks (preaspiration, prenasalisation) belong to the letter after them only where no letter stands before.
_SEGMENT = re.compile(rf"[{_MARKS}]*{_LETTER}[{_MARKS}]*(?:{TIE}{_LETTER}[{_MARKS}]*)*{TIE}*|[{_MARKS}{TIE}]+")
_ONLY_MARKS = re.compile(rf"[{_MARKS}{TIE}]+")
_IPA_ALONE = re.compile("[\u0250-\u02af\u02d0ŋθβχ]")
_MOST_PLAIN_PHONES = 20
_LANGUAGE_SWITCH = re.compile(r"\([a-z]{2,3}(?:-[a-z0-9]+)*\)")
_WITHOUT_DIACRITICS = str.maketrans("", "", DIACRITICS)


def _characters(cell: str) -> str:
    """A table's cell as text: ``U+0063+0327`` is two code points, anything else stands for itself."""
    return "".join(chr(int(code, 16)) for code in cell[2:].split("+")) if cell.startswith("U+") else cell


def _table_rows() -> Iterator[tuple[str, str]]:
    table = files("couloir.text").joinpath("ipa_normalisation.tsv").read_text(encoding="utf-8")
    for line in table.split("\n"):
        if line and not line.startswith("# ") and line != "#":
            sources, target, _ = line.split("\t")
            for source in sources.split(" "):
                yield _characters(source), _characters(target)


_ROWS = list(_table_rows())
_LETTERS = str.maketrans({source: target for source, target in _ROWS if len(source) == 1})
_SEQUENCES = [(source, target) for source, target in _ROWS if len(source) > 1]


def normalize(text: str) -> str:
    """The normal form of an IPA text.

    NFD, then the rows of ``ipa_normalisation.tsv``: look-alikes, retired letters, ties, ``ɡ`` -> ``g``; stress, tone
    and punctuation are dropped, white space becomes single spaces. Letters that the table does not name stay as
    they are. ``normalize(normalize(x)) == normalize(x)``.
    """
    text = unicodedata.normalize("NFD", _LANGUAGE_SWITCH.sub(" ", text)).translate(_LETTERS)
    text = unicodedata.normalize("NFD", text)  # what a letter became may bring marks that have to be put in order
    for source, target in _SEQUENCES:
        text = text.replace(source, target)
    return " ".join(text.split())


def segment(text: str) -> list[str]:
    """Phones of an IPA text: a letter with its diacritics and length marks, or several letters under ties.

    The text is brought to the normal form first. Spaces are dropped; an unknown character is a separate segment;
    ``"".join(segment(x)) == normalize(x).replace(" ", "")``.
    """
    return _SEGMENT.findall(normalize(text))


def is_marks(text: str) -> bool:
    """Whether a text is diacritics, length marks and ties alone, which are no phone without a letter."""
    return _ONLY_MARKS.fullmatch(text) is not None


def are_phones(pieces: Sequence[str]) -> bool:
    """Whether pieces of a vocabulary are written in IPA, so that its texts are to be brought to the normal form.

    The normal form keeps them apart and drops none, as it would tones, apostrophes and spaces; most are letters of the
    IPA; and there are some that it alone has, or else so few pieces, none composed and most of one letter, that they
    are neither an alphabet nor words.
    """
    forms = {normalize(piece).replace(" ", "") for piece in pieces}
    if "" in forms or len(forms) < len(pieces) or 2 * sum(map(_is_ipa, pieces)) < len(pieces):
        return False
    if any(map(_IPA_ALONE.search, pieces)):
        return True
    several = sum(len(segment(piece)) > 1 for piece in pieces)
    return forms == set(pieces) and len(pieces) <= _MOST_PLAIN_PHONES and 2 * several <= len(pieces)


def _is_ipa(piece: str) -> bool:
    return all(
        c == TIE or "a" <= c <= "z" or c in "æçðøħœǀǁǂǃ" or _IPA_ALONE.match(c) or _ONLY_MARKS.match(c)
        for c in unicodedata.normalize("NFD", piece)
    )


def remove_diacritics(text: str) -> str:
    """Drop exactly the characters that ZIPA's ``--remove-diacritics`` drops (`DIACRITICS`), and nothing else."""
    return text.translate(_WITHOUT_DIACRITICS)
