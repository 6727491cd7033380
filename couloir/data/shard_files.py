"""Reading the two files of a shard, the manifest and the tar, within bounds."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from couloir import limits
from couloir.errors import UserError


class ShardError(UserError):
    """A shard that cannot be used. The message names it."""


@dataclass(frozen=True)
class ShardFiles:
    """One shard: its manifest, and its tar unless the recordings are files of their own."""

    cuts: Path
    tar: Path | None

    def stamp(self) -> list[list[int]]:
        """Size and time of change of each file: an index with another stamp is out of date.

        Raises `ShardError` for what is no regular file, and OSError.
        """
        stats = [(path, path.stat()) for path in (self.cuts, self.tar) if path is not None]
        for path, found in stats:
            if not stat.S_ISREG(found.st_mode):
                raise ShardError(f"{path} is no regular file")
        return [[found.st_size, found.st_mtime_ns] for _, found in stats]


def tar_name(cuts: Path) -> str:
    """``cuts.000017.jsonl.gz`` -> ``recording.000017.tar``."""
    return "recording" + cuts.name.removeprefix("cuts").removesuffix(".gz").removesuffix(".jsonl") + ".tar"


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; a pipe or a device is not waited for. Raises OSError, or `ShardError`."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ShardError(f"{path} is no regular file")
    return file


def manifest_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number from 1 and content of each line that is not blank; None for one that is too long.

    Raises `ShardError` when the file cannot be read to its end.
    """
    number = 0
    try:
        with open_regular(path) as raw:
            packed = path.suffix == ".gz"
            lines = _Lines(gzip.GzipFile(fileobj=raw) if packed else raw, _most_content(raw) if packed else None)
            blank = 0
            for number, line in enumerate(lines, 1):
                if line is None or line.strip():
                    yield number, line
                    continue
                blank += 1
                if blank > limits.MAX_LINES_LEFT_OUT:
                    raise _TooMuch(f"more than {limits.MAX_LINES_LEFT_OUT} lines are blank")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ShardError(f"{path} is truncated or damaged after line {number}; fetch it again") from None
    except _TooMuch as error:
        raise ShardError(f"{path} is damaged after line {number}: {error}") from None
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from None


class _TooMuch(Exception):
    """A file that grows beyond all bounds."""


def _most_content(packed: IO[bytes]) -> int:
    return limits.EXPANSION_SLACK_BYTES + limits.MAX_EXPANSION * os.fstat(packed.fileno()).st_size


class _Lines:
    """The lines of a file, of bounded length, while all of them are within a bound."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, most: int | None) -> None:
        self.file, self.most, self.position = file, most, 0

    def __iter__(self) -> Iterator[bytes | None]:
        while line := self._read():
            too_long = len(line) == limits.MAX_MANIFEST_LINE_BYTES and not line.endswith(b"\n")
            if too_long:
                self._pass_over()
            yield None if too_long else line

    def _read(self) -> bytes:
        line = self.file.readline(limits.MAX_MANIFEST_LINE_BYTES)
        self.position += len(line)
        if self.most is not None and self.position > self.most:
            raise _TooMuch(f"it expands to more than {limits.MAX_EXPANSION} times its size")
        return line

    def _pass_over(self) -> None:
        """Read on to the end of a line."""
        for _ in range(limits.MAX_PASSED_LINES):
            part = self._read()
            if not part or part.endswith(b"\n"):
                return
        raise _TooMuch(f"a line is longer than {limits.MAX_PASSED_LINES * limits.MAX_MANIFEST_LINE_BYTES} bytes")


class _TarFile(io.FileIO):
    """A tar, of which tarfile reads the headers alone: one that claims to be huge is refused before it is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most one header's bytes."""
        if size is None or not 0 <= size <= limits.MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError("a header is larger than any")
        return super().read(size)


def tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Utterance id -> (offset, size) of its audio, from the tar's headers; of two of one name the first.

    Links, folders and sparse files are no audio. Raises `ShardError` when the tar cannot be read.
    """
    members: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with (
            open_regular(path) as raw,
            _TarFile(raw.fileno(), closefd=False) as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for member in tar:
                stem, _, kind = member.name.removeprefix("./").rpartition(".")
                if member.size < 0 or member.offset_data < end:
                    raise tarfile.ReadError("its members overlap")
                whole = member.isreg() and not member.issparse()
                end = member.offset_data + member.size * whole
                if whole and kind not in ("json", "nodata", "nometa"):
                    members.setdefault(stem, (member.offset_data, member.size))
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
    except FileNotFoundError:
        raise ShardError(f"{path} does not exist") from None
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, OverflowError) as error:
        raise ShardError(f"{path} is truncated or damaged ({error}); fetch it again") from None
    return members
