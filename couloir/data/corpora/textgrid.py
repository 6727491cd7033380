"""Praat's TextGrid files, long and short form, and which tiers are whose words, phones and utterances."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from couloir.errors import UserError, must_be
from couloir.texts import read_text

PHONE_TIERS = ("phones", "phone", "phonemes", "phoneme", "segments", "ipa", "mau")
WORD_TIERS = ("words", "word", "ort-mau", "ort", "orthography")
UTTERANCE_TIERS = ("utterances", "utterance", "sentences", "sentence", "phrases", "phrase", "text", "transcript")
SILENCES = ("", "sil", "sp", "pau", "<p:>", "<nib>", "<sil>", "<eps>", "#", "_", "h#", "epi")
"""Labels of intervals in which nobody speaks (MFA, WebMAUS, Festival, TIMIT)."""
UNKNOWN = ("spn", "<spn>", "unk", "<unk>", "[unk]", "<oov>", "<usb>")
"""Labels of speech whose words or phones an aligner did not know."""

# Field names, and the numbers of items in brackets, only repeat what the order of the values says; without them the
# long form is the short one. Brackets inside a label are text.
_VALUE = re.compile(r'"([^"]*(?:""[^"]*)*)"|(?<![\w.\[-])(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?![\w.\]])')
_NOT_IPA = re.compile(r"[A-Z0-9@{}]")
_MOST_ROWS = 10**7
_KINDS = {
    name: kind
    for kind, names in (("phones", PHONE_TIERS), ("words", WORD_TIERS), ("utterances", UTTERANCE_TIERS))
    for name in names
}
_ALSO_OTHERS = ("ipa", "mau", "ort", "segments", "text")  # WebMAUS's KAN-MAU is no speaker KAN


class Interval(NamedTuple):
    """A label and its times in s."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Tier:
    """An interval tier; empty intervals are kept."""

    name: str
    intervals: tuple[Interval, ...]

    def spoken(self) -> list[Interval]:
        """The intervals that are no silence; speech that is not known is none either."""
        return [interval for interval in self.intervals if interval.label.lower() not in SILENCES]

    def unknown(self) -> list[Interval]:
        """The intervals whose words or phones are not known."""
        return [interval for interval in self.intervals if interval.label.lower() in UNKNOWN]


@dataclass(frozen=True)
class Annotation:
    """The tiers of one speaker ("" where no name is given), each None where it is missing."""

    speaker: str
    phones: Tier | None
    words: Tier | None
    utterances: Tier | None


def read_textgrid(path: Path) -> list[Tier]:
    """The interval tiers of a file (UTF-8, or UTF-16 with a mark); point tiers are left out. Raises `UserError`."""
    try:
        values = iter([number or label.replace('""', '"') for label, number in _VALUE.findall(read_text(path))])
        kinds = next(values), next(values)
        if "TextGrid" not in kinds:
            raise ValueError("no TextGrid header")
        next(values), next(values)  # start and end of the whole
        return list(_tiers(values, _count(next(values))))
    except (ValueError, StopIteration, RuntimeError) as error:
        reason = str(error) or "it ends too early"
        raise UserError(f"{path} is not a TextGrid that can be read ({reason[:100]})") from None


def _tiers(values: Iterator[str], count: int) -> Iterator[Tier]:
    for _ in range(count):
        kind, name, _, _, size = next(values), next(values), next(values), next(values), _count(next(values))
        if kind == "IntervalTier":
            yield Tier(name, tuple(_interval(name, next(values), next(values), next(values)) for _ in range(size)))
        elif kind == "TextTier":
            for _ in range(2 * size):
                next(values)
        else:
            raise ValueError(f"a tier of the kind {kind!r}")


def _count(text: str) -> int:
    if len(text) > len(str(_MOST_ROWS)) or not 0 <= int(text) <= _MOST_ROWS:
        raise ValueError(f"a tier of {text[:20]} intervals")
    return int(text)


def _interval(tier: str, start: str, end: str, label: str) -> Interval:
    interval = Interval(float(start), float(end), label.strip())
    if not (math.isfinite(interval.start) and math.isfinite(interval.end) and interval.start <= interval.end):
        raise ValueError(f"an interval from {start[:20]} to {end[:20]} s in tier {tier!r}")
    return interval


def find_tier(tiers: Sequence[Tier], names: Sequence[str]) -> Tier | None:
    """The first tier with one of these names; ``speaker - words`` counts as ``words``."""
    for wanted in names:
        for tier in tiers:
            if tier.name.lower().rpartition(" - ")[2].strip() == wanted:
                return tier
    return None


def annotated_by(path: Path, tiers: Sequence[Tier]) -> list[Annotation]:
    """The tiers of each speaker, in the order of their first tiers; one tier alone is of utterances, whatever its name.

    Raises:
        UserError: no tier is known by its name, or two of one speaker have one name.
    """
    found: dict[str, dict[str, Tier]] = {}
    for tier in tiers:
        speaker, name = speaker_and_name(tier.name)
        if name in _KINDS:
            if name in found.setdefault(speaker, {}):
                raise must_be(f"a tier of {path}", "named once, or as `SPEAKER - words`", f"there twice: {tier.name!r}")
            found[speaker][name] = tier
    if not found and len(tiers) == 1:
        found = {"": {UTTERANCE_TIERS[0]: tiers[0]}}
    if not found:
        known = ", ".join((PHONE_TIERS[0], WORD_TIERS[0], UTTERANCE_TIERS[0]))
        raise must_be(f"a tier of {path}", f"named {known}", ", ".join(tier.name for tier in tiers) or "missing")
    return [
        Annotation(speaker, *(_first(named, names) for names in (PHONE_TIERS, WORD_TIERS, UTTERANCE_TIERS)))
        for speaker, named in found.items()
    ]


def _first(named: Mapping[str, Tier], names: Sequence[str]) -> Tier | None:
    return next((named[name] for name in names if name in named), None)


def speaker_and_name(tier: str) -> tuple[str, str]:
    """``ann - words``, ``words - ann``, ``ann_words``, ``words:ann`` -> ann and words; ("", its name) of any other."""
    name = tier.strip().lower()
    if name in _KINDS:
        return "", name
    for separator, front in itertools.product((" - ", "_", ":", "/", "-"), (False, True)):
        first, found, last = tier.partition(separator) if front else tier.rpartition(separator)
        speaker, kind = (last.strip(), first.strip()) if front else (first.strip(), last.strip())
        known = kind.lower() in _KINDS and (separator == " - " or kind.lower() not in _ALSO_OTHERS)
        if found and speaker and known and speaker.lower() not in _KINDS:
            return speaker, kind.lower()
    return "", name


def refuse_other_letters(path: Path, tier: Tier) -> None:
    """Raise `UserError` where the labels of a tier of phones are no IPA."""
    known = [label for _, _, label in tier.spoken() if label.lower() not in UNKNOWN]
    foreign = next((label for label in known if _NOT_IPA.search(label)), None)
    if foreign is not None:
        remedy = "export it as IPA, or rename the tier and the words are pronounced by espeak-ng"
        raise must_be(f"tier {tier.name} of {path}", "IPA", f"`{foreign}`", remedy)
