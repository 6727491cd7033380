"""A person's folder of recordings, each with a transcript beside it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from couloir.audio import AUDIO_SUFFIXES
from couloir.data.corpora.annotated import utterances_by, utterances_of
from couloir.data.corpora.base import NO_TRANSCRIPT, UNREADABLE, Dropped, Utterance
from couloir.data.corpora.config import split_of
from couloir.data.corpora.labels import PHN, SUBTITLES, annotation_of, rows_of
from couloir.data.corpora.prompts import Prompts
from couloir.data.corpora.textgrid import SILENCES
from couloir.data.split_names import innermost, kinds_in
from couloir.errors import UserError, must_be
from couloir.files import same_name
from couloir.progress import log
from couloir.texts import read_lines

WORDS, IPA, GRID = (".txt", ".lab", ".trn", ".wrd"), ".ipa", ".textgrid"
_OTHERS = (".eaf", ".json", ".ctm", ".stm", ".tg", ".docx", ".csv", ".tsv", ".lrc", ".mlf")
_TIMIT = re.compile(r"0 \d{4,} (?=\S)", re.ASCII)
_TRN_ID = re.compile(r"\s*\([^()\s]+\)\s*$")


_TRANSCRIPTS = frozenset((*WORDS, IPA, GRID, PHN, *SUBTITLES))


@dataclass
class _Found:
    """What a folder holds: recordings with the files beside each, by lower-case suffix; and what is passed over."""

    recordings: list[tuple[Path, dict[str, Path]]] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    foreign: int = 0

    def prompts(self) -> Prompts:
        """What lists say of the recordings that have no transcript beside them."""
        alone = {same_name(audio.stem) for audio, files in self.recordings if not files.keys() & _TRANSCRIPTS}
        prompts = Prompts(alone)
        prompts.read(sorted(set(self.texts) - {path for _, files in self.recordings for path in files.values()}))
        return prompts


def read_folder(folder: Path, language: str) -> Iterator[Utterance | Dropped]:
    """Recordings, each with a TextGrid, ``.txt``, ``.lab``, ``.trn`` or ``.ipa`` of its name; a subfolder is a speaker.

    Words may also stand in lists that lie elsewhere in the folder (`couloir.data.corpora.prompts`).
    ``x.wav.txt`` is a name of x.wav too, and letters' case does not matter. A folder that names a split prescribes it.
    Hidden files and what macOS leaves (``._x.wav``, ``__MACOSX``) are no recordings. A recording without a transcript,
    or with one that cannot be read, is left out by name.

    Raises:
        UserError: no recording has a transcript.
    """
    found = _search(folder)
    prompts = found.prompts()
    usable = False
    for audio, files in found.recordings:
        place = audio.relative_to(folder)
        split = innermost(place.parts[:-1])
        # A folder that names a split is nobody's name.
        speaker = next((name for name in place.parts[:-1] if not kinds_in(name)), "")
        id = "-".join((*place.parts[:-1], place.stem))
        whole = Utterance(id, str(audio), "", language, speaker, split=split_of(split))
        try:
            for item in _transcribed(audio, files, prompts, whole):
                usable = usable or isinstance(item, Utterance) or item.reason != NO_TRANSCRIPT
                yield item
        except UserError as error:
            usable = True
            yield Dropped(id, UNREADABLE, str(error))
    if found.foreign:
        log(f"{folder}: {found.foreign} files that macOS left (._NAME, __MACOSX) are passed over")
    _say_what_is_default(folder, found)
    if not usable:
        why = f"{folder} has no recording with a transcript of the same name (x.wav with x.txt or x.TextGrid)"
        tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".tsv", ".csv"))
        raise UserError(why + (f"; a table is named itself: --user-data {tables[0]}" if tables else ""))


def _search(folder: Path) -> _Found:
    found = _Found()
    for root, folders, names in os.walk(folder, followlinks=True):
        if "__MACOSX" in folders:
            found.foreign += sum(len(inside) for _, _, inside in os.walk(Path(root, "__MACOSX")))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found.foreign += sum(name.startswith("._") for name in names)
        names = sorted(name for name in names if not name.startswith("."))
        texts: dict[str, dict[str, Path]] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in AUDIO_SUFFIXES:
                found.texts.append(Path(root, name))
                texts.setdefault(same_name(stem), {}).setdefault(suffix.lower(), Path(root, name))
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES:
                beside = {**texts.get(same_name(name), {}), **texts.get(same_name(stem), {})}
                found.recordings.append((Path(root, name), beside))
    found.recordings.sort()
    return found


def _say_what_is_default(folder: Path, found: _Found) -> None:
    """Folders that name no split, beside such that do: what is in them is split by chance, which is said aloud."""
    splits = Counter(bool(innermost(audio.relative_to(folder).parts[:-1])) for audio, _ in found.recordings)
    if splits[True] and splits[False]:
        log(
            f"WARNING: {folder}: {splits[True]} recordings lie in folders named train, dev or test, {splits[False]} do"
            " not; those are split by their texts and speakers, and most are trained on"
        )


def _transcribed(
    audio: Path, files: Mapping[str, Path], prompts: Prompts, whole: Utterance
) -> Iterator[Utterance | Dropped]:
    """The utterances of one recording."""
    if GRID in files:
        yield from utterances_of(files[GRID], whole)
        return
    words = next((files[suffix] for suffix in WORDS if suffix in files), None)
    if labels := annotation_of(audio, files, words):
        text = _words(words) if words and not labels.utterances else ""
        yield from utterances_by([labels], audio, replace(whole, text=text))
        return
    text = _words(words) if words else "" if files.keys() & _TRANSCRIPTS else prompts.words(audio)
    ipa = " ".join(read_lines(files[IPA])).strip() if IPA in files else ""
    if text or ipa:
        yield replace(whole, text=text, ipa=ipa)
        return
    beside = [path.name for suffix, path in files.items() if suffix in (*WORDS, *SUBTITLES, IPA)]
    others = [path.name for suffix, path in files.items() if suffix in _OTHERS]
    why = f"{beside[0]} is empty" if beside else f"{others[0]} is not read" if others else "none is beside it"
    yield Dropped(whole.id, NO_TRANSCRIPT, f"{audio}: {why}; .TextGrid, .txt, .lab, .trn, .ipa, .phn and .srt are")


def _words(path: Path) -> str:
    """The words of a transcript. Raises `UserError` where it holds times, or many utterances."""
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    if path.suffix.lower() == ".wrd" and (rows := rows_of(lines)):
        return " ".join(label for _, _, label in rows if label.lower() not in SILENCES)
    if _has_times(lines):
        raise must_be(str(path), "words alone", "lines of times and labels", "make a TextGrid of it")
    if path.suffix.lower() == ".trn" and lines:
        if sum(bool(_TRN_ID.search(line)) for line in lines) > 1:
            raise must_be(str(path), "the transcript of one recording", f"{len(lines)} lines with ids")
        lines = [_TRN_ID.sub("", line) for line in lines]
    return _TIMIT.sub("", " ".join(lines))  # TIMIT's begin with the first and last sample


def _has_times(lines: Sequence[str]) -> bool:
    """Whether lines are times and labels; one of TIMIT's, with samples, is a text, and so are numbers alone."""
    rows = rows_of(lines)
    try:
        forward = all(float(begin) <= float(end) for begin, end, _ in rows)
    except ValueError:
        return False
    with_letters = any(any(map(str.isalpha, label)) for _, _, label in rows)
    return forward and with_letters and (len(rows) > 1 or "." in rows[0][0] + rows[0][1])
