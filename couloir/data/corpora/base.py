"""What a corpus builder is, and the utterances that it yields."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from couloir.data.corpora.debian import fetch_package, unpack, unpacked_folder


class Phone(NamedTuple):
    """A phone and when it is spoken: IPA symbol, start in s, duration in s."""

    symbol: str
    start: float
    duration: float


@dataclass(frozen=True)
class Utterance:
    """An utterance between the stages of data preparation.

    Attributes:
        id: unique within its corpus; becomes a file name in a tar, so only letters, digits and ``._-``.
        audio: path of the recording; start: where in it the utterance begins, in s, or None when it is all of it;
        duration: in s, given with start; None for all that follows, which the manifests stage reads from its header.
        text: orthographic transcript, as G2P should read it; may be empty where phones or ipa are given.
        language: ISO 639 tag; speaker: name, unique within the corpus, or "" where not known.
        phones: gold phones with their times, in IPA, silences left out; None where they are not known.
        ipa: IPA transcript; a builder gives it only where people wrote it, else the phones stage fills it in.
        spelling: where words or characters are to be recognised, the transcript as a model learns it; see `target`.
        split: one that the corpus itself prescribes (``train``, ``dev``, ``dev-clean``, ``test-other``...), or "".
    """

    id: str
    audio: str
    text: str
    language: str
    speaker: str
    phones: tuple[Phone, ...] | None = None
    ipa: str = ""
    start: float | None = None
    duration: float | None = None
    split: str = ""
    spelling: str = ""

    @property
    def target(self) -> str:
        """What a model is to recognise, once the second stage has run."""
        return self.spelling or self.ipa

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; defaults are left out."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {key: value for key, value in values.items() if value != defaults[key]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Utterance:
        """The inverse of `to_dict`."""
        phones = values.get("phones")
        return cls(**{**values, "phones": phones and tuple(Phone(*phone) for phone in phones)})


@dataclass(frozen=True)
class Dropped:
    """An utterance that is left out: its id, a reason that many share, and the detail."""

    id: str
    reason: str
    detail: str = ""


NO_TRANSCRIPT, UNREADABLE, REPEATED = "no transcript", "cannot be read", "another utterance has its id"


class Corpus(ABC):
    """A source of utterances. A builder names itself and implements `fetch`, `utterances` and `sources`.

    Attributes:
        name: what ``--corpora`` calls it; summary: one line for ``--list``.
        nj: processes that it may use.
        voices: language -> espeak voice that pronounces its words, where its accent is not the usual one.
    """

    name: str
    summary: str
    nj: int = 1
    voices: Mapping[str, str] = {}

    @abstractmethod
    def fetch(self, download_dir: Path) -> None:
        """Bring everything below ``download_dir``. Safe to repeat and to kill.

        Raises `UserError` when this machine cannot get it.
        """

    @abstractmethod
    def utterances(self, download_dir: Path) -> Iterator[Utterance | Dropped]:
        """Every transcribed utterance, in a fixed order, and what is none by name.

        Filtering and splitting are not a builder's business; nor is the end of a recording, which is looked up later.
        """

    @abstractmethod
    def sources(self, download_dir: Path) -> list[Path]:
        """Files or folders whose change means that the manifest has to be made again."""


class DebianCorpus(Corpus):
    """A corpus in Debian packages, which are downloaded and unpacked but not installed.

    Attributes:
        packages: names of the packages; members: regular expression of the files to unpack, ``./usr/...`` paths.
    """

    packages: tuple[str, ...]
    members: str

    def fetch(self, download_dir: Path) -> None:
        """Download and unpack the packages that are not there yet."""
        for package in self.packages:
            if not self.folder(download_dir, package).is_dir():
                unpack(fetch_package(package, download_dir), self.folder(download_dir, package), self.members)

    def sources(self, download_dir: Path) -> list[Path]:
        """The unpacked folders."""
        return [self.folder(download_dir, package) for package in self.packages]

    def folder(self, download_dir: Path, package: str = "") -> Path:
        """Where a package (by default the only or first one) lies unpacked."""
        return unpacked_folder(download_dir, package or self.packages[0], self.members)
