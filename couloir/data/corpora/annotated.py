"""The utterances of a recording that has a TextGrid: of one speaker or of several, with their phones and times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from couloir.data.corpora.base import Dropped, Phone, Utterance
from couloir.data.corpora.textgrid import (
    UNKNOWN,
    Annotation,
    Interval,
    Tier,
    annotated_by,
    read_textgrid,
    refuse_other_letters,
)

UNKNOWN_WORD = "a word is not known"
_MARGIN_S = 0.1  # of silence that a turn keeps on each side, where there is as much


def utterances_of(path: Path, whole: Utterance) -> Iterator[Utterance | Dropped]:
    """The utterances of a recording with a TextGrid, as `utterances_by` says.

    Raises `UserError` where the TextGrid cannot be read, or no tier is known by its name.
    """
    return utterances_by(annotated_by(path, read_textgrid(path)), path, whole)


def utterances_by(speakers: Sequence[Annotation], path: Path, whole: Utterance) -> Iterator[Utterance | Dropped]:
    """The utterances of an annotated recording.

    One per interval of an utterance tier; else the whole recording, or each turn where several people speak in it.
    Those with a word that the aligner did not know are left out: their phones are only some of what is spoken.

    Args:
        speakers: their tiers; path: where these are from; whole: id, audio, language and speaker of the recording.

    Raises:
        UserError: phones are not in IPA.
    """
    for one in speakers:
        if one.phones is not None:
            refuse_other_letters(path, one.phones)
    if len(speakers) == 1:
        (one,) = speakers
        whole = replace(whole, speaker=whole.speaker or one.speaker)
        yield from _intervals(one, whole) if one.utterances else _stretch(one, whole)
        return
    for one, turns in zip(speakers, _turns(speakers)):
        named = replace(whole, id=f"{whole.id}-{one.speaker}", speaker=_speaker(whole.speaker, one.speaker))
        for start, end in turns:
            yield from _stretch(one, _cut(named, start, end), start, end)
        yield from _intervals(one, named) if one.utterances else ()


def _speaker(folder: str, tier: str) -> str:
    """Tiers of one name in two folders may be two people."""
    return "-".join(name for name in (folder, tier) if name)


def _intervals(one: Annotation, whole: Utterance) -> Iterator[Utterance | Dropped]:
    """An utterance for each interval of the utterance tier."""
    assert one.utterances is not None
    for start, end, label in one.utterances.spoken():
        cut = _cut(whole, start, end)
        if label.lower() in UNKNOWN:
            yield Dropped(cut.id, UNKNOWN_WORD, label)
        else:
            yield from _stretch(one, replace(cut, text=label), start, end)


def _cut(whole: Utterance, start: float, end: float) -> Utterance:
    return replace(whole, id=f"{whole.id}-{round(1000 * start):07d}", start=start, duration=round(end - start, 4))


def _stretch(
    one: Annotation, cut: Utterance, start: float = 0.0, end: float = float("inf")
) -> Iterator[Utterance | Dropped]:
    """The utterance from ``start`` to ``end``, with the words and phones in it."""
    unknown = next((i for tier in (one.phones, one.words) if tier for i in _within(tier.unknown(), start, end)), None)
    if unknown and (one.phones is None or _within(one.phones.unknown(), start, end)):
        yield Dropped(cut.id, UNKNOWN_WORD, f"`{unknown.label}` at {unknown.start:g} s")
        return
    words = _within(one.words.spoken(), start, end) if one.words else []
    phones = None
    if one.phones is not None:
        inside = _within(one.phones.spoken(), start, end)
        phones = tuple(Phone(p.label, round(max(p.start - start, 0.0), 4), round(p.end - p.start, 4)) for p in inside)
    yield replace(cut, text=cut.text or " ".join(word.label for word in words), phones=phones)


def _within(intervals: Sequence[Interval], start: float, end: float) -> list[Interval]:
    """The intervals whose middle lies between two times."""
    return [interval for interval in intervals if start <= (interval.start + interval.end) / 2 < end]


def _turns(speakers: Sequence[Annotation]) -> list[list[tuple[float, float]]]:
    """Of each speaker without an utterance tier, the stretches in which nobody else begins to speak."""
    spoken = sorted(
        (interval.start, interval.end, number)
        for number, one in enumerate(speakers)
        if one.utterances is None
        for interval in _speech(one)
    )
    runs = []
    for number, parts in itertools.groupby(spoken, key=lambda item: item[2]):
        times = list(parts)
        runs.append((number, times[0][0], max(end for _, end, _ in times)))
    turns: list[list[tuple[float, float]]] = [[] for _ in speakers]
    befores, afters = [0.0, *(end for _, _, end in runs)], [*(start for _, start, _ in runs[1:]), float("inf")]
    for (number, start, end), before, after in zip(runs, befores, afters):
        first = max(start - _MARGIN_S, min(start, (before + start) / 2))
        turns[number].append((first, min(end + _MARGIN_S, max(end, (end + after) / 2))))
    return turns


def _speech(one: Annotation) -> list[Interval]:
    tier: Tier | None = one.phones or one.words
    return tier.spoken() if tier else []
