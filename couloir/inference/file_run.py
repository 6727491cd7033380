"""Transcribing many files: finding them, going on after a stop, reporting the bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from couloir.audio import AudioError
from couloir.errors import UserError, must_be
from couloir.inference.formats import format_of, from_json, to_json, write_transcripts
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
    was when it is started again. The output itself is written when all is done, or the run is interrupted.

    Args:
        recognizer: the model. files: recordings. output: file or folder to write. kind: one of `FORMATS`; None goes
            by the suffix. root: folder whose structure a folder of TextGrids repeats. inventory: its name, which the
            journal is tied to.

    Raises:
        UserError: the output was begun with another model, inventory, or way of listening.
    """
    run = FilesRun()
    kind = format_of(output, kind) if output else None
    with _Journal(output, {"model": recognizer.backend.origin, "inventory": inventory} | recognizer.choices) as journal:
        names = [str(file) for file in files]
        before = {name: journal.done[name] for name in names if name in journal.done}
        run.resumed = len(before)
        rest = [name for name in names if name not in before]
        bar = ProgressBar(len(rest))
        try:
            for index, result in recognizer.results(rest):
                if isinstance(result, AudioError):
                    run.failed[rest[index]] = str(result)
                    bar.say(f"error: {result}")
                else:
                    before[rest[index]] = result
                    journal.add(result)
                bar.step(0.0 if isinstance(result, AudioError) else result.duration)
        finally:
            bar.close()
            run.transcripts = {name: before[name] for name in names if name in before}
            if output and kind:
                write_transcripts(output, list(run.transcripts.values()), kind, root)
    return run


class _Journal:
    """Results so far, one JSON line each, after a line that says what they were made with."""

    def __init__(self, output: Path | None, made_with: dict[str, Any]) -> None:
        self.path = output.with_name(f".{output.name}.journal") if output else None
        self.made_with = made_with
        self.done: dict[str, Transcript] = {}
        self._out: IO[str] | None = None

    def __enter__(self) -> _Journal:
        if self.path is None:
            return self
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        whole = list(_whole(lines))
        if whole and whole[0] != self.made_with:
            remedy = f"give another one, or delete {self.path} to begin anew"
            raise must_be("--output", f"for {_words(self.made_with)}", f"begun with {_words(whole[0])}", remedy)
        self.done = {values["name"]: from_json(values) for values in whole[1:]}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self.path.open("a" if whole else "w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"`--output` cannot be written in {self.path.parent}: {error.strerror}") from None
        if not whole:
            self._write(self.made_with)
        elif len(whole) < len(lines):
            self._out.write("\n")  # the line that was being written when the run was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self._out:
            self._out.close()

    def add(self, transcript: Transcript) -> None:
        """Keep a result."""
        if self._out:
            self._write(to_json(transcript))

    def _write(self, values: dict[str, Any]) -> None:
        assert self._out
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


def _words(made_with: dict[str, Any]) -> str:
    more = [f"{name} {value}" for name, value in made_with.items() if name != "model" and value]
    return " and ".join([str(made_with.get("model")), *more])
