"""The recordings that a command line means: the files it names, and what its folders hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from couloir.audio import AUDIO_SUFFIXES
from couloir.errors import UserError

_OF_SYSTEMS = ("__MACOSX",)  # what archives of macOS hold beside the files: named as they are, and no sound
_STANDARD_INPUT = Path("/dev/stdin")
_LONGEST_SUFFIX, _MOST_KINDS = 12, 10


@dataclass
class Found:
    """What was found.

    Attributes:
        files: recordings, each once. passed: of the other files in folders, how many of which suffix or kind.
        unread: folders that cannot be read -> why.
    """

    files: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)

    def passed_over(self) -> str:
        """What was passed over, in words; "" if nothing was."""
        kinds = sorted(self.passed.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS]]
        if len(kinds) > _MOST_KINDS:
            parts.append(f"{sum(count for _, count in kinds[_MOST_KINDS:])} others")
        return ", ".join(parts)


def find_audio(places: Sequence[Path], output: Path | None = None) -> Found:
    """The files that were named, and the recordings in the folders that were, sorted.

    Folders are searched to their depth, linked ones too, each once; hidden files and folders are not.

    Args:
        places: files and folders, - for the standard input. output: what is written, which is not looked at where it
            lies in such a folder.

    Raises:
        UserError: a place does not exist, or a folder holds no recording.
    """
    found, files = Found(), dict[str, Path]()
    skipped = _real(output) if output else ""
    for place in places:
        if str(place) == "-" and not place.exists():
            place = _STANDARD_INPUT
        if place.is_dir():
            inside = sorted(_inside(place, found, skipped))
            if not inside and not found.unread:
                names = ", ".join(AUDIO_SUFFIXES[:6])
                others = f"; passed over: {found.passed_over()}" if found.passed else ""
                raise UserError(f"folder {place} holds no recording ({names}, ...){others}")
            for path in inside:
                files.setdefault(place_of(path), path)
        elif place.exists():
            files.setdefault(place_of(place), place)
        else:
            raise UserError(f"{place} does not exist")
    found.files = list(files.values())
    return found


def place_of(path: str | Path) -> str:
    """Where a recording lies, however its path is spelt: links of folders are resolved, its own name stays."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _inside(top: Path, found: Found, skipped: str) -> Iterator[Path]:
    """The recordings below a folder. Linked folders come after all others: what lies in both is named without links."""
    waiting, links, seen = [top], list[Path](), set[tuple[int, int]]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(folder))
        except OSError as error:
            found.unread[str(folder)] = f"folder {folder} cannot be read ({error.strerror})"
            continue
        for path in (folder / name for name in names):
            if path.name.startswith(".") or path.name in _OF_SYSTEMS:
                found.passed["hidden"] += 1
            elif skipped and _real(path) == skipped:
                continue
            elif os.path.isdir(path):
                (links if path.is_symlink() else waiting).append(path)
            elif path.suffix.lower() not in AUDIO_SUFFIXES:
                found.passed[_kind(path)] += 1
            elif os.path.isfile(path):
                yield path
            else:
                found.passed["broken links" if path.is_symlink() else "pipes and devices"] += 1


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if 1 < len(suffix) <= _LONGEST_SUFFIX else "without a suffix" if not suffix else "of long suffixes"
