"""Labels with times that are no TextGrid: TIMIT's .phn and .wrd, HTK's .lab, Audacity's tracks, subtitles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from couloir.audio import audio_seconds
from couloir.data.corpora.textgrid import SILENCES, UNKNOWN, Annotation, Interval, Tier
from couloir.data.corpora.times import seconds
from couloir.errors import must_be
from couloir.texts import read_lines, read_text, split_lines

PHN, SUBTITLES = ".phn", (".srt", ".vtt")

TIMIT_RATE = 16000
"""Samples per second of TIMIT's times, at whatever rate a copy of its recordings is."""
# TIMIT's symbols (Zue and Seneff 1988) that are no IPA letters of the same value.
_TIMIT = {
    "iy": "i", "ih": "ɪ", "eh": "ɛ", "ey": "eɪ", "ae": "æ", "aa": "ɑ", "aw": "aʊ", "ay": "aɪ", "ah": "ʌ", "ao": "ɔ",
    "oy": "ɔɪ", "ow": "oʊ", "uh": "ʊ", "uw": "u", "ux": "ʉ", "er": "ɝ", "ax": "ə", "ix": "ɨ", "axr": "ɚ", "ax-h": "ə̥",
    "dx": "ɾ", "q": "ʔ", "jh": "d͡ʒ", "ch": "t͡ʃ", "sh": "ʃ", "zh": "ʒ", "th": "θ", "dh": "ð", "ng": "ŋ", "em": "m̩",
    "en": "n̩", "eng": "ŋ̍", "nx": "ɾ̃", "r": "ɹ", "y": "j", "hh": "h", "hv": "ɦ", "el": "l̩",
    **{stop: stop for stop in "bdgptk"}, **{same: same for same in "szfvmnlwh"},
}  # fmt: skip
_CLOSURES = {f"{stop}cl": stop for stop in "bdgptk"}
_STRESSED = re.compile("([A-Z]{2}|[a-z]{2})[012]")
_RELEASES = {"dcl": ("d", "jh"), "tcl": ("t", "ch")}
_ROW = re.compile(r"\s*(-?[\d.]+)\s+(-?[\d.]+)(?:\s+(.*\S))?\s*", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,6})?)", re.ASCII)
_ARROW = re.compile(rf"\s*({_CLOCK.pattern})\s*-->\s*({_CLOCK.pattern})(\s.*)?", re.ASCII)
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def rows_of(lines: Iterable[str]) -> list[tuple[str, str, str]]:
    """Begin, end and label of each line, blank ones aside; none where any line is something else."""
    found = [_ROW.fullmatch(line) for line in lines if line.strip()]
    rows = [(row[1], row[2], row[3] or "") for row in found if row]
    return rows if len(rows) == len(found) else []


def arpabet_as_ipa(labels: Sequence[str]) -> list[str] | None:
    """Phones as CMUdict and aligners that use it write them, in IPA; None where a label is none of these.

    They have letters of one case, and a digit for stress behind one vowel at least.
    """
    if not any(map(_STRESSED.fullmatch, labels)):
        return None
    weak = {"ah0": "ə", "er0": "ɚ"}
    phones = [
        weak.get(label.lower()) or _TIMIT.get((label[:-1] if _STRESSED.fullmatch(label) else label).lower(), "")
        for label in labels
    ]
    text = "".join(labels)
    return phones if all(phones) and text in (text.lower(), text.upper()) else None


def phones_of(intervals: Sequence[Interval], path: Path) -> list[Interval]:
    """The phones of labels in IPA, without silences; symbols of TIMIT or CMUdict are translated where all are such.

    A closure and the release that follows are one phone. Raises `UserError` where speech has no phones.
    """
    spoken = [interval for interval in intervals if interval.label.lower() not in SILENCES]
    unknown = next((label for _, _, label in spoken if label.lower() in UNKNOWN), None)
    if unknown:
        raise must_be(f"transcript {path}", "the phones of all that is spoken", f"one with `{unknown}`")
    if arpabet := arpabet_as_ipa([label for _, _, label in spoken]):
        return [interval._replace(label=phone) for interval, phone in zip(spoken, arpabet)]
    if not all(label in _TIMIT or label in _CLOSURES for _, _, label in spoken):
        return spoken
    phones: list[Interval] = []
    closed: Interval | None = None
    for interval in spoken:
        release = closed and interval.label in _RELEASES.get(closed.label, (_CLOSURES[closed.label],))
        if closed and not release:
            phones.append(closed._replace(label=_CLOSURES[closed.label]))
        start = closed.start if closed and release else interval.start
        closed = interval if interval.label in _CLOSURES else None
        if closed is None:
            phones.append(Interval(start, interval.end, _TIMIT[interval.label]))
    return phones + ([closed._replace(label=_CLOSURES[closed.label])] if closed else [])


def subtitles_of(text: str) -> list[Interval]:
    """What is spoken in a text of SubRip or WebVTT, and when; [] where it is neither."""
    spoken = []
    for block in re.split(r"\n[ \t]*\n", "\n".join(split_lines(text))):
        lines = block.split("\n")
        for number, line in enumerate(lines):
            if times := _ARROW.fullmatch(line):
                said = (_MARKUP.sub("", part).strip() for part in lines[number + 1 :])
                label = " ".join(part for part in said if part)
                spoken += [Interval(_clock(times[1]), _clock(times[5]), label)] if label else []
                break
    return spoken


def _clock(text: str) -> float:
    found = _CLOCK.fullmatch(text)
    assert found
    hours, minutes, seconds = found.groups()
    return round(3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", ".")), 6)


def annotation_of(audio: Path, files: Mapping[str, Path], words: Path | None) -> Annotation | None:
    """What the labels beside a recording say; None where there are none.

    Args:
        files: those of the recording's name, by lower-case suffix; words: its transcript, which may be a label track of
            Audacity. It goes before subtitles.

    Raises:
        UserError: they cannot be read, or their times are not the recording's.
    """
    if PHN in files:
        phones = phones_of(_timit(audio, files[PHN]), files[PHN])
        return Annotation("", Tier(PHN, tuple(phones)), None, None)
    if words is not None:
        track = _track(words)
        return Annotation("", None, None, Tier("track", tuple(track))) if track else None
    subtitles = next((files[suffix] for suffix in SUBTITLES if suffix in files), None)
    said = subtitles_of(read_text(subtitles)) if subtitles else []
    return Annotation("", None, None, Tier("subtitles", tuple(said))) if said else None


def _timit(audio: Path, path: Path) -> list[Interval]:
    """Labels with times in samples at 16 kHz, or in s where they have a point."""
    rows = rows_of(read_lines(path))
    if not rows:
        raise must_be(str(path), "lines of begin, end and label", "another text")
    unit = 1 if any("." in time for row in rows for time in row[:2]) else TIMIT_RATE
    found = _in_seconds(rows, path, unit)
    length, end = audio_seconds(audio), max(interval.end for interval in found)
    if unit != 1 and not 0.75 * length <= end <= length + 0.5:
        raise must_be(f"the last label of {path}", f"at the recording's end, {length:.2f} s", f"at {end:.2f} s",
                      "write its times in s, or in samples at 16 kHz")  # fmt: skip
    return found


def _track(path: Path) -> list[Interval]:
    """A label track of Audacity: begin and end in s, and a text of several words at least once; else []."""
    lines = read_lines(path)
    rows = rows_of(lines) if all("\t" in line for line in lines if line.strip()) else []
    if not all("." in row[0] and "." in row[1] for row in rows) or not any(" " in label for _, _, label in rows):
        return []
    return _in_seconds(rows, path)


def _in_seconds(rows: Iterable[tuple[str, str, str]], path: Path, unit: int = 1) -> list[Interval]:
    found = [
        Interval(seconds(start, f"a time in {path}") / unit, seconds(end, f"a time in {path}") / unit, label)
        for start, end, label in rows
    ]
    wrong = next((interval for interval in found if not 0 <= interval.start <= interval.end), None)
    if wrong:
        raise must_be(f"label `{wrong.label[:40]}` of {path}", "after its begin", f"{wrong.start:g} to {wrong.end:g} s")
    return found
