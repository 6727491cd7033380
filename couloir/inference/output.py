"""What ``--output`` names: a file, a folder, or a stream. Links are resolved, pipes and devices written into."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from couloir.errors import UserError, must_be, shown
from couloir.files import ANY_NAME, writing_to
from couloir.inference.flags import FORMATS, ONE_EACH
from couloir.inference.formats import format_of
from couloir.inference.journal import KEPT, WRITTEN, Journal, left

_DESCRIPTOR = re.compile(r"/proc/(self|thread-self|\d+)/fd/(\d+)")
_MOST_LINKS = 40
_KNOWN = {name.lower() for name in FORMATS}
OTHER_SUFFIXES = {f".{name}" for name in FORMATS if name != "TextGrid"}
"""Of files that hold no TextGrid."""


@dataclass(frozen=True)
class Output:
    """Where results go.

    Attributes:
        given: as a person wrote it. kind: one of `FORMATS`. path: of the file or folder, or of the pipe or device;
            None for an open file of this process. descriptor: of that file. is_stream: it is written into as it is.
    """

    given: str
    kind: str
    path: Path | None = None
    descriptor: int | None = None
    is_stream: bool = False

    def write_into(self, text: str) -> None:
        """Write to a stream. Raises `UserError` when it cannot be written, and `BrokenPipeError` when nobody reads."""
        with writing_to(self.given), self._opened() as out:
            out.write(shown(text, lines=True) if out.isatty() else text)
            out.flush()

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        standard = {1: sys.stdout, 2: sys.stderr}.get(self.descriptor or 0)
        if standard is not None:
            yield standard
            return
        handle = os.dup(self.descriptor) if self.descriptor is not None else os.open(self.path or "", os.O_WRONLY)
        with open(handle, "w", encoding="utf-8", errors=ANY_NAME, newline="") as out:
            yield out


def output_of(given: Path, kind: str | None = None) -> Output:
    """What a path given as ``--output`` means.

    Args:
        given: the path; ``-`` is standard output. kind: one of `FORMATS`; None goes by the suffix, and without one a
            folder gets TextGrids and a stream lines of ``tsv``.

    Raises:
        UserError: the format is unknown, or nothing can be written there.
    """
    if str(given) == "-":
        return Output("-", _stream_format(given, kind), descriptor=1, is_stream=True)
    path, descriptor = _resolved(given)
    if descriptor is not None:
        try:
            os.fstat(descriptor)
        except OSError as error:
            raise UserError(f"{given} cannot be written ({error.strerror})") from None
        return Output(str(given), _stream_format(given, kind), descriptor=descriptor, is_stream=True)
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    except OSError as error:
        raise UserError(f"{given} cannot be written ({error.strerror})") from None
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return Output(str(given), _stream_format(given, kind), path, is_stream=True)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise must_be("--output", "a file, a folder, a pipe or a terminal", f"{given}, a disk or a socket")
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"{given} cannot be written ({os.strerror(errno.ENOTDIR)})")
    folder = stat.S_ISDIR(mode)
    if folder and kind is None and given.suffix[1:].lower() not in _KNOWN:
        kind = "TextGrid"  # 2026.11 is a folder's name, too
    kind = format_of(given, kind)
    if kind not in ONE_EACH and folder:
        raise must_be("--output", f"a file for {kind}", f"{given}, a folder")
    return Output(str(given), kind, path)


def _stream_format(given: Path, kind: str | None) -> str:
    if kind is None and given.suffix[1:].lower() not in _KNOWN:
        return "tsv"
    return format_of(given, kind)


def _resolved(given: Path) -> tuple[Path, int | None]:
    """The path behind all links, or the number of the open file of this process that it stands for.

    An open file is written into through its own descriptor: opening it again by its name would begin at its start, and
    moving another into its place would leave an empty one there. Raises `UserError` for endless links.
    """
    path = os.path.join(os.getcwd(), given)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        if name == os.pardir:
            return Path(os.path.realpath(path)), None
        path = os.path.join(os.path.realpath(folder), name)
        found = _DESCRIPTOR.fullmatch(path)
        if found and found[1] in ("self", "thread-self", str(os.getpid())):
            return Path(path), int(found[2])
        if not os.path.islink(path):
            return Path(path), None
        path = os.path.join(os.path.dirname(path), os.readlink(path).rstrip(os.sep))
    raise UserError(f"{given} cannot be written (its links lead nowhere)")


@contextmanager
def writing_one(output: Output, program: str) -> Iterator[Callable[[str], object]]:
    """What writes the one file, or stream, that a program makes, as a function of its text.

    Raises `UserError` before and then where that would replace what no run of this program has written, or a person
    changed since.
    """
    if output.path is None or output.is_stream:
        yield output.write_into
        return
    if output.path.is_dir():
        raise must_be("--output", "a file", f"{output.given}, a folder")
    with Journal(output.path, {"program": program}) as journal:
        with writing_to(output.given):
            if journal.state() == KEPT:
                raise left(output.given, KEPT, journal.path)

        def write(text: str) -> None:
            with writing_to(output.given):
                if (state := journal.put(text, again=True)) != WRITTEN:
                    raise left(output.given, state, journal.path)

        yield write
