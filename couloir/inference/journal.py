"""What was written where, and what was found so far: a file of JSON lines beside an output, which is added to at once.

Its first line says what the results are made with. A file's digest is noted before the file is written and after: so a
run that is killed in between knows its own files, and what a person changed since is known from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from couloir.errors import UserError, must_be
from couloir.files import ANY_NAME, atomic_write, name_of_id, writing_to
from couloir.inference.formats import from_json, json_line, to_json
from couloir.inference.recordings import place_of
from couloir.inference.transcript import Transcript
from couloir.locks import locked

State = list[int] | None
"""Size in bytes and time of the last change in ns of a file; None of one that is not there."""
WRITTEN, KEPT, GONE = "written", "changed since it was written, and is kept", "deleted since, and is not written again"
_LONGEST_NAME = 200  # what a lock puts behind has room, too
_SPELT = ("model", "inventory")
"""Names of what results were made with; what these are is told by the other values."""


def journal_path(output: Path) -> Path:
    """Where the journal of an output lies: beside it, hidden."""
    name = f".{output.name}.journal"
    long = len(os.fsencode(name)) > _LONGEST_NAME
    return output.parent / (f".{name_of_id(output.name)}.journal" if long else name)


def state_of(path: str | Path) -> State:
    """The state of a file, by which another one at its place is noticed."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


class Journal:
    """A context manager. Results are of recordings, by the places where those lie (`recordings.place_of`).

    Args:
        output: file or folder. made_with: all that decides what comes out for a recording, by what a person calls it.

    Attributes:
        done: the results. grids: a recording's TextGrid, as its place inside the output.

    Raises:
        UserError: the output was begun with something else, or cannot be written.
    """

    def __init__(self, output: Path, made_with: Mapping[str, Any]) -> None:
        self.output, self.made_with = output, dict(made_with)
        self.path = journal_path(output)
        self.done: dict[str, Transcript] = {}
        self.grids: dict[str, str] = {}
        self._heard: dict[str, State] = {}
        self._digests: dict[str, set[str]] = {}
        self._finished: set[str] = set()
        self._out: IO[str] | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Journal:
        self._lock.enter_context(locked(self.path.with_name(f"{self.path.name[:-8]}.lock"), f"--output {self.output}"))
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _open(self) -> None:
        with writing_to(self.output):
            text = self.path.read_bytes().decode("utf-8", ANY_NAME) if self.path.is_file() else ""
        lines = text.split("\n")
        whole = list(_whole(lines))
        if whole:
            self._check(whole[0])
        for values in whole[1:]:
            self._take(values)
        with writing_to(self.output):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self.path.open("a" if whole else "w", encoding="utf-8", errors=ANY_NAME, newline="\n")
        if not whole:
            self._write(self.made_with)
        elif lines[-1]:
            self._out.write("\n")  # the line that was being written when the run was killed

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._out:
                with writing_to(self.output):  # closing writes what a full disk would not take before
                    self._out.close()

    def _check(self, was: dict[str, Any]) -> None:
        if _compared(was) == _compared(self.made_with):
            return
        remedy = f"give another --output, or delete it and {self.path} to begin from nothing"
        old, new = _difference(was, self.made_with)
        raise must_be("--output", f"continued with what it was begun with, {old}", new, remedy)

    def _take(self, values: dict[str, Any]) -> None:
        try:
            if "digest" in values:
                self._note(values["wrote"], values["digest"], values["finished"])
                return
            heard = values.pop("heard", None)
            place, grid = values.pop("place", None) or place_of(values["name"]), values.pop("grid", None)
            self.done[place], self._heard[place] = from_json(values), heard
        except (KeyError, TypeError, AttributeError):
            return  # a line of something else: its recording is transcribed again
        if grid:
            self.grids[place] = grid

    def is_done(self, place: str, state: State) -> bool:
        """Whether the result of a recording in this state is here."""
        return place in self.done and self._heard[place] == state

    def add(self, place: str, transcript: Transcript, state: State, grid: str | None = None) -> None:
        """Keep a result, the state of the file that it was heard in, and where its TextGrid is to lie."""
        self.done[place], self._heard[place] = transcript, state
        self._write(to_json(transcript) | {"heard": state, "place": place, "grid": grid})

    def _write(self, values: dict[str, Any]) -> None:
        assert self._out
        with writing_to(self.output):
            self._out.write(json_line(values))
            self._out.flush()

    def _note(self, name: str, digest: str, finished: bool) -> None:
        self._digests.setdefault(name, set()).add(digest)
        if finished:
            self._finished.add(name)

    def is_lost(self) -> bool:
        """Whether nothing is left of what was written: then all of it is wanted again."""
        return bool(self._finished) and not any((self.output / name).exists() for name in self._finished)

    def state(self, name: str = "") -> str:
        """What became of a file of the output ("" is the output itself): `WRITTEN`, `KEPT`, `GONE`, or "" for none.

        Raises `UserError` for one that no run has written, unless it is empty.
        """
        target = self.output / name
        if not os.path.lexists(target):
            return GONE if name in self._finished else ""
        if name not in self._digests or target.is_dir():
            if target.is_file() and not target.stat().st_size:
                return ""
            raise taken(target)
        return WRITTEN if _digest(target.read_bytes()) in self._digests[name] else KEPT

    def put(self, text: str, name: str = "", again: bool = False) -> str:
        """Write a file of the output, unless a person changed or deleted it.

        Args:
            text: its content. name: see `state`. again: write what was deleted, too.

        Returns what became of it, as `state`. Raises `OSError`, and `UserError` as `state`.
        """
        content = text.encode("utf-8", ANY_NAME)
        digest, target = _digest(content), self.output / name
        if target.is_file() and _digest(target.read_bytes()) == digest:
            known = name in self._finished and digest in self._digests[name]
        else:
            known = False
            before = self.state(name)
            if before == KEPT or (before == GONE and not again):
                return before
            self._write({"wrote": name, "digest": digest, "finished": False})
            with atomic_write(target) as out:
                out.write(content)
        if not known:
            self._note(name, digest, True)
            self._write({"wrote": name, "digest": digest, "finished": True})
        return WRITTEN


def changed(output: object, journal: Path) -> UserError:
    """The one file of an output was changed since it was written."""
    remedy = f"give another --output, or move it away and it is written again from {journal}"
    return UserError(f"{output} was changed since it was written, and is kept; {remedy}")


def taken(path: Path) -> UserError:
    """A place is taken by what no run has written: it may be somebody's own labels."""
    return UserError(f"{path} exists, and may be made by hand; say where else to write with --output")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _whole(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            yield values


def _compared(made_with: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What two runs have to have in common; a model's files go by their states, not by how they are called."""
    files = sorted(str(value) for name, value in made_with.items() if name.startswith("file "))
    rest = {name: value for name, value in made_with.items() if not name.startswith("file ") and name not in _SPELT}
    return rest, files


def _difference(was: dict[str, Any], now: dict[str, Any]) -> tuple[str, str]:
    """The first thing that two runs were not alike in: what it was, and what it is."""
    name = next(name for name in [*was, *now] if was.get(name) != now.get(name))
    old, new = _shown(was.get(name)), _shown(now.get(name))
    if old == new and name.startswith("file "):
        new = "another of that size"
    return f"{name} {old}", new


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value):
        size, changed = value
        with contextlib.suppress(OverflowError, ValueError, OSError):
            return f"of {size} bytes from {datetime.fromtimestamp(changed / 1e9):%Y-%m-%d %H:%M:%S}"
    return "none" if value is None else str(value)
