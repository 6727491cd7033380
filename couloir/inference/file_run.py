"""Transcribing many files: going on after a stop, keeping what a person made, reporting the bad ones."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from couloir.audio import AudioError
from couloir.errors import UserError, must_be, shown
from couloir.files import ANY_NAME, FULL, place_in, remedy, writing_to
from couloir.inference.flags import ONE_EACH
from couloir.inference.formats import one_file, recordings_in, table
from couloir.inference.journal import GONE, KEPT, POSSIBLY, WRITTEN, Journal, left, state_of
from couloir.inference.output import Output, output_of
from couloir.inference.places import textgrid_places
from couloir.inference.recognizer import Recognizer
from couloir.inference.recordings import Found, place_of
from couloir.inference.transcript import Transcript
from couloir.progress import ProgressBar

_OF_ALL = (*FULL, errno.EROFS, errno.EIO)
"""Errors of a file system that the next file meets, too."""
_MOST_NAMED = 20
_SEVERAL = {"TextGrid": "TextGrids", "srt": "subtitles"}


@dataclass
class FilesRun:
    """Transcribing files: what came out.

    Attributes:
        transcripts: by file, in the order of the files. failed: file -> why. resumed: files that were done before.
        left: TextGrid -> why it was not written: a person changed it since, protected or deleted it.
        streamed: whether the output was a pipe, a terminal, or the like.
    """

    transcripts: dict[str, Transcript] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    resumed: int = 0
    left: dict[str, str] = field(default_factory=dict)
    streamed: bool = False

    def exit_code(self) -> int:
        """2 when a file failed."""
        return 2 if self.failed else 0

    def summary(self, output: Path | None) -> str:
        """What was done, in one line."""
        gone = sum(why == GONE for why in self.left.values())
        kept = len(self.left) - gone
        parts = [f"{len(self.transcripts) - self.resumed} transcribed"]
        parts += [f"{self.resumed} were done before"] if self.resumed else []
        written = all(name not in self.transcripts for name in self.failed)
        parts += [f"{len(self.failed)} could not be read" + ("" if written else " or written")]
        parts += [f"{kept} kept as changed since"] if kept else []
        parts += [f"{gone} not written again after deletion"] if gone else []
        return ", ".join(parts) + (f"; written to {shown(output)}" if output else "")


def transcribe_files(
    recognizer: Recognizer,
    found: Found | Sequence[Path],
    output: Path | None = None,
    kind: str | None = None,
    root: Path | None = None,
    inventory: str | None = None,
) -> FilesRun:
    """Transcribe files; one that cannot be used is reported on stderr and the rest go on.

    With an output, every result is kept in a journal beside it at once, so that a run that is stopped goes on where it
    was when it is started again, and recordings of other runs stay in it. The output itself is written when all is
    done, or the run is interrupted. A recording whose file has changed since is transcribed again. A pipe or terminal
    has no journal.

    Args:
        recognizer: the model. found: recordings. output: file, folder or stream to write; ``-`` is standard output.
        kind: one of `FORMATS`; None goes by the suffix. root: folder whose structure a folder of TextGrids repeats.
        inventory: what it was asked for.

    Raises:
        UserError: the output was begun with another model, inventory, or way of listening; it cannot be written; or a
            file is in its place that no run has written, or a table that a person changed since.
    """
    found = found if isinstance(found, Found) else Found(list(found))
    run = FilesRun(failed=dict(found.unread))
    names = [str(file) for file in found.files]
    target = output_of(output, kind) if output else None
    run.streamed = target is not None and target.is_stream
    bar = ProgressBar(len(names))
    if target is None or target.is_stream:
        if target and target.kind in ONE_EACH and len(names) != 1:
            raise must_be("--output", f"a folder for {_SEVERAL[target.kind]} of several recordings", target.given)
        _tell(found, bar)
        _to_stream(recognizer, names, target, run, bar)
        return run
    assert target.path is not None
    with Journal(target.path, made_with(recognizer, inventory)) as journal:
        keeper = _Keeper(journal, target, names, root, bar)
        keeper.check()
        _tell(found, bar)
        try:
            _resumed(recognizer, keeper, names, run, bar)
        finally:
            bar.close()
            keeper.write(run)
    return run


def _tell(found: Found, bar: ProgressBar) -> None:
    """Say what of the folders is not transcribed."""
    if found.passed:
        bar.say(f"passed over in folders: {found.passed_over()}")
    for line in found.unread.values():
        bar.say(f"error: {line}")


def _to_stream(
    recognizer: Recognizer, names: list[str], output: Output | None, run: FilesRun, bar: ProgressBar
) -> None:
    """Transcribe all, and write it into a stream, if there is one."""
    try:
        for name, result in _heard(recognizer, names, run, bar):
            run.transcripts[name] = result
    finally:
        bar.close()
        run.transcripts = {name: run.transcripts[name] for name in names if name in run.transcripts}
        done = list(run.transcripts.values())
        if output and output.kind in ONE_EACH:
            output.write_into("".join(one_file(output.kind, one) for one in done))
        elif output:
            output.write_into(table(output.kind, done))


def _resumed(recognizer: Recognizer, keeper: _Keeper, names: list[str], run: FilesRun, bar: ProgressBar) -> None:
    """Transcribe what the journal has not got, and add it there."""
    journal, places = keeper.journal, keeper.places
    states = {name: state_of(name) for name in names}
    before = {name for name in names if journal.is_done(places[name], states[name])}
    run.resumed = len(before)
    rest = [name for name in names if name not in before]
    bar.total = len(rest)
    for name in rest:
        if journal.done.pop(places[name], None):
            bar.say(f"{name} is not the file that was transcribed before, and is transcribed again")
    for name, result in _heard(recognizer, rest, run, bar):
        journal.add(places[name], result, states[name], keeper.grids.get(name))


def _heard(
    recognizer: Recognizer, names: list[str], run: FilesRun, bar: ProgressBar
) -> Iterator[tuple[str, Transcript]]:
    """What is found in each recording; one that cannot be used is reported."""
    for index, result in recognizer.results(names):
        if isinstance(result, AudioError):
            run.failed[names[index]] = str(result)
            bar.say(f"error: {result}")
        else:
            yield names[index], result
        bar.step(0.0 if isinstance(result, AudioError) else result.duration)


class _Keeper:
    """The results of a journal as files, of this run and of those before it."""

    def __init__(self, journal: Journal, output: Output, names: list[str], root: Path | None, bar: ProgressBar) -> None:
        assert output.path is not None
        self.journal, self.output, self.path, self.names, self.bar = journal, output, output.path, names, bar
        self.places = {name: place_of(name) for name in names}
        ours = set(self.places.values())
        self.others = [place for place in journal.done if place not in ours]
        self.grids: dict[str, str] = {}
        if output.kind in ONE_EACH:
            self._lay_out(root)

    def _lay_out(self, root: Path | None) -> None:
        """Give each recording of this run the place of its TextGrid in the folder, or "" for the one file."""
        known = {name: self.journal.grids[place] for name, place in self.places.items() if place in self.journal.grids}
        foreign = [self.journal.grids[place] for place in self.others if place in self.journal.grids]
        kind = self.output.kind
        if self.path.suffix.lower() == f".{kind.lower()}" and len(self.names) == 1 and not self.path.is_dir():
            if self.others:
                held = f"{self.output.given}, which has that of {self.journal.done[self.others[0]].name}"
                raise must_be("--output", f"a folder for the {_SEVERAL[kind]} of several recordings", held)
            self.grids = {self.names[0]: ""}
        elif self.path.exists() and not self.path.is_dir():
            raise must_be("--output", f"a folder for {_SEVERAL[kind]}", f"{self.output.given}, a file")
        else:
            places = textgrid_places(self.names, root, known, foreign, f".{kind}")
            self.grids = {name: str(place) for name, place in places.items()}

    def check(self) -> None:
        """Refuse, before any work is done, places that hold what no run has written. Raises `UserError`."""
        journal = self.journal
        self.lost = journal.is_lost()
        if self.lost:
            self.bar.say(f"what was written to {self.output.given} before is gone, and is written again")
        if journal.unread:
            self.bar.say(f"{journal.path} has {journal.unread} damaged line(s), whose recordings are transcribed again")
        with writing_to(self.output.given):
            self._adopt()
            if self.output.kind in ONE_EACH:
                for name, grid in self.grids.items():
                    if self.places[name] not in journal.done:  # of those, what would be written is known
                        journal.state(grid)
            elif (state := journal.state()) in (KEPT, POSSIBLY):
                raise left(self.output.given, state, journal.path)

    def _adopt(self) -> None:
        """Know what an earlier release has written, which kept the order of the command line."""
        done = self.journal.done
        if self.output.kind in ONE_EACH:
            for name, grid in self.grids.items():
                if found := done.get(self.places[name]):
                    with contextlib.suppress(OSError):  # which is that recording's failure
                        self.journal.adopt(grid, one_file(self.output.kind, found))
        elif done:
            orders = {tuple(place for place in self.places.values() if place in done), tuple(done)}
            self.journal.adopt("", *(table(self.output.kind, [done[place] for place in order]) for order in orders))

    def write(self, run: FilesRun) -> None:
        """Write what there is. Raises `UserError` for a table that a person changed meanwhile, or a full disk."""
        done = self.journal.done
        run.transcripts = {
            name: replace(done[place], name=name) for name, place in self.places.items() if place in done
        }
        others = [done[place] for place in self.others]
        if self.output.kind in ONE_EACH:
            wanted = [(grid, run.transcripts[name]) for name, grid in self.grids.items() if name in run.transcripts]
            others_here = [(self.journal.grids[place], done[place]) for place in self.others if self.lost]
            wanted += [(grid, found) for grid, found in others_here if grid.endswith(f".{self.output.kind}")]
            for grid, transcript in wanted:
                self._write_grid(grid, transcript, run)
            self._tell_left(run)
            return
        with writing_to(self.output.given):
            text = table(self.output.kind, [*others, *run.transcripts.values()])
            if self.journal.unread and self._loses_rows(text):
                why = f"holds rows that {self.journal.path}, which is damaged, has no more"
                raise UserError(f"{self.output.given} {why}, and is kept; move it away and it is written again")
            if (state := self.journal.put(text, again=True)) != WRITTEN:
                raise left(self.output.given, state, self.journal.path)

    def _loses_rows(self, text: str) -> bool:
        if not self.path.is_file() or self.journal.state() != WRITTEN:
            return False
        before = self.path.read_bytes().decode("utf-8", ANY_NAME)
        return not recordings_in(self.output.kind, before) <= recordings_in(self.output.kind, text)

    def _write_grid(self, grid: str, transcript: Transcript, run: FilesRun) -> None:
        """Write one recording's file; what stands in its way is that recording's failure, but not a full disk."""
        path = self.path / grid
        try:
            if Path(grid).parent.parts:
                place_in(self.path, str(Path(grid).parent))
            state = self.journal.put(one_file(self.output.kind, transcript), grid, self.lost)
        except (OSError, ValueError, UserError) as error:
            why = f"{path} cannot be written ({getattr(error, 'strerror', None) or error})"
            if isinstance(error, OSError) and error.errno in _OF_ALL:
                raise UserError(f"{why}; {remedy(error)}") from None
            run.failed[transcript.name] = why
            self.bar.say(f"error: {why}")
            return
        if state != WRITTEN:
            run.left[str(path)] = state

    def _tell_left(self, run: FilesRun) -> None:
        for path, why in list(run.left.items())[:_MOST_NAMED]:
            self.bar.say(f"{path} was {why}")
        if len(run.left) > _MOST_NAMED:
            self.bar.say(f"and {len(run.left) - _MOST_NAMED} more")


def made_with(recognizer: Recognizer, inventory: str | None) -> dict[str, Any]:
    """All that decides what comes out for a recording, as plain values by what a person calls them."""
    backend, restriction = recognizer.backend, recognizer.restriction
    digest = restriction.digest() if restriction else None
    searched = recognizer.method.files if recognizer.method else []
    files, more = ({f"file {file.name}": state_of(file) for file in part} for part in (backend.files, searched))
    names = f"{inventory} ({digest})" if digest else None
    model = {"model": place_of(backend.origin), "average": backend.average, "model type": backend.kind}
    return {**model, **files, "inventory": names, "phones": digest, **recognizer.choices, **more}
