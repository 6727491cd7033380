"""Lists of transcripts in a folder of recordings: LibriSpeech's ``x.trans.txt``, VoxForge's PROMPTS, AISHELL's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from couloir.audio import AUDIO_SUFFIXES
from couloir.errors import UserError, must_be
from couloir.files import same_name
from couloir.texts import read_lines, split_fields

_FESTVOX = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
_LETTERS = re.compile(r"\w+")
_SUFFIXES = (".txt", ".trn", ".data", ".prompts", "")
_FEWEST_NAMED = 0.5


@dataclass
class Prompts:
    """Transcripts by the names of their recordings.

    Attributes:
        recordings: names (`couloir.files.same_name`) of those without a transcript beside them.
    """

    recordings: set[str]
    _found: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)

    def read(self, paths: Iterable[Path]) -> None:
        """Take the lines of lists: a recording's name, which may be a path, and its words.

        A list is a text of which half the lines, at least, begin with the name of a recording. What cannot be read is
        no list.
        """
        for path in paths if self.recordings else ():
            if path.suffix.lower() not in _SUFFIXES:
                continue
            try:
                rows = [_row(line) for line in read_lines(path) if line.strip()]
            except (UserError, OSError):
                continue
            named = [(key, text) for key, text in rows if key in self.recordings and text]
            if named and len(named) >= _FEWEST_NAMED * len(rows):
                for key, text in named:
                    self._found.setdefault(key, []).append((path, text))

    def words(self, audio: Path) -> str:
        """The words of a recording in the list that lies nearest; "" where no list names it.

        Raises `UserError` where two of these have different words.
        """
        found = self._found.get(same_name(audio.stem), [])
        near = max((_nearness(path, audio) for path, _ in found), default=0)
        nearest = [(path, text) for path, text in found if _nearness(path, audio) == near]
        texts = {" ".join(_LETTERS.findall(text)).casefold() for _, text in nearest}
        if len(texts) > 1:  # VoxForge has a list in capitals, and one with commas
            lists = " and ".join(dict.fromkeys(str(path) for path, _ in nearest))
            raise must_be(f"the transcript of {audio}", "the same in all lists", f"different in {lists[:500]}")
        return nearest[0][1] if nearest else ""


def _row(line: str) -> tuple[str, str]:
    """The name of a recording, and its words."""
    match = _FESTVOX.fullmatch(line.strip())
    name, text = match.groups() if match else (*split_fields(line, 2), "", "")[:2]
    path = PurePath(name.replace("\\", "/"))
    return same_name(path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name), text


def _nearness(one: Path, other: Path) -> int:
    """More for files that share more folders."""
    return len(Path(os.path.commonpath([one, other])).parts)
