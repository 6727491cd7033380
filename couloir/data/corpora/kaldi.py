"""A person's Kaldi folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from couloir.data.corpora.base import NO_TRANSCRIPT, UNREADABLE, Dropped, Utterance
from couloir.data.corpora.keyed import normal_key, read_keyed
from couloir.data.corpora.places import beside
from couloir.data.corpora.times import seconds, span
from couloir.errors import UserError, must_be
from couloir.text.languages import language_tag
from couloir.texts import split_fields

Table = Mapping[str, str]
_COMMAND = re.compile(r"\|\s*$|^\s*\|")
_OUTER = 3
"""Paths are relative to where a recipe runs: ``data/train/wav.scp`` and ``dump/raw/train/wav.scp`` lie in it."""
_ORDER = "UTTERANCE RECORDING START END, with times in s"


def read_kaldi(folder: Path, language: str) -> Iterator[Utterance | Dropped]:
    """``wav.scp`` and ``text``, with ``segments``, ``utt2spk`` and ``utt2lang`` where they are there.

    A transcript whose recording or times cannot be had is left out by name, and so is a recording or segment without
    one. Commands in wav.scp are not executed.

    Raises:
        UserError: a file is missing, is not UTF-8, or has a key twice.
    """
    recordings, texts = _table(folder, "wav.scp"), _table(folder, "text")
    segments, speakers, languages = (_table(folder, name, False) for name in ("segments", "utt2spk", "utt2lang"))
    for key, text in texts.items():
        spoken_in = language_tag(languages[key]) if key in languages else language
        try:
            whole = Utterance(key, "", text, spoken_in, speakers.get(key, ""))
            found = _located(folder, whole, segments.get(key), recordings)
            yield found if text else Dropped(key, NO_TRANSCRIPT, f"its line of {folder}/text has no words")
        except UserError as error:
            yield Dropped(key, UNREADABLE, str(error))
    used = {normal_key("".join(split_fields(line)[:1])) for line in segments.values()}
    for key in (*(key for key in segments if key not in texts), *recordings.keys() - texts.keys() - used):
        yield Dropped(key, NO_TRANSCRIPT, f"{folder}/text has no line of it")


def kaldi_folders(path: Path) -> list[Path]:
    """A Kaldi folder, or those inside the ``data`` of a recipe, ``train``, ``dev``...; [] where there is none."""
    return [path] if (path / "wav.scp").is_file() else [found.parent for found in sorted(path.glob("*/wav.scp"))]


def _table(folder: Path, name: str, required: bool = True) -> Table:
    path = folder / name
    if path.exists():
        return read_keyed(path)
    if required:
        raise UserError(f"{path} does not exist; a Kaldi folder has wav.scp and text")
    return {}


def _located(folder: Path, whole: Utterance, segment: str | None, recordings: Table) -> Utterance:
    """The utterance with its recording, and where in it. Raises `UserError`."""
    recording = whole.id
    if segment is not None:
        fields = split_fields(segment)
        line = f"the line of {whole.id} in {folder}/segments"
        if len(fields) != 3:
            raise must_be(line, _ORDER, f"{whole.id} {segment}")
        recording = normal_key(fields[0])
        if recording not in recordings and whole.id in recordings:
            raise must_be(line, _ORDER, f"with the recording first: {whole.id} {segment}")
        start, end = (seconds(text, f"a time in {line}") for text in fields[1:])
        first, duration = span(start, end, whole.id)
        whole = replace(whole, start=first, duration=duration)
    audio = recordings.get(recording, "")
    if not audio:
        raise must_be(f"the recording {recording} of {whole.id}", f"in {folder}/wav.scp", "not there")
    if _COMMAND.search(audio):
        remedy = "convert the recordings to files first"
        raise must_be(f"{folder}/wav.scp: {recording}", "a path", "a command", remedy)
    return replace(whole, audio=str(beside(folder, audio, *folder.absolute().parents[:_OUTER])))
