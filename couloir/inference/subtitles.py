"""Transcripts as SubRip subtitles (.srt): cues that can be read, in numbered blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from couloir.inference.transcript import Token, Transcript

LONGEST_S, LONGEST_CHARACTERS = 6.0, 42
"""Of a cue: one line, for no longer than viewers are used to."""
PAUSE_S = 0.5
"""A silence of this length ends a cue."""


def srt(transcript: Transcript) -> str:
    """The words of a transcript, or the phones of a model that marks none, as subtitles."""
    words = transcript.words()
    between = " " if words else ""
    blocks = [
        f"{number}\n{_clock(cue[0].start)} --> {_clock(cue[-1].end)}\n{_line(cue, between)}\n\n"
        for number, cue in enumerate(cues(words or transcript.phones(), between), 1)
    ]
    return "".join(blocks)


def cues(parts: Sequence[Token], between: str) -> Iterator[list[Token]]:
    """Words or phones in groups that are shown together, with ``between`` between them."""
    cue: list[Token] = []
    for part in parts:
        if cue and (
            part.start - cue[-1].end >= PAUSE_S
            or part.end - cue[0].start > LONGEST_S
            or len(_line([*cue, part], between)) > LONGEST_CHARACTERS
        ):
            yield cue
            cue = []
        cue.append(part)
    if cue:
        yield cue


def _line(cue: Sequence[Token], between: str) -> str:
    """A cue's text; a blank line would end its block."""
    return between.join(" ".join(part.symbol.split()) for part in cue)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"
