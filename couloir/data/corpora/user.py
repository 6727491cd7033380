"""A person's own data: a Kaldi folder, a table of paths and transcripts, or a folder of recordings with transcripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from couloir.data.corpora.base import Corpus, Dropped, Utterance
from couloir.data.corpora.config import split_of
from couloir.data.corpora.kaldi import kaldi_folders, read_kaldi
from couloir.data.corpora.recordings import read_folder
from couloir.data.corpora.tables import read_table, split_tables
from couloir.data.split_names import DEV, TEST, TRAIN, kind_of
from couloir.errors import UserError, must_be
from couloir.progress import log
from couloir.text.languages import language_tag

UNKNOWN_LANGUAGE = "und"
Reader = Callable[[Path, str], Iterator[Utterance | Dropped]]
_ORDER = (TEST, DEV, TRAIN, "")


class UserData(Corpus):
    """Whatever ``--user-data`` names; words must have a language where they are to be ``pronounced``."""

    name = "user"
    summary = "your own recordings (--user-data PATH): Kaldi folder, TSV or CSV, wav + TextGrid, wav + txt"

    def __init__(self, path: Path | None, language: str, pronounced: bool = True) -> None:
        self.path = (path or Path()).expanduser()
        self.pronounced = pronounced
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
        for utterance in self._read():
            if self.pronounced and isinstance(utterance, Utterance) and _has_unpronounced_words(utterance):
                raise must_be("--user-language", "given, so that words can be pronounced", f"missing ({utterance.id})")
            yield utterance

    def _read(self) -> Iterator[Utterance | Dropped]:
        if self.path.is_file():
            return read_table(self.path, self.language)
        folders = kaldi_folders(self.path)
        if folders == [self.path]:
            return read_kaldi(self.path, self.language)
        if folders:
            return self._by_split(read_kaldi, folders)
        if tables := split_tables(self.path):
            return self._by_split(read_table, tables)
        return read_folder(self.path, self.language)

    def _by_split(self, read: Reader, places: Sequence[Path]) -> Iterator[Utterance | Dropped]:
        """Several folders or tables whose names prescribe the split of what is in them, tests first.

        So an utterance that is in a test and in training is of the test.
        """
        kinds = {place: kind_of(place.stem) for place in places}
        if not all(kinds.values()) and any(kinds.values()):
            names = ", ".join(place.name for place, kind in kinds.items() if not kind)
            log(f"WARNING: {self.path}: no split is named by {names}; those are split by their texts and speakers")
        for place in sorted(places, key=lambda place: (_ORDER.index(kinds[place]), place)):
            for item in read(place, self.language):
                if isinstance(item, Utterance) and not item.split and kinds[place]:
                    item = replace(item, split=split_of(place.stem))
                yield item


def _has_unpronounced_words(utterance: Utterance) -> bool:
    return utterance.language == UNKNOWN_LANGUAGE and utterance.phones is None and not utterance.ipa
