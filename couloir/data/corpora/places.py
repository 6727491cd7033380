"""Recordings that tables name: relative to several folders, and by names that another system wrote otherwise."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from couloir.errors import must_be
from couloir.files import same_name


def beside(folder: Path, audio: str, *others: Path) -> Path:
    r"""A recording relative to a folder, to ``clips`` in it, to ``others``, or to the working directory.

    Where there is none of that very name, ``\`` separates folders, and names are the same that differ in the form or
    the case of their letters: tables of Windows, and of macOS, come with such.
    """
    path = Path(audio)
    if audio.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise must_be("a path", "of a user's folder that is known", f"`{audio[:100]}`") from None
    bases = (folder, folder / "clips", *others, Path())
    exact = next((base / path for base in bases if os.path.isfile(base / path)), None)
    alike = (found for base in bases if (found := _alike(base, Path(audio.replace("\\", "/")))))
    return exact or next(alike, folder / path)


def _alike(base: Path, path: Path) -> Path | None:
    """The only file that a path may mean, name by name."""
    found = base / path.anchor
    for name in path.parts[1:] if path.anchor else path.parts:
        if os.path.lexists(found / name):
            found /= name
        elif len(names := _names(found).get(same_name(name), [])) == 1:
            found /= names[0]
        else:
            return None
    return found if os.path.isfile(found) else None


@lru_cache(maxsize=4096)
def _names(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            names.setdefault(same_name(name), []).append(name)
    except (OSError, ValueError):
        pass
    return names
