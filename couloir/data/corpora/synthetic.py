"""Synthetic speech: espeak-ng reads sampled sentences in many voices, and says when each phone is spoken.

It is made in pieces of at most ten minutes, each by a separate process, so a run that is stopped loses one piece.
The same hours and languages always give the same speech.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from couloir.data.corpora.base import Corpus, Phone, Utterance
from couloir.data.corpora.folders import whole_folder
from couloir.data.corpora.sentences import sentences
from couloir.errors import UserError
from couloir.progress import log, track
from couloir.text.g2p import Espeak
from couloir.text.languages import VOICES
from couloir.texts import read_lines

SPEAKERS = tuple(f"{sex}{i}" for sex, count in (("f", 5), ("m", 8)) for i in range(1, count + 1))  # espeak's variants
PIECE_S = 600
_SENTENCES_PER_PIECE = 600
_TABLE = "utterances.jsonl"
_FOLDER = "synthetic-1"  # to be counted up when the speech that is made changes


class Synthetic(Corpus):
    """Speech by espeak-ng.

    Args:
        hours: amount over all languages; languages: ISO 639 tags that both espeak and the sentences have.
    """

    name = "synthetic"
    summary = (
        "espeak-ng, any language and amount (--hours, --synthetic-languages), 13 voices each, timed phones; offline"
    )

    def __init__(self, hours: float, languages: tuple[str, ...]) -> None:
        self.hours = hours
        self.languages = languages

    def _pieces(self, download_dir: Path) -> Iterator[tuple[Path, str, int, int]]:
        """(folder, language, number, seconds) of each piece."""
        seconds = round(self.hours * 3600 / len(self.languages))
        for language in self.languages:
            for number, start in enumerate(range(0, seconds, PIECE_S)):
                length = min(PIECE_S, seconds - start)
                yield download_dir / _FOLDER / f"{language}-{number:04d}-{length}s", language, number, length

    def fetch(self, download_dir: Path) -> None:
        """Speak the pieces that are not there yet, ``nj`` at a time."""
        missing = [piece for piece in self._pieces(download_dir) if not piece[0].is_dir()]
        if not missing:
            return
        log(f"speaking {sum(piece[3] for piece in missing) / 60:.1f} minutes in {len(self.languages)} languages")
        with ThreadPoolExecutor(self.nj) as pool:
            list(track(pool.map(_speak_in_process, missing), "synthetic: speaking", len(missing)))

    def sources(self, download_dir: Path) -> list[Path]:
        """The pieces."""
        return [piece[0] for piece in self._pieces(download_dir)]

    def utterances(self, download_dir: Path) -> Iterator[Utterance]:
        """What the pieces' tables list."""
        for folder, language, _, _ in self._pieces(download_dir):
            for line in read_lines(folder / _TABLE):
                row = json.loads(line)
                phones = tuple(Phone(*phone) for phone in row["phones"])
                speaker = f"{language}-{row['speaker']}"
                yield Utterance(row["id"], str(folder / row["file"]), row["text"], language, speaker, phones)


def _speak_in_process(piece: tuple[Path, str, int, int]) -> None:
    """Make a piece in a separate process: espeak has one global state, and some voices abort it."""
    folder, *words = piece
    command = [sys.executable, "-m", "couloir.data.corpora.synthetic", str(folder), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("error: ") or f"espeak-ng ended with {done.returncode}"
        raise UserError(f"synthetic speech in `{words[0]}` cannot be made: {reason.splitlines()[-1]}")


def speak(folder: Path, language: str, number: int, seconds: int) -> None:
    """Fill ``folder`` (which appears whole or not at all) with FLAC files and their table.

    Piece ``number`` takes its own stretch of the language's sentences, from the start again when they run out.
    """
    espeak = Espeak(VOICES.get(language, language))
    left, rows = float(seconds), []
    with whole_folder(folder) as unfinished:
        for index, text in enumerate(_stretch(language, number)):
            row, spoken = _speak_sentence(
                espeak, language, index, text, unfinished / f"{language}-{number:04d}-{index:05d}"
            )
            rows.append(row)
            left -= spoken
            if left <= 0:
                break
        table = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["phones"])
        (unfinished / _TABLE).write_text(table, encoding="utf-8")


def _speak_sentence(espeak: Espeak, language: str, index: int, text: str, path: Path) -> tuple[dict[str, Any], float]:
    """Write one sentence as ``path.flac``; its row of the table, and its length in s."""
    import soundfile

    speaker = SPEAKERS[index % len(SPEAKERS)]
    how = random.Random(f"{language} {speaker}")  # each voice has its own rate and pitch
    espeak.set_voice(f"{VOICES.get(language, language)}+{speaker}", how.randrange(110, 171), how.randrange(30, 71))
    samples, phones = espeak.synthesize(text)
    soundfile.write(f"{path}.flac", samples, espeak.sample_rate)
    row = {"id": path.name, "file": f"{path.name}.flac", "text": text, "speaker": speaker, "phones": phones}
    return row, max(len(samples) / espeak.sample_rate, 0.01)


def _stretch(language: str, number: int) -> Iterator[str]:
    """The sentences of a piece, without end."""
    first = number * _SENTENCES_PER_PIECE
    everything = list(itertools.islice(sentences(language), first + _SENTENCES_PER_PIECE))
    if not everything:
        raise UserError(f"no sentence in `{language}`")
    return itertools.islice(itertools.cycle(everything), first % len(everything), None)


if __name__ == "__main__":
    from couloir.errors import one_line_errors

    arguments = sys.argv[1:]
    sys.exit(one_line_errors(speak)(Path(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])))
