"""Transcripts as files: JSON lines, tab-separated lines, NIST CTM, Praat TextGrids, subtitles."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from couloir.errors import must_be, unknown_name
from couloir.inference.flags import FORMATS
from couloir.inference.subtitles import srt
from couloir.inference.transcript import Token, Transcript
from couloir.texts import split_lines

Tiers = dict[str, list[Token]]
_HALVES = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile(r"\s+")
_CELL = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"} | ({"\\": r"\\"} if os.sep == "/" else {}))


def format_of(path: Path, name: str | None = None) -> str:
    """The format by its name or by a path's suffix; a folder gets TextGrids. Raises `UserError`."""
    word = name or (path.suffix[1:] if path.suffix else "TextGrid")
    found = next((kind for kind in FORMATS if kind.lower() == word.lower()), None)
    if found is None and name:
        raise unknown_name("--format", name, list(FORMATS))
    if found is None:
        raise must_be("--output", "a .jsonl, .tsv, .ctm, .TextGrid or .srt file, or a folder for TextGrids", path)
    return found


def to_json(transcript: Transcript) -> dict[str, Any]:
    """Plain values of all but the log-probabilities; words only where a graph found them."""
    values = asdict(replace(transcript, log_probs=None))
    del values["log_probs"]
    words = values.pop("said")
    return values if words is None else values | {"words": words}


def from_json(values: dict[str, Any]) -> Transcript:
    """The transcript that `to_json` was given. Raises KeyError, TypeError or OverflowError for other values."""
    plain = {**values, "tokens": _tokens(values["tokens"])}
    words = plain.pop("words", None)
    found = Transcript(**plain, said=None if words is None else _tokens(words))
    timed = [*found.tokens, *(found.said or ())]
    numbers = [found.duration, found.confidence, found.frame_shift]
    numbers += [number for token in timed for number in (token.start, token.end, token.confidence)]
    if not all(map(math.isfinite, numbers)) or found.log_probs is not None:
        raise TypeError("a number that is none")
    if not all(isinstance(text, str) for text in (found.name, found.text, *(t.symbol for t in timed))):
        raise TypeError("a text that is none")
    return found


def _tokens(values: Sequence[dict[str, Any]]) -> list[Token]:
    return [Token(**token) for token in values]


def table(kind: str, transcripts: Sequence[Transcript]) -> str:
    """All transcripts as the text of one file. Whatever their names are, it is valid UTF-8, and one line stays one.

    Args:
        kind: one of `FORMATS` but not of `ONE_EACH`. transcripts: what to write.
    """
    if kind == "jsonl":
        return "".join(json_line(to_json(transcript)) for transcript in transcripts)
    if kind == "tsv":
        return "file\ttext\tconfidence\tduration_s\n" + "".join(map(_tsv, transcripts))
    ids = ctm_ids([transcript.name for transcript in transcripts])
    return "".join(_ctm(transcript, ids[transcript.name]) for transcript in transcripts)


def recordings_in(kind: str, text: str) -> set[str]:
    """What the rows of a `table` are of, as it has them."""
    if kind == "jsonl":
        return {json.loads(line)["name"] for line in split_lines(text)}
    return {line.partition("\t" if kind == "tsv" else " ")[0] for line in split_lines(text)}


def json_line(values: dict[str, Any]) -> str:
    """Values as a line of JSON in valid UTF-8: the bytes of a name that is none are written as ``\\udcXX``."""
    text = json.dumps(values, ensure_ascii=False)
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def _tsv(transcript: Transcript) -> str:
    name, text = cell(transcript.name), cell(transcript.text)
    return f"{name}\t{text}\t{transcript.confidence:.4f}\t{transcript.duration:.3f}\n"


def cell(text: str) -> str:
    """A text as the cell of a table: what would end it is written as ``\\t``, ``\\n``, ``\\r``, a backslash as two.

    Bytes that are no UTF-8 become ``\\xHH``. No two texts have one form.
    """
    return _HALVES.sub(lambda half: f"\\x{ord(half[0]) & 255:02x}", text.translate(_CELL))


def ctm_ids(names: Sequence[str]) -> dict[str, str]:
    """The id of each recording in a CTM file, where a blank ends it: no two alike, none that begins a comment.

    Blanks become ``_``. A name without any keeps its id; what is alike then gets a number.
    """
    ids = {name: _BLANKS.sub("_", cell(name)) or "audio" for name in names}
    ids = {name: f"_{id}" if id.startswith(";;") else id for name, id in ids.items()}
    taken: set[str] = set()
    for name in sorted(ids, key=lambda name: (ids[name] != name, name)):
        forms = itertools.chain([ids[name]], (f"{ids[name]}-{n}" for n in itertools.count(2)))
        ids[name] = next(form for form in forms if form not in taken)
        taken.add(ids[name])
    return ids


def _ctm(transcript: Transcript, name: str) -> str:
    return "".join(
        f"{name} 1 {part.start:.3f} {part.end - part.start:.3f} {_BLANKS.sub('_', cell(part.symbol))} "
        f"{part.confidence:.4f}\n"
        for part in (transcript.phones() if transcript.said is None else transcript.said)
    )


def one_file(kind: str, transcript: Transcript) -> str:
    """A transcript as the text of its own file, in one of `ONE_EACH`."""
    return srt(transcript) if kind == "srt" else textgrid(tiers_of(transcript), transcript.duration)


def tiers_of(transcript: Transcript) -> Tiers:
    """The tiers of a transcript's TextGrid: words where the model marks them, and phones."""
    words = transcript.words()
    return ({"words": words} if words else {}) | {"phones": transcript.phones()}


def textgrid(tiers: Tiers, duration: float) -> str:
    """Interval tiers in Praat's long text format; the time between intervals is filled with empty ones.

    Args:
        tiers: name -> intervals in order of time. duration: end of every tier in s; Praat refuses one of 0.
    """
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    duration = max(round(duration, 3), 0.001)
    lines += ["xmin = 0", f"xmax = {duration}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, tokens) in enumerate(tiers.items(), 1):
        intervals = list(_filled(tokens, duration))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration}", f"        intervals: size = {len(intervals)}"]
        for i, (start, end, label) in enumerate(intervals, 1):
            label = label.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines.append(f'            text = "{label}"')
    return "\n".join(lines) + "\n"


def _filled(tokens: Sequence[Token], duration: float) -> Iterable[tuple[float, float, str]]:
    """Intervals (start, end, label) that cover 0 to ``duration``; Praat refuses gaps, overlaps and empty ones."""
    at = 0.0
    for token in tokens:
        start, end = max(token.start, at), min(token.end, duration)
        if end <= start:
            continue
        if start > at:
            yield at, start, ""
        yield start, end, token.symbol
        at = end
    if at < duration or not tokens:
        yield at, duration, ""
