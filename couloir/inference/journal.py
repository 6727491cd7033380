"""What was written where, and what was found so far: a file of JSON lines beside an output, which is added to at once.

Its first line says what the results are made with. A file's digest is noted before the file is written and after: so a
run that is killed in between knows its own files, and what a person changed since is known from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
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
POSSIBLY, READ_ONLY = "possibly changed since it was written, and is kept", "made read-only since, and is kept"
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_LONGEST_NAME = 200  # what a lock puts behind has room, too
_SPELT = ("model", "inventory")
"""Names of what results were made with; the other values say what these are."""
_CHECK = "crc"
_OF_RESULTS = {"name", "wrote"}
"""One of these is in every line but the first."""


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
        unread: how many lines are damaged.
        older: files of the output that a run without digests may have written.

    Raises:
        UserError: the output was begun with something else, the journal is damaged, or it cannot be written.
    """

    def __init__(self, output: Path, made_with: Mapping[str, Any]) -> None:
        self.output, self.made_with = output, dict(made_with)
        self.path = journal_path(output)
        self.done: dict[str, Transcript] = {}
        self.grids: dict[str, str] = {}
        self.unread = 0
        self.older: set[str] = set()
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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._file(os.O_RDONLY | os.O_CREAT, "rb") as file:
                content = file.read()
        # The line that was being written when the run was killed, unless its end alone is missing.
        end = content.rfind(b"\n") + 1
        torn = content[end:] if _values(content[end:]) is None else b""
        lines = [_values(line) for line in content[: len(content) - len(torn)].split(b"\n") if line.strip()]
        whole = [values for values in lines if values is not None]
        if lines and (not whole or whole[0].keys() & _OF_RESULTS):
            remedy = f"give another --output, or delete it and {self.output} to begin from nothing"
            raise must_be(f"journal {self.path}", "as a run has left it", "damaged in its first line", remedy)
        self.unread = len(lines) - len(whole)
        if whole:
            self._check(whole[0])
        for values in whole[1:]:
            self.unread += not self._take(values)
        with writing_to(self.output):
            self._out = self._file(os.O_WRONLY | os.O_APPEND, "a", encoding="utf-8", errors=ANY_NAME, newline="\n")
            if torn:
                os.ftruncate(self._out.fileno(), end)
            elif content[end:]:
                self._out.write("\n")
        if not whole:
            self._write(self.made_with)

    def _file(self, flags: int, mode: str, **options: Any) -> IO[Any]:
        """The journal, opened; a link could lead to anything, and a pipe would be waited for. Raises `UserError`."""
        try:
            number = os.open(self.path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
        except OSError:
            if not self.path.is_symlink():
                raise
        else:
            if stat.S_ISREG(os.fstat(number).st_mode):
                return open(number, mode, **options)
            os.close(number)
        raise must_be(f"journal {self.path}", "a regular file", "a link, folder, pipe or device", "remove it")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._out:
                with writing_to(self.output):  # closing writes what a full disk would not take before
                    self._out.close()

    def _check(self, was: dict[str, Any]) -> None:
        was = _completed(was, self.made_with)
        if _compared(was) == _compared(self.made_with):
            return
        remedy = f"give another --output, or delete it and {self.path} to begin from nothing"
        old, new = _difference(was, self.made_with)
        raise must_be("--output", f"continued with what it was begun with, {old}", new, remedy)

    def _take(self, values: dict[str, Any]) -> bool:
        """Whether a line is one of ours; the recording of another one is transcribed again."""
        try:
            if "digest" in values:
                self._note(_name(values["wrote"]), _name(values["digest"]), values["finished"])
                return True
            heard = values.pop("heard", None)
            place, grid = values.pop("place", None) or place_of(values["name"]), values.pop("grid", None)
            transcript = from_json(values)
            if grid:
                self.grids[_name(place)] = _name(grid)
            self.done[_name(place)], self._heard[place] = transcript, heard
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
            return False
        return True

    def is_done(self, place: str, state: State) -> bool:
        """Whether the result of a recording in this state is here."""
        return place in self.done and self._heard[place] == state

    def add(self, place: str, transcript: Transcript, state: State, grid: str | None = None) -> None:
        """Keep a result, the state of the file that it was found in, and where its TextGrid is to lie."""
        self.done[place], self._heard[place] = transcript, state
        self._write(to_json(transcript) | {"heard": state, "place": place, "grid": grid})

    def _write(self, values: dict[str, Any]) -> None:
        assert self._out
        with writing_to(self.output):
            self._out.write(json_line(values | {_CHECK: _check_sum(values)}))
            self._out.flush()

    def _note(self, name: str, digest: str, finished: bool) -> None:
        if finished:  # what was there before is a person's, should it come back
            self._digests[name] = {digest}
            self._finished.add(name)
        else:
            self._digests.setdefault(name, set()).add(digest)

    def adopt(self, name: str, *texts: str) -> None:
        """Know a file that an earlier release, which noted no digests, has written: by its content, one of ``texts``.

        One of another content is `POSSIBLY` changed.
        """
        target = self.output / name
        if name in self._digests or not target.is_file():
            return
        self.older.add(name)
        digest = _digest(target.read_bytes())
        if any(digest == _digest(text.encode("utf-8", ANY_NAME)) for text in texts):
            self._finish(name, digest)

    def is_lost(self) -> bool:
        """Whether nothing is left of what was written: then all of it is wanted again."""
        return bool(self._finished) and not any((self.output / name).exists() for name in self._finished)

    def state(self, name: str = "") -> str:
        """What became of a file of the output ("" is the output itself): one of the words above, or "" for none.

        Raises `UserError` for one that no run has written, unless it is empty.
        """
        target = self.output / name
        if not os.path.lexists(target):
            return GONE if name in self._finished else ""
        if name not in self._digests or target.is_dir():
            if target.is_file() and not target.stat().st_size:
                return ""
            if name in self.older:
                return POSSIBLY
            raise taken(target)
        if target.is_symlink() or _digest(target.read_bytes()) not in self._digests[name]:
            return KEPT
        return WRITTEN if target.stat().st_mode & _WRITABLE else READ_ONLY

    def put(self, text: str, name: str = "", again: bool = False) -> str:
        """Write a file of the output, unless a person changed, protected or deleted it. Its permissions stay.

        Args:
            text: its content. name: see `state`. again: write what was deleted, too.

        Returns what became of it, as `state`. Raises `OSError`, and `UserError` as `state`.
        """
        content = text.encode("utf-8", ANY_NAME)
        digest, target = _digest(content), self.output / name
        if target.is_file() and _digest(target.read_bytes()) == digest:
            if name not in self._finished or digest not in self._digests[name]:
                self._finish(name, digest)
            return WRITTEN
        before = self.state(name)
        if before not in (WRITTEN, "") and not (before == GONE and again):
            return before
        self._write({"wrote": name, "digest": digest, "finished": False})
        mode = stat.S_IMODE(target.stat().st_mode) if before == WRITTEN else None
        with atomic_write(target) as out:
            out.write(content)
            if mode is not None:
                os.chmod(out.fileno(), mode)
        self._finish(name, digest)
        return WRITTEN

    def _finish(self, name: str, digest: str) -> None:
        self._note(name, digest, True)
        self._write({"wrote": name, "digest": digest, "finished": True})


def left(output: object, state: str, journal: Path) -> UserError:
    """The one file of an output is not written, by its state."""
    remedy = f"give another --output, or move it away and it is written again from {journal}"
    return UserError(f"{output} was {state}; {remedy}")


def taken(path: Path) -> UserError:
    """A place is taken by what no run has written: it may be somebody's own labels."""
    return UserError(f"{path} exists, and may be made by hand; say where else to write with --output")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _values(line: bytes) -> dict[str, Any] | None:
    """The values of a line; None if it is damaged."""
    try:
        values = json.loads(line.decode("utf-8-sig", ANY_NAME))
        if isinstance(values, dict) and (_CHECK not in values or values.pop(_CHECK) == _check_sum(values)):
            return values
    except (ValueError, RecursionError):
        pass
    return None


def _check_sum(values: dict[str, Any]) -> int:
    return zlib.crc32(json_line(values).encode("utf-8", ANY_NAME))


def _name(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(value)
    return value


def _completed(was: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier release wrote down, which had the phones' digest in the inventory's name, and no average."""
    if "phones" in was or "phones" not in now:
        return was
    digest = re.search(r"\(([0-9a-f]+)\)$", str(was.get("inventory")))
    return was | {"average": now.get("average"), "phones": digest[1] if digest else None}


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
