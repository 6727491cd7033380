"""Files are written beside their final name and moved into place: a half-written one is never taken for a whole one."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from couloir.errors import UserError, must_be

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a file system that has no room left, for this person at least."""
ANY_NAME = "surrogateescape"
"""How a text that holds names of files is coded: one that is no UTF-8 keeps its bytes."""


@contextmanager
def writing_to(place: str | Path) -> Iterator[None]:
    """What cannot be written inside, on a full disk for one, becomes a `UserError` that names ``place``.

    A pipe that nobody reads any more stays a `BrokenPipeError`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror or error}); {remedy(error)}") from None


def remedy(error: OSError) -> str:
    """What a person can do about a file that cannot be written."""
    return "free some space, or give another place" if error.errno in FULL else "give another place"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it is moved to ``path`` on success and removed on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may have one number, and a long name has no room for more.
    temporary = path.with_name(f".{uuid4().hex[:16]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", errors: str | None = None) -> Iterator[IO[Any]]:
    """Open ``path`` for writing; its content appears all at once, flushed to disk, or not at all."""
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary, open(temporary, mode, encoding=encoding, errors=errors) as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


_LONGEST_NAME = 160  # bytes: file systems take 255, and suffixes are put behind
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]|conin\$|conout\$)\s*", re.IGNORECASE)
_RESERVED = frozenset('<>:"/\\|?*$`')
_NOT_SHOWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def name_of_id(id: str, taken: set[str] | None = None, blank: str = " ") -> str:
    """The name of a file for an id that comes from elsewhere: one name, never a path, valid on every system.

    An id that is such a name already stays as it is. Of any other, what cannot stand in a name becomes ``-``, what is
    too long is cut off, and a digest of the id is put behind, so different ids have different names.

    Args:
        id: anything. taken: names in use in this folder; the new one is added. Names that differ in case or normal form
            alone are one there, as on some file systems. blank: what stands for blanks.
    """
    text = re.sub(r"\s", blank, unicodedata.normalize("NFC", id[: 4 * _LONGEST_NAME]))
    name = "".join("-" if c in _RESERVED or unicodedata.category(c) in _NOT_SHOWN else c for c in text)
    name = name.strip().rstrip(".")
    if name[:1] in (".", "-", "~") or _DEVICES.fullmatch(name.partition(".")[0]):
        name = "_" + name.lstrip(".-~")
    if name != id.replace(" ", blank) or not name or len(name.encode()) > _LONGEST_NAME:
        name = _with_digest(name, id)
    if taken is not None:
        first, copies = name, itertools.count(1)
        while same_name(name) in taken:
            name = _with_digest(first, f"{id}\0{next(copies)}")
        taken.add(same_name(name))
    return name


def _with_digest(name: str, id: str) -> str:
    digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    kept = name.encode()[: _LONGEST_NAME - len(digest) - 1].decode(errors="ignore").rstrip(" .")
    return f"{kept}-{digest}" if kept else digest


def same_name(name: str) -> str:
    """What names have in common that some file systems take for one: letters' case and form do not matter."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def place_in(folder: Path, *names: str) -> Path:
    """A file or folder inside ``folder`` that may be written. The folder itself may be a link, nothing below it.

    Raises `UserError` where a link leads out of the folder: what a folder holds does not say where files go.
    """
    path = folder.joinpath(*names)
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()) or path == folder:
        raise must_be(str(path), f"inside {folder}", f"a link to {found}", "remove it, or name another folder")
    return path


def may_be_read(path: str, folder: Path) -> bool:
    """Whether a path that the configuration in ``folder`` names may be read without being given as a flag.

    A configuration may come from elsewhere: what it names is read inside its folder and the working folder, following
    links, and nothing is ever written where it says.
    """
    try:
        found, here = Path(path).resolve(), Path.cwd()
        places = [folder.resolve(), *([here] if here != Path(here.anchor) else [])]
    except (OSError, ValueError, RuntimeError):
        return False
    return any(found.is_relative_to(place) for place in places)
