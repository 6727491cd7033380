"""Transcribing many files: finding them, going on after a stop, reporting the bad ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from couloir.audio import AudioError
from couloir.errors import UserError, must_be
from couloir.files import ANY_NAME, writing_to
from couloir.inference.formats import format_of, from_json, refuse_taken, textgrid_targets, to_json, write_transcripts
from couloir.inference.progress import ProgressBar
from couloir.inference.recognizer import Recognizer
from couloir.inference.transcript import Transcript

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".webm", ".aif", ".aiff", ".au", ".sph", ".g722"
)  # fmt: skip


def find_audio(places: Sequence[Path]) -> list[Path]:
    """The files that were named, and the recordings in the folders that were, sorted, each once.

    Raises `UserError` for a place that does not exist or a folder without recordings.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"folder {place} holds no recording ({', '.join(AUDIO_SUFFIXES[:6])}, ...)")
            found.update(dict.fromkeys(inside))
        elif place.exists():
            found[place] = None
        else:
            raise UserError(f"{place} does not exist")
    return list(found)


@dataclass
class FilesRun:
    """Transcribing files: what came out.

    Attributes:
        transcripts: by file, in the order of the files. failed: file -> why. resumed: files that were done before.
    """

    transcripts: dict[str, Transcript] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    resumed: int = 0

    def exit_code(self) -> int:
        """2 when a file failed."""
        return 2 if self.failed else 0


def transcribe_files(
    recognizer: Recognizer,
    files: Sequence[Path],
    output: Path | None = None,
    kind: str | None = None,
    root: Path | None = None,
    inventory: str | None = None,
) -> FilesRun:
    """Transcribe files; one that cannot be used is reported on stderr and the rest go on.

    With an output, every result is kept in a journal beside it at once, so that a run that is stopped goes on where it
    was when it is started again. The output itself is written when all is done, or the run is interrupted. A recording
    whose file has changed since is transcribed again.

    Args:
        recognizer: the model. files: recordings. output: file or folder to write. kind: one of `FORMATS`; None goes
            by the suffix. root: folder whose structure a folder of TextGrids repeats. inventory: what it was asked for.

    Raises:
        UserError: the output was begun with another model, inventory, or way of listening; it cannot be written; or a
            folder holds a TextGrid of a recording that this run has not transcribed before.
    """
    run = FilesRun()
    kind = format_of(output, kind) if output else None
    names = [str(file) for file in files]
    grids = textgrid_targets(output, names, root) if output and kind == "TextGrid" else {}
    with _Journal(output, made_with(recognizer, inventory) if output else {}, grids) as journal:
        states = {name: _state(Path(name)) for name in names}
        before = {name: journal.done[name] for name in names if journal.is_done(name, states[name])}
        run.resumed = len(before)
        rest = [name for name in names if name not in before]
        bar = ProgressBar(len(rest))
        for name in rest:
            if name in journal.done:
                bar.say(f"{name} is not the file that was transcribed before, and is transcribed again")
        try:
            for index, result in recognizer.results(rest):
                if isinstance(result, AudioError):
                    run.failed[rest[index]] = str(result)
                    bar.say(f"error: {result}")
                else:
                    before[rest[index]] = result
                    journal.add(result, states[rest[index]])
                bar.step(0.0 if isinstance(result, AudioError) else result.duration)
        finally:
            bar.close()
            run.transcripts = {name: before[name] for name in names if name in before}
            if output and kind:
                write_transcripts(output, list(run.transcripts.values()), kind, root, names)
    return run


State = list[int] | None
"""Size in bytes and time of the last change in ns of a file; None of one that is not there."""


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def made_with(recognizer: Recognizer, inventory: str | None) -> dict[str, Any]:
    """All that decides what comes out for a recording, as plain values by what a person calls them."""
    backend, restriction = recognizer.backend, recognizer.restriction
    names = f"{inventory} ({restriction.digest()})" if restriction else None
    files = {f"file {file.name}": _state(file) for file in backend.files}
    return {"model": backend.origin, "model type": backend.kind, **files, "inventory": names, **recognizer.choices}


class _Journal:
    """Results so far, one JSON line each, after a line that says what they were made with."""

    def __init__(self, output: Path | None, made_with: dict[str, Any], grids: Mapping[str, Path]) -> None:
        whole = Path(os.path.abspath(output or ""))  # "." and ".." are no names to make another of
        self.path = whole.parent / f".{whole.name}.journal" if output else None
        self.output, self.made_with, self.grids = output, made_with, grids
        self.done: dict[str, Transcript] = {}
        self._heard: dict[str, State] = {}
        self._out: IO[str] | None = None

    def __enter__(self) -> _Journal:
        if self.path is None or self.output is None:
            return self
        with writing_to(self.output):
            lines = self.path.read_text("utf-8", ANY_NAME).splitlines() if self.path.is_file() else []
        whole = list(_whole(lines))
        if whole and whole[0] != self.made_with:
            remedy = (
                f"give another --output, or delete {f'it and {self.path}' if self.grids else self.path} to begin anew"
            )
            was, now = _difference(whole[0], self.made_with)
            raise must_be("--output", f"continued with what it was begun with, {was}", now, remedy)
        for values in whole[1:]:
            self._heard[values["name"]] = values.pop("heard", None)
            self.done[values["name"]] = from_json(values)
        for name, grid in self.grids.items():
            if name not in self.done and grid != self.output:
                refuse_taken(grid)
        with writing_to(self.output):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self.path.open("a" if whole else "w", encoding="utf-8", errors=ANY_NAME)
        if not whole:
            self._write(self.made_with)
        elif len(whole) < len(lines):
            self._out.write("\n")  # the line that was being written when the run was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self._out and self.output:
            with writing_to(self.output):  # closing writes what a full disk would not take before
                self._out.close()

    def is_done(self, name: str, state: State) -> bool:
        """Whether the result of a file in this state is here."""
        return name in self.done and self._heard[name] == state

    def add(self, transcript: Transcript, state: State) -> None:
        """Keep a result, and the state of the file that it was heard in."""
        if self._out:
            self._write(to_json(transcript) | {"heard": state})

    def _write(self, values: dict[str, Any]) -> None:
        assert self._out and self.output
        with writing_to(self.output):
            self._out.write(json.dumps(values, ensure_ascii=False) + "\n")
            self._out.flush()


def _whole(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values


def _difference(was: dict[str, Any], now: dict[str, Any]) -> tuple[str, str]:
    """The first thing that two runs were not alike in: what it was, and what it is."""
    name = next(name for name in [*was, *now] if was.get(name) != now.get(name))
    old, new = _shown(was.get(name)), _shown(now.get(name))
    if old == new and name.startswith("file "):
        new = "another of that size"
    return f"{name} {old}", new


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        size, changed = value
        return f"of {size} bytes from {datetime.fromtimestamp(changed / 1e9):%Y-%m-%d %H:%M:%S}"
    return "none" if value is None else str(value)
