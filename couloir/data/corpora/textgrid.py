"""Praat's TextGrid files, long and short form, and what of them is words, phones and utterances."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from couloir.data.corpora.base import Phone, Utterance
from couloir.errors import UserError, must_be

PHONE_TIERS = ("phones", "phone", "phonemes", "phoneme", "segments", "ipa", "mau")
WORD_TIERS = ("words", "word", "ort-mau", "ort", "orthography")
UTTERANCE_TIERS = ("utterances", "utterance", "sentences", "sentence", "phrases", "phrase", "text", "transcript")
SILENCES = ("", "sil", "sp", "spn", "pau", "<p:>", "<usb>", "<nib>", "#", "_")

# Names of fields and indices in brackets only repeat what the order of the values says; without them the
# long form is the short one.
_INDEX = re.compile(r"\[\d*\]")
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w.-])(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?![\w.])')
_NOT_IPA = re.compile(r"[A-Z0-9@{}]")


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
        """The intervals that are no silence."""
        return [interval for interval in self.intervals if interval.label.lower() not in SILENCES]


def read_textgrid(path: Path) -> list[Tier]:
    """The interval tiers of a file (UTF-8 or UTF-16); point tiers are left out. Raises `UserError`."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        values = iter([number or quoted.replace('""', '"') for quoted, number in _VALUE.findall(_INDEX.sub("", text))])
        kinds = next(values), next(values)
        if "TextGrid" not in kinds:
            raise ValueError("no TextGrid header")
        next(values), next(values)  # start and end of the whole
        return list(_tiers(values, int(next(values))))
    except (ValueError, StopIteration, RuntimeError) as error:
        raise UserError(f"{path} is not a TextGrid that can be read ({error or 'it ends too early'})") from None


def _tiers(values: Iterator[str], count: int) -> Iterator[Tier]:
    for _ in range(count):
        kind, name, _, _, size = next(values), next(values), next(values), next(values), int(next(values))
        if kind == "IntervalTier":
            rows = [(float(next(values)), float(next(values)), next(values).strip()) for _ in range(size)]
            yield Tier(name, tuple(Interval(*row) for row in rows))
        else:
            for _ in range(2 * size):
                next(values)


def find_tier(tiers: Sequence[Tier], names: Sequence[str]) -> Tier | None:
    """The first tier with one of these names; ``speaker - words`` counts as ``words``."""
    for wanted in names:
        for tier in tiers:
            if tier.name.lower().rpartition(" - ")[2].strip() == wanted:
                return tier
    return None


def utterances_of(path: Path, whole: Utterance) -> list[Utterance]:
    """The utterances of an annotated recording: one per interval of an utterance tier, else the whole recording.

    Args:
        path: the TextGrid; whole: id, audio, language and speaker of its recording.

    Raises `UserError` when no tier is known by its name, or phones are not in IPA.
    """
    tiers = read_textgrid(path)
    phones, words = find_tier(tiers, PHONE_TIERS), find_tier(tiers, WORD_TIERS)
    sentences = find_tier(tiers, UTTERANCE_TIERS) or (tiers[0] if len(tiers) == 1 and not (phones or words) else None)
    if not (phones or words or sentences):
        known = ", ".join((PHONE_TIERS[0], WORD_TIERS[0], UTTERANCE_TIERS[0]))
        raise must_be(f"a tier of {path}", f"named {known}", ", ".join(tier.name for tier in tiers) or "missing")
    timed = _phones(path, phones)
    if sentences is None:
        text = " ".join(interval.label for interval in words.spoken()) if words else ""
        return [replace(whole, text=text, phones=timed)]
    return [
        replace(
            whole,
            id=f"{whole.id}-{round(1000 * start):07d}",
            text=label,
            start=start,
            duration=round(end - start, 4),
            phones=timed and _within(timed, start, end),
        )
        for start, end, label in sentences.spoken()
    ]


def _phones(path: Path, tier: Tier | None) -> tuple[Phone, ...] | None:
    if tier is None:
        return None
    spoken = tier.spoken()
    foreign = next((label for _, _, label in spoken if _NOT_IPA.search(label)), None)
    if foreign is not None:
        remedy = "export it as IPA, or rename the tier and the words are pronounced by espeak-ng"
        raise must_be(f"tier {tier.name} of {path}", "IPA", f"`{foreign}`", remedy)
    return tuple(Phone(label, start, round(end - start, 4)) for start, end, label in spoken)


def _within(phones: Sequence[Phone], start: float, end: float) -> tuple[Phone, ...]:
    """The phones whose middle lies in an interval, timed from its start."""
    inside = [phone for phone in phones if start <= phone.start + phone.duration / 2 < end]
    return tuple(phone._replace(start=round(max(phone.start - start, 0.0), 4)) for phone in inside)
