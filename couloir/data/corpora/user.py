"""A person's own data: a Kaldi folder, a table of paths and transcripts, or a folder of recordings with transcripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import Corpus, Dropped, Utterance
from couloir.data.corpora.kaldi import read_kaldi
from couloir.data.corpora.recordings import read_folder
from couloir.data.corpora.tables import read_table
from couloir.errors import UserError, must_be
from couloir.text.languages import language_tag

UNKNOWN_LANGUAGE = "und"


class UserData(Corpus):
    """Whatever ``--user-data`` names."""

    name = "user"
    summary = "your own recordings (--user-data PATH): Kaldi folder, TSV or CSV, wav + TextGrid, wav + txt"

    def __init__(self, path: Path | None, language: str) -> None:
        self.path = (path or Path()).expanduser()
        self.language = language_tag(language) or UNKNOWN_LANGUAGE

    def fetch(self, download_dir: Path) -> None:
        """There is nothing to fetch; the path must exist."""
        if not self.path.exists():
            raise UserError(f"`--user-data` {self.path} does not exist")
        if self.path.is_dir() and next(self.path.rglob("cuts.*.jsonl.gz"), None):
            raise UserError(f"{self.path} holds Shar files already; train on it with --manifest-dir {self.path}")

    def sources(self, download_dir: Path) -> list[Path]:
        """Every file."""
        return sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]

    def utterances(self, download_dir: Path) -> Iterator[Utterance | Dropped]:
        """Read it as what it is. Raises `UserError` where words have no known language to be pronounced in."""
        if self.path.is_file():
            found = read_table(self.path, self.language)
        elif (self.path / "wav.scp").is_file():
            found = read_kaldi(self.path, self.language)
        else:
            found = read_folder(self.path, self.language)
        for utterance in found:
            if isinstance(utterance, Utterance) and _has_unpronounced_words(utterance):
                raise must_be("--user-language", "given, so that words can be pronounced", f"missing ({utterance.id})")
            yield utterance


def _has_unpronounced_words(utterance: Utterance) -> bool:
    return utterance.language == UNKNOWN_LANGUAGE and utterance.phones is None and not utterance.ipa
