"""Transcripts as files: JSON lines, tab-separated lines, Praat TextGrids, NIST CTM."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from couloir.errors import UserError, must_be, unknown_name
from couloir.files import ANY_NAME, atomic_write, writing_to
from couloir.inference.transcript import Token, Transcript

FORMATS = ("jsonl", "tsv", "ctm", "TextGrid")
Tiers = dict[str, list[Token]]


def format_of(path: Path, name: str | None = None) -> str:
    """The format by its name or by a path's suffix; a folder gets TextGrids. Raises `UserError`."""
    word = name or (path.suffix[1:] if path.suffix else "TextGrid")
    found = next((kind for kind in FORMATS if kind.lower() == word.lower()), None)
    if found is None and name:
        raise unknown_name("--format", name, list(FORMATS))
    if found is None:
        raise must_be("--output", "a .jsonl, .tsv, .ctm or .TextGrid file, or a folder for TextGrids", path)
    return found


def to_json(transcript: Transcript) -> dict[str, Any]:
    """Plain values of all but the log-probabilities."""
    values = asdict(replace(transcript, log_probs=None))
    del values["log_probs"]
    return values


def from_json(values: dict[str, Any]) -> Transcript:
    """The transcript that `to_json` was given."""
    return Transcript(**{**values, "tokens": [Token(**token) for token in values["tokens"]]})


def write_transcripts(
    path: Path,
    transcripts: Sequence[Transcript],
    kind: str,
    root: Path | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write all transcripts to one file, or TextGrids into a folder.

    Args:
        path: the file, or the folder. transcripts: what to write. kind: one of `FORMATS`.
        root: folder of the recordings, whose structure the TextGrids' folder repeats.
        names: of all recordings of the run, so that a TextGrid's name does not depend on which of them are done; None
            for those of the transcripts.

    Raises:
        UserError: it cannot be written.
    """
    if kind != "TextGrid":
        with writing_to(path), atomic_write(path, "w", ANY_NAME) as out:
            out.write(_HEADERS.get(kind, ""))
            out.writelines(_LINES[kind](transcript) for transcript in transcripts)
        return
    targets = textgrid_targets(path, [transcript.name for transcript in transcripts] if names is None else names, root)
    for transcript in transcripts:
        write_textgrid(targets[transcript.name], tiers_of(transcript), transcript.duration)


def textgrid_targets(path: Path, names: Sequence[str], root: Path | None = None) -> dict[str, Path]:
    """The TextGrid of each recording: in the folder ``path`` (see `textgrid_places`), or ``path`` itself for one."""
    places = textgrid_places(names, root)
    single = path.suffix == ".TextGrid" and len(places) == 1
    return {name: path if single else path / place for name, place in places.items()}


def refuse_taken(path: Path) -> None:
    """Refuse the place of a TextGrid that is there already: it may be somebody's own labels. Raises `UserError`."""
    if path.exists():
        raise UserError(f"{path} exists, and may be made by hand; say where else to write with --output")


def textgrid_places(names: Sequence[str], root: Path | None = None) -> dict[str, Path]:
    """Where each recording's TextGrid lies inside their folder: no two at one place.

    Recordings below ``root`` keep their folders. Of the others, those of one name keep as many of their folders as it
    takes to tell them apart. What is still alike (a.wav beside a.flac) is told apart by its whole name, or a number.
    """
    inside = {name: Path(name).relative_to(root) for name in names if root and Path(name).is_relative_to(root)}
    folders: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in names:
        if name not in inside:
            path = Path(os.path.abspath(name))  # no ".." that would lead out of the TextGrids' folder
            folders.setdefault(path.stem, {})[name] = path.parts[1:-1]
    for alike in folders.values():
        wanted = len(set(alike.values()))
        depth = next(n for n in itertools.count() if len({_last(parts, n) for parts in alike.values()}) == wanted)
        inside |= {name: Path(*_last(parts, depth), Path(name).name) for name, parts in alike.items()}
    places: dict[str, Path] = {}
    taken: set[str] = set()
    for name in names:
        path = inside[name]
        candidates = itertools.chain((path.stem, path.name), (f"{path.name}-{n}" for n in itertools.count(2)))
        stem = next(stem for stem in candidates if str(path.with_name(stem)).lower() not in taken)
        taken.add(str(path.with_name(stem)).lower())  # some file systems do not tell letters' cases apart
        places[name] = path.with_name(stem + ".TextGrid")
    return places


def _last(parts: tuple[str, ...], count: int) -> tuple[str, ...]:
    return parts[max(len(parts) - count, 0) :]


def _jsonl(transcript: Transcript) -> str:
    return json.dumps(to_json(transcript), ensure_ascii=False) + "\n"


def _tsv(transcript: Transcript) -> str:
    name = transcript.name.replace("\t", " ").replace("\n", " ")
    return f"{name}\t{transcript.text}\t{transcript.confidence:.4f}\t{transcript.duration:.3f}\n"


def _ctm(transcript: Transcript) -> str:
    name = "_".join(transcript.name.split()) or "audio"
    return "".join(
        f"{name} 1 {phone.start:.3f} {phone.end - phone.start:.3f} {phone.symbol} {phone.confidence:.4f}\n"
        for phone in transcript.phones()
    )


_HEADERS = {"tsv": "file\ttext\tconfidence\tduration_s\n"}
_LINES = {"jsonl": _jsonl, "tsv": _tsv, "ctm": _ctm}


def tiers_of(transcript: Transcript) -> Tiers:
    """The tiers of a transcript's TextGrid: words where the model marks them, and phones."""
    words = transcript.words()
    return ({"words": words} if words else {}) | {"phones": transcript.phones()}


def write_textgrid(path: Path, tiers: Tiers, duration: float) -> None:
    """Write interval tiers in Praat's long text format; the time between intervals is filled with empty ones.

    Args:
        path: the file. tiers: name -> intervals in order of time. duration: end of every tier in s.

    Raises:
        UserError: it cannot be written.
    """
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    duration = round(duration, 3)
    lines += ["xmin = 0", f"xmax = {duration}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, tokens) in enumerate(tiers.items(), 1):
        intervals = list(_filled(tokens, duration))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration}", f"        intervals: size = {len(intervals)}"]
        for i, (start, end, label) in enumerate(intervals, 1):
            label = label.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines.append(f'            text = "{label}"')
    with writing_to(path), atomic_write(path, "w") as out:
        out.write("\n".join(lines) + "\n")


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
