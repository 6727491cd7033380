"""Tux Paint: what stamps are called, spoken in eleven languages; very short utterances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import DebianCorpus, Utterance
from couloir.texts import read_lines

LANGUAGES = ("bg", "be", "ca", "da", "el", "en", "es", "fr", "nl", "ro", "ru")


class TuxPaint(DebianCorpus):
    """The stamps' descriptions. Who speaks is not recorded; one or two people per language do."""

    name = "tuxpaint"
    summary = "bg be ca da el en es fr nl ro ru, 2.8 h of single words and phrases without phones (161 MB)"
    packages = ("tuxpaint-stamps-default",)
    members = r"_desc\w*\.ogg$|/stamps/.*\.txt$"

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """One per stamp and language: ``X.txt`` has a line ``LL.utf8=text``, ``X_desc_LL.ogg`` is its recording."""
        stamps = self.folder(download_dir) / "usr/share/tuxpaint/stamps"
        for table in sorted(stamps.rglob("*.txt")):
            lines = read_lines(table, "replace")
            texts = dict(line.split(".utf8=", 1) for line in lines[1:] if ".utf8=" in line)
            texts["en"] = lines[0] if lines else ""
            stamp = "-".join(table.relative_to(stamps).with_suffix("").parts)
            for language in LANGUAGES:
                audio = table.with_name(table.stem + ("_desc" if language == "en" else f"_desc_{language}") + ".ogg")
                text = texts.get(language, "").strip(" |\t")
                if text and audio.is_file():
                    yield Utterance(f"{language}-{stamp}", str(audio), text, language, language)
