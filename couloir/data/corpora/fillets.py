"""Fish Fillets: the spoken dialogues of a game, lively speech in Czech and Dutch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import DebianCorpus, Utterance

_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOGUE = re.compile(
    r'dialogId\(\s*"([^"]+)"\s*,\s*"([^"]*)"[^\n]*\n\s*dialogStr\(((?:\s*"(?:[^"\\]|\\.)*"\s*(?:\.\.)?)+)\)'
)
_TWO_FISH = ("font_small", "font_big")


class Fillets(DebianCorpus):
    """One language of the game. The font of a dialogue tells who speaks it."""

    members = r"/script/.*dialogs_\w+\.lua$|/sound/.*\.ogg$"

    def __init__(self, language: str, minor_voices: bool, summary: str) -> None:
        self.language = language
        self.minor_voices = minor_voices
        self.name = f"fillets-{language}"
        self.packages = ("fillets-ng-data", f"fillets-ng-data-{language}")
        self.summary = summary

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """One per dialogue that was recorded: ``script/LEVEL/dialogs_LL.lua`` and ``sound/LEVEL/LL/ID.ogg``."""
        scripts, sounds = (self.folder(download_dir, name) / "usr/share/games/fillets-ng" for name in self.packages)
        for script in sorted((scripts / "script").rglob(f"dialogs_{self.language}.lua")):
            level = script.parent.relative_to(scripts / "script")
            for key, font, strings in _DIALOGUE.findall(script.read_text(encoding="utf-8")):
                audio = sounds / "sound" / level / self.language / f"{key}.ogg"
                text = re.sub(r"\\(.)", r"\1", "".join(re.findall(_STRING, strings)))
                if audio.is_file():
                    id = f"{'-'.join(level.parts)}-{key}"
                    yield Utterance(id, str(audio), text, self.language, self._speaker(font))

    def _speaker(self, font: str) -> str:
        """The speaker, or "" (not known) where several share a font or one plays many parts."""
        if font in _TWO_FISH or (self.minor_voices and font != "font_both"):
            return font.removeprefix("font_")
        return ""
