"""Where TextGrids lie inside their folder: each recording at its own place that stays, whatever else is added."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from couloir.files import name_of_id

SUFFIX = ".TextGrid"
_LONGEST_NAME = 255  # bytes, on all file systems of Linux and macOS


def textgrid_places(
    names: Sequence[str],
    root: Path | None = None,
    known: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
    suffix: str = SUFFIX,
) -> dict[str, Path]:
    """Where each recording's TextGrid lies inside their folder: no two at one place.

    Recordings below ``root`` keep their folders. Of the others, those of one name keep as many of their folders as it
    takes to distinguish them. What is still alike (a.wav beside a.flac) gets its whole name, or a number.

    Args:
        names: the recordings' paths. root: see above. known: places that recordings have from earlier runs, and keep.
        others: places of recordings that are not among ``names``: what would lie there gets its folder's name before.
        suffix: of the files, where they are no TextGrids.
    """
    known = {name: place for name, place in (known or {}).items() if place.endswith(suffix)}
    inside = _inside(names, root)
    places = {name: Path(known[name]) for name in names if name in known}
    foreign = {_key(Path(place)) for place in others}
    taken = foreign | {_key(place) for place in places.values()}
    for name in names:
        if name in places:
            continue
        path = inside[name]
        if _key(_grid(path, path.stem, suffix)) in foreign:
            path = Path((root or Path(os.path.abspath(name)).parent).resolve().name) / path
        candidates = itertools.chain((path.stem, path.name), (f"{path.name}-{n}" for n in itertools.count(2)))
        places[name] = next(grid for stem in candidates if _key(grid := _grid(path, stem, suffix)) not in taken)
        taken.add(_key(places[name]))
    return {name: places[name] for name in names}


def _inside(names: Sequence[str], root: Path | None) -> dict[str, Path]:
    inside = {name: Path(name).relative_to(root) for name in names if root and Path(name).is_relative_to(root)}
    folders: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in names:
        if name not in inside:
            path = Path(os.path.abspath(name))  # no ".." that would lead out of the TextGrids' folder
            folders.setdefault(path.stem, {})[name] = path.parts[1:-1]
    for alike in folders.values():
        wanted = len(set(alike.values()))
        depth = next(n for n in itertools.count() if len({_last(parts, n) for parts in alike.values()}) == wanted)
        inside |= {name: Path(*_last(parts, depth), Path(name).name) for name, parts in alike.items()}
    return inside


def _last(parts: tuple[str, ...], count: int) -> tuple[str, ...]:
    return parts[max(len(parts) - count, 0) :]


def _grid(path: Path, stem: str, suffix: str) -> Path:
    """The file ``stem`` beside ``path``; the name of a recording is one already, but may be too long for more."""
    fits = len(os.fsencode(stem)) <= _LONGEST_NAME - len(suffix)
    return path.with_name((stem if fits else name_of_id(stem)) + suffix)


def _key(path: Path) -> str:
    """What some file systems do not tell apart: letters' cases, and forms of one accented letter."""
    return unicodedata.normalize("NFC", str(path)).casefold()
