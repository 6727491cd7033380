"""A person's own data: a Kaldi folder, a table of paths and transcripts, or a folder of recordings with transcripts."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import Corpus, Utterance
from couloir.data.corpora.textgrid import utterances_of
from couloir.errors import UserError, must_be

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".aif", ".sph", ".g722")
UNKNOWN_LANGUAGE = "und"
# Field -> headings that mean it; those of Common Voice are among them.
COLUMNS = {
    "audio": ("path", "audio", "file", "wav", "filename", "audio_path", "audio_file"),
    "text": ("text", "transcript", "sentence", "transcription", "words"),
    "ipa": ("ipa", "phones", "phonemes"),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "client_id", "speaker_id", "spk"),
    "id": ("id", "utt", "utterance", "utterance_id"),
    "split": ("split",),
}


class UserData(Corpus):
    """Whatever ``--user-data`` names."""

    name = "user"
    summary = "your own recordings (--user-data PATH): Kaldi folder, TSV or CSV, wav + TextGrid, wav + txt"

    def __init__(self, path: Path | None, language: str) -> None:
        self.path = (path or Path()).expanduser()
        self.language = language

    def fetch(self, download_dir: Path) -> None:
        """There is nothing to fetch; the path must exist."""
        if not self.path.exists():
            raise UserError(f"`--user-data` {self.path} does not exist")
        if self.path.is_dir() and next(self.path.rglob("cuts.*.jsonl.gz"), None):
            raise UserError(f"{self.path} holds Shar files already; train on it with --manifest-dir {self.path}")

    def sources(self, download_dir: Path) -> list[Path]:
        """Every file."""
        return sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """Read it as what it is. Raises `UserError` where words have no known language to be pronounced in."""
        if self.path.is_file():
            found = read_table(self.path, self.language)
        elif (self.path / "wav.scp").is_file():
            found = read_kaldi(self.path, self.language)
        else:
            found = read_folder(self.path, self.language)
        for utterance in found:
            if utterance.language == UNKNOWN_LANGUAGE and utterance.phones is None and not utterance.ipa:
                raise must_be("--user-language", "given, so that words can be pronounced", f"missing ({utterance.id})")
            yield utterance


def read_kaldi(folder: Path, language: str) -> Iterator[Utterance]:
    """``wav.scp`` and ``text``, with ``segments``, ``utt2spk`` and ``utt2lang`` where they are there.

    Raises `UserError` for a missing file, one that is not UTF-8, a malformed line of segments, or an entry of wav.scp
    that is a command: nothing is executed.
    """
    recordings = _kaldi_table(folder / "wav.scp")
    texts = _kaldi_table(folder / "text")
    segments, speakers, languages = (_kaldi_table(folder / name, False) for name in ("segments", "utt2spk", "utt2lang"))
    for key, text in texts.items():
        recording, start, end = _segment(folder, key, segments[key]) if key in segments else (key, None, None)
        audio = recordings.get(recording, "")
        if audio.endswith("|"):
            raise must_be(
                f"{folder}/wav.scp: {recording}", "a path", "a command; convert the recordings to files first"
            )
        yield Utterance(
            key,
            str(_beside(folder, audio)) if audio else f"{recording} of {folder}/wav.scp",
            text,
            languages.get(key, language),
            speakers.get(key, ""),
            start=start,
            duration=None if start is None or end is None else round(end - start, 4),
        )


def _segment(folder: Path, key: str, line: str) -> tuple[str, float, float]:
    """Recording, start and end in s of a line of ``segments``, which begins with ``key``. Raises `UserError`."""
    try:
        recording, start, end = line.split()
        if not math.isfinite(float(start) + float(end)):
            raise ValueError
    except ValueError:
        expected = "UTTERANCE RECORDING START END, with times in s"
        raise must_be(f"a line of {folder}/segments", expected, f"{key} {line}") from None
    return recording, float(start), float(end)


def _text(path: Path) -> str:
    """What a file holds. Raises `UserError` where that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        actual = f"in another encoding (byte {error.start + 1} shows it)"
        raise must_be(str(path), "UTF-8", actual, "save it as UTF-8") from None


def _kaldi_table(path: Path, required: bool = True) -> dict[str, str]:
    """Lines ``key value...`` of a file."""
    if not path.is_file():
        if required:
            raise UserError(f"{path} does not exist; a Kaldi folder has wav.scp and text")
        return {}
    pairs = [line.strip().partition(" ") for line in _text(path).replace("\t", " ").splitlines()]
    return {key: value.strip() for key, _, value in pairs if key}


def read_table(path: Path, language: str) -> Iterator[Utterance]:
    """A TSV or CSV. The first line names the columns (`COLUMNS`); without names they are path and transcript.

    Paths are relative to the table or, as in Common Voice, to ``clips`` beside it.
    Raises `UserError` when it is not UTF-8, has no column of paths, or none of transcripts.
    """
    text = _text(path)
    if "\t" in text.partition("\n")[0]:
        rows = [line.split("\t") for line in text.splitlines() if line.strip()]  # quotes mean nothing in a TSV
    else:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    heading = [name.strip().lower() for name in rows[0]] if rows else []
    places = {field: at for field, names in COLUMNS.items() for at, name in enumerate(heading) if name in names}
    if "audio" in places:
        rows = rows[1:]
    elif len(heading) == 2:
        places = {"audio": 0, "text": 1}
    if "audio" not in places or not places.keys() & {"text", "ipa"}:
        raise must_be(f"the first line of {path}", "names of columns, path and text among them", ", ".join(heading))
    for row in rows:
        fields = {field: row[at].strip() for field, at in places.items() if at < len(row)}
        audio = _beside(path.parent, fields.get("audio", ""))
        yield Utterance(
            fields.get("id") or audio.stem,
            str(audio),
            fields.get("text", ""),
            fields.get("language") or language,
            fields.get("speaker", ""),
            ipa=fields.get("ipa", ""),
            split=fields.get("split", ""),
        )


def _beside(folder: Path, audio: str) -> Path:
    """A recording relative to a folder, to ``clips`` in it, or to the working directory."""
    path = Path(audio).expanduser()
    return next((p for p in (folder / path, folder / "clips" / path, path) if p.is_file()), folder / path)


def read_folder(folder: Path, language: str) -> Iterator[Utterance]:
    """Recordings, each with a TextGrid, ``.txt`` or ``.ipa`` of the same name; a subfolder is a speaker.

    Hidden files are no recordings: macOS puts a ``._x.wav`` beside every ``x.wav`` on foreign disks.
    Raises `UserError` when no recording has a transcript, or one is not UTF-8.
    """
    count = 0
    for audio in sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES):
        place = audio.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue
        speaker = place.parts[0] if len(place.parts) > 1 else ""
        whole = Utterance("-".join(place.with_suffix("").parts), str(audio), "", language, speaker)
        for utterance in _annotated(audio, whole):
            count += 1
            yield utterance
    if not count:
        raise UserError(
            f"{folder} has no recording with a transcript of the same name (x.wav with x.txt or x.TextGrid)"
        )


def _annotated(audio: Path, whole: Utterance) -> list[Utterance]:
    """The utterances of one recording; none when it has no transcript."""
    for suffix in (".TextGrid", ".textgrid"):
        if audio.with_suffix(suffix).is_file():
            return utterances_of(audio.with_suffix(suffix), whole)
    texts = {
        suffix: _text(audio.with_suffix(suffix)).strip()
        for suffix in (".txt", ".ipa")
        if audio.with_suffix(suffix).is_file()
    }
    if not texts:
        return []
    return [dataclasses.replace(whole, text=texts.get(".txt", ""), ipa=texts.get(".ipa", ""))]
