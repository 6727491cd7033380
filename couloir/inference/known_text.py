"""What was said in a recording, for an alignment: a text, or a file of a kind that people keep such texts in."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from couloir.data.corpora.labels import arpabet_as_ipa, phones_of, rows_of, subtitles_of
from couloir.data.corpora.textgrid import (
    PHONE_TIERS,
    SILENCES,
    UNKNOWN,
    UTTERANCE_TIERS,
    WORD_TIERS,
    Interval,
    read_textgrid,
)
from couloir.errors import UserError, must_be
from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import normalize, segment
from couloir.text.languages import in_small_letters
from couloir.text.spelling import as_words
from couloir.text.tokenizer import BOUNDARY
from couloir.texts import read_text, split_lines

_TEXT_SUFFIXES = (".txt", ".ipa", ".lab", ".phn", ".wrd", ".textgrid", ".srt", ".vtt")
_OTHER_KINDS = (".jsonl", ".json", ".tsv", ".csv", ".ctm", ".stm", ".rttm", ".mlf", ".eaf", ".cha", ".html", ".xml")
_OTHER_BEGINNINGS = ("<?xml", "<!doctype", "<html", "{\\rtf", '{"', "[{", "#!mlf!#")
_TAG = re.compile(r"<[^<>\s]+>")
_ARE_PHONES = {".phn": True, ".wrd": False}
_PATH = re.compile(r"\S+[/\\]\S+")  # /tat/ is a transcript, too, and so is "24/7 or so"
# Letters of the chart beyond a to z and the block of IPA extensions; modifiers and marks are no letters here.
_IPA = frozenset("abcdefghijklmnopqrstuvwxyzæçðøħŋœβθχλǀǁǂǃⱱⱳƍƞƥƭƙƈɁʼ'ˈˌ")
_IPA_BLOCKS = ((0x250, 0x2FF), (0x1D00, 0x1DBF), (0x2070, 0x209C), (0xA700, 0xA71F), (0x1DF00, 0x1DFFF))


@dataclass(frozen=True)
class Word:
    """A word as it is written, and its phones as the model spells them."""

    label: str
    phones: list[str]


@dataclass(frozen=True)
class _Content:
    """A transcript's labels, and whether they are phones (None: what they are was not said)."""

    labels: list[str]
    phones: bool | None = None


def read_words(text_or_path: str, language: str | None, vocabulary: Vocabulary) -> list[Word]:
    """The words of a transcript.

    Args:
        text_or_path: a text; or a file: plain text, TextGrid, TIMIT's .phn and .wrd, HTK's .lab, subtitles.
        language: the one that words are pronounced in by espeak-ng; None where the text is IPA.
        vocabulary: of the model: what it can spell is taken, IPA or not.

    Raises:
        UserError: there is no text, or it is neither IPA nor in a language that was named.
    """
    content = read_transcript(text_or_path)
    text = _spoken(content.labels, text_or_path)
    if language:
        if content.phones:
            raise must_be("--language", "left out", f"{language}, and {text_or_path} holds phones")
        return words_of_text(text, language)
    if content.phones is not True and not vocabulary.unit.is_ipa and (words := words_of_spelling(text, vocabulary)):
        return words
    arpabet = None if content.phones else arpabet_as_ipa([w for w in text.split() if w.lower() not in SILENCES])
    words = words_of_ipa(" ".join(arpabet) if arpabet else text, one_word=bool(content.phones or arpabet))
    phones = [phone for word in words for phone in word.phones if not vocabulary.spell(phone)]
    foreign = dict.fromkeys(c for phone in phones for c in unicodedata.normalize("NFC", phone) if not _is_ipa(c))
    foreign |= dict.fromkeys(word for word in text.split() if word.isdecimal())
    if foreign or content.phones is False:
        found = f"with {' '.join([*foreign][:8])}" if foreign else f"{text_or_path}, a list of words"
        raise must_be("the transcript", "IPA", found, "name the language of its words, such as --language ru")
    digits = sorted({character for character in text if character.isdecimal()})
    if digits and not arpabet:
        logging.warning("the digits %s are taken as tones, and left out of the alignment", " ".join(digits))
    return words


def _spoken(labels: Sequence[str], given: str) -> str:
    """The text of labels without those of silences. Raises `UserError` where words are left open, or there are none."""
    parts = [part for label in labels for part in label.split()]
    for part in parts:
        if (_TAG.fullmatch(part) and part.lower() not in SILENCES) or part.lower() == "[unk]":
            known = f"one with `{part}`" if part.lower() in UNKNOWN else f"one with the mark `{part}`"
            raise must_be("the transcript", "all that is spoken, and nothing else", known)
    if all(part.lower() in SILENCES for part in parts):
        raise UserError(f"the transcript {given} holds silences alone")
    return " ".join(part for part in parts if not _TAG.fullmatch(part))


def words_of_ipa(text: str, one_word: bool = False) -> list[Word]:
    """Words of a phone transcript. Where every space stands between two phones, or by ``one_word``, the whole is one.

    Raises `UserError` when there is no phone.
    """
    parts = normalize(text).split()
    if not parts:
        raise UserError("the transcript holds no phone")
    phones = [phone for part in parts for phone in segment(part)]
    if one_word or len(phones) == len(parts) > 1:
        return [Word("".join(parts), phones)]
    return [Word(part, segment(part)) for part in parts]


def words_of_spelling(text: str, vocabulary: Vocabulary) -> list[Word]:
    """Words as the pieces of a vocabulary of words or characters spell them; none where one has no such pieces."""
    words = []
    for label in as_words(text, lower_case=False).split():
        forms = (form for written in (label, label.lower(), label.upper()) for form in (BOUNDARY + written, written))
        tokens = next(filter(None, map(vocabulary.spell, forms)), [])
        pieces = [vocabulary.surface(token).strip() for token in tokens]
        if not any(pieces):
            return []
        words.append(Word(label, [piece for piece in pieces if piece]))
    return words


def words_of_text(text: str, language: str) -> list[Word]:
    """Words of an orthographic transcript, pronounced by espeak-ng. Raises `UserError` when it cannot."""
    from couloir.text.g2p import phonemize

    labels = [label for label in text.split() if not all(map(_is_punctuation, label))]
    spoken = phonemize({language: in_small_letters(labels, language)})[language]
    words = [Word(label, segment(ipa)) for label, ipa in zip(labels, spoken)]
    if not any(word.phones for word in words):
        raise UserError(f"espeak-ng pronounces none of the transcript's words as {language}")
    return [word for word in words if word.phones]


def _is_punctuation(character: str) -> bool:
    """Marks that espeak-ng would name where they stand alone, as it has to name %, &, @ and #."""
    return unicodedata.category(character)[0] == "P" and character not in "%&@#§"


def read_transcript(text_or_path: str) -> _Content:
    """A transcript: the content of the file of that name, or the text itself.

    Raises `UserError` for an empty one, and for what looks like a file's name where there is none.
    """
    path = Path(text_or_path)
    found = _exists(text_or_path)  # unlike Path.exists, it takes a text that is too long for a name
    content = _of_file(path) if found else _Content([text_or_path])
    if not any(label.strip() for label in content.labels):
        raise UserError(f"transcript {text_or_path or 'text'} is empty")
    if not found and (path.suffix.lower() in _TEXT_SUFFIXES or _PATH.fullmatch(text_or_path.strip())):
        raise UserError(f"transcript {text_or_path} does not exist; a text of that look is to be put into a file")
    return content


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:
        return False


def _of_file(path: Path) -> _Content:
    if path.is_dir():
        raise must_be(f"transcript {path}", "a text file", "a folder")
    text = read_text(path)
    suffix, lines = path.suffix.lower(), [line for line in split_lines(text) if line.strip()]
    if suffix == ".textgrid" or '"ooTextFile' in "".join(lines[:1]) or '"TextGrid"' in "".join(lines[:2]):
        return _of_textgrid(path)
    if suffix in _OTHER_KINDS or (lines and lines[0].lstrip().lower().startswith(_OTHER_BEGINNINGS)):
        raise must_be(f"transcript {path}", "a plain text, a TextGrid, or a list of labels", "another kind of file")
    if any("-->" in line for line in lines):
        return _Content([label for _, _, label in subtitles_of(text)])
    if rows := rows_of(lines):
        return _of_intervals(path, [Interval(0, 0, label) for _, _, label in rows], _ARE_PHONES.get(suffix))
    return _Content([text], _ARE_PHONES.get(suffix))


def _of_textgrid(path: Path) -> _Content:
    """The tier of phones, or of words, or the only one. Raises `UserError` where it is not clear which is meant."""
    tiers = read_textgrid(path)
    for names, phones in ((PHONE_TIERS, True), (WORD_TIERS, None), (UTTERANCE_TIERS, None)):
        fitting = [tier for tier in tiers if tier.name.lower().rpartition(" - ")[2].strip() in names]
        if len(fitting) > 1:
            raise must_be(f"transcript {path}", "of one speaker", " and ".join(tier.name for tier in fitting))
        if fitting:
            return _of_intervals(path, fitting[0].intervals, phones)
    if len(tiers) != 1:
        found = ", ".join(tier.name for tier in tiers) or "none"
        raise must_be(f"a tier of {path}", f"named {PHONE_TIERS[0]} or {WORD_TIERS[0]}", found)
    return _of_intervals(path, tiers[0].intervals, None)


def _of_intervals(path: Path, intervals: Sequence[Interval], phones: bool | None) -> _Content:
    if phones:
        return _Content([phone.label for phone in phones_of(intervals, path)], phones)
    return _Content([label for _, _, label in intervals if label.lower() not in SILENCES], phones)


def _is_ipa(character: str) -> bool:
    parts = unicodedata.normalize("NFD", character)
    return all(
        part in _IPA
        or unicodedata.category(part)[0] == "M"
        or any(first <= ord(part) <= last for first, last in _IPA_BLOCKS)
        for part in parts
    )
