"""Asterisk core sounds: prompts of a telephone exchange, one trained speaker per language, G.722 at 16 kHz."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import DebianCorpus, Utterance
from couloir.texts import iterate_lines

# Notes in brackets are not spoken; `#` and `*` are, but the prompts differ in what they call these keys.
_UNSPOKEN = re.compile(r"[\[(<#*]")


class Asterisk(DebianCorpus):
    """One language of the core sounds. The transcripts are in one package, the recordings in another."""

    members = r"\.g722$|core-sounds-\w+\.txt\.gz$"

    def __init__(self, language: str, accent: str) -> None:
        self.language = language
        self.name = f"asterisk-{language}"
        self.packages = (f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-g722")
        self.voices = {language: accent}
        self.summary = f"{language} ({accent}), 1 speaker, 18 to 22 min of short prompts without phones (11 MB)"

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """One per prompt. The key of a transcript is the path below the voice's folder."""
        documents, sounds = (self.folder(download_dir, package) for package in self.packages)
        (voice,) = (sounds / "usr/share/asterisk/sounds").iterdir()
        table = documents / f"usr/share/doc/{self.packages[0]}/core-sounds-{self.language}.txt.gz"
        for line in iterate_lines(table):
            key, colon, text = line.partition(":")
            audio = voice / f"{key.strip()}.g722"
            if colon and not line.startswith(";") and not _UNSPOKEN.search(text) and audio.is_file():
                yield Utterance(key.strip().replace("/", "-"), str(audio), text.strip(), self.language, voice.name)
