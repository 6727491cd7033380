"""Bytes of a recording: from a file, a pipe, an object that is read like a file, or memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from couloir.audio.containers import container_of
from couloir.audio.errors import AudioError
from couloir.limits import MAX_AUDIO_BYTES, MAX_UNKNOWN_BYTES

_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


class FileView:
    """A file that is sliced like bytes and read only where it is: headers of large files cost nothing."""

    def __init__(self, handle: int, size: int) -> None:
        self.handle, self._size = handle, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        parts = []
        while start < stop and (found := os.pread(self.handle, min(stop - start, 1 << 30), start)):
            parts.append(found)
            start += len(found)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class OpenFile:
    """A regular file, open for reading: ``with OpenFile(path, name) as view``.

    Nothing else is opened: a device may never end, a pipe may never begin, and opening one can have effects.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self._path, self._name = path, name

    def __enter__(self) -> FileView:
        try:
            self._refuse_others(os.stat(self._path))
            self._handle = os.open(self._path, os.O_RDONLY | _NO_WAITING)
        except FileNotFoundError:
            raise AudioError(f"audio file {self._name} does not exist") from None
        except ValueError:  # NUL in its name
            raise AudioError(f"audio file {self._name!r} does not exist") from None
        except OSError as error:
            raise AudioError(f"audio file {self._name} cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(self._handle)
            self._refuse_others(found)
            return FileView(self._handle, found.st_size)
        except BaseException:
            os.close(self._handle)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def _refuse_others(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise AudioError(f"audio file {self._name} cannot be read: it must be a regular file, but is {kind}")
        if found.st_size > MAX_AUDIO_BYTES:
            raise AudioError(
                f"audio file {self._name} must be of at most {MAX_AUDIO_BYTES} bytes, but is of {found.st_size}"
            )


def bytes_of_file(path: str | Path, name: str) -> bytes:
    """A regular file whole. Raises `AudioError`."""
    with OpenFile(path, name) as view:
        if len(view) > MAX_UNKNOWN_BYTES and not container_of(view, str(path)):
            raise AudioError(f"{name} is not audio that can be read (its first bytes name no container)")
        try:
            return view[:]
        except OSError as error:
            raise AudioError(f"audio file {name} cannot be read: {error.strerror}") from None


def is_pipe(path: str | Path) -> bool:
    """Whether a path is a pipe, as ``/dev/stdin`` may be and a shell's ``<(...)`` is."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def bytes_of_pipe(path: str | Path, name: str) -> bytes:
    """All that comes out of a pipe. Raises `AudioError`."""
    try:
        with open(path, "rb") as file:
            return bytes_of_stream(file, name)
    except OSError as error:
        raise AudioError(f"audio file {name} cannot be read: {error.strerror}") from None


def bytes_of_stream(file: Any, name: str) -> bytes:
    """What an object with ``read`` gives from where it stands. Raises `AudioError`."""
    parts, total = [], 0
    while part := file.read(1 << 24):
        if isinstance(part, str):
            raise AudioError(f'{name} must be opened in binary mode ("rb"), but gives text')
        parts.append(bytes(part))
        total += len(part)
        if total > MAX_AUDIO_BYTES:
            raise AudioError(f"{name} must be of at most {MAX_AUDIO_BYTES} bytes, but is of more")
    if not parts and callable(getattr(file, "tell", None)) and _position(file):
        raise AudioError(f"{name} gives no bytes, since it stands at its end; call its seek(0) first")
    return b"".join(parts)


def _position(file: Any) -> int:
    try:
        return int(file.tell())
    except OSError:
        return 0
