"""Words to IPA, and to speech with phone times, by espeak-ng (the package ``espeakng-loader``, through ctypes).

espeak-ng keeps one global state and aborts the process on a few voices (Burmese), so callers use a process per
voice: `phonemize` does that by running this module as a program. espeak-ng is GPL-3 and an optional dependency.
"""
# Shapes: N samples.

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from couloir.errors import UserError, must_be
from couloir.text.ipa import normalize, segment
from couloir.text.languages import voices_of

_SYNCHRONOUS, _PHONEME_EVENTS_IN_IPA, _UTF8, _IPA = 2, 1 | 2, 1, 2
_RATE, _PITCH = 1, 3
_END, _PHONEME = 5, 7
_MOST_DEATHS = 20
_SEED = 1


class TimedPhone(NamedTuple):
    """An IPA segment and when it is spoken: start and duration in s."""

    symbol: str
    start: float
    duration: float


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """espeak-ng with one voice. Make one per process.

    Args:
        voice: a language with an optional variant of the speaker, as ``de`` or ``de+f2``.
        rate: words per minute; pitch: 0 to 100.

    Raises `UserError` when the package is missing or does not know the voice.
    """

    def __init__(self, voice: str = "", rate: int = 175, pitch: int = 50) -> None:
        if voice:
            self.set_voice(voice, rate, pitch)

    def set_voice(self, voice: str, rate: int = 175, pitch: int = 50) -> None:
        """Change the voice; as in the constructor."""
        if not self.try_voice(voice):
            raise _no_voice(voice)
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)

    def try_voice(self, voice: str) -> bool:
        """Change the voice where there is one of this name."""
        return self._library.espeak_SetVoiceByName(voice.encode("utf-8", "replace")) == 0

    @cached_property
    def _library(self) -> ctypes.CDLL:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError("espeak-ng, which pronounces words, is missing; pip install espeakng-loader") from None
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS_IN_IPA)
        if self.sample_rate <= 0:
            raise UserError("espeak-ng cannot start; reinstall it with pip install --force-reinstall espeakng-loader")
        self._on_audio = _Callback(self._collect)  # kept: espeak holds no reference
        library.espeak_SetSynthCallback(self._on_audio)
        return library

    def ipa(self, text: str) -> str:
        """IPA of a text in normal form, words separated by spaces."""
        buffer = ctypes.create_string_buffer(text.replace("\0", " ").encode())
        position = ctypes.c_void_p(ctypes.addressof(buffer))
        clauses = []
        while position.value:  # espeak takes one clause per call and moves the pointer on
            clauses.append(self._library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, _IPA) or b"")
        return normalize(b" ".join(clauses).decode("utf-8", "replace"))

    def synthesize(self, text: str) -> tuple[np.ndarray, list[TimedPhone]]:
        """Speech of a text: samples (N,) int16 at ``sample_rate`` Hz, and its phones, one per IPA segment.

        What espeak reports as one unit (``aɪ``, ``ts``) is divided evenly among its segments.
        """
        self._parts: list[np.ndarray] = []
        self._events: list[tuple[str, int]] = []
        data = text.encode()
        self._library.espeak_ng_SetRandSeed(
            ctypes.c_long(_SEED)
        )  # else the noise of fricatives starts at the time of day
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        samples = np.concatenate([*self._parts, np.zeros(0, np.int16)])
        return samples, _segments([*self._events, ("", len(samples))], self.sample_rate)

    def _collect(self, wave: ctypes._Pointer, count: int, events: ctypes._Pointer) -> int:
        """Called by espeak with a stretch of audio and what happens in it; 0 means go on."""
        if count > 0 and wave:
            self._parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        at = 0
        while events[at].type:
            event = events[at]
            if event.type == _PHONEME:
                self._events.append((event.id.string.decode("utf-8", "ignore"), event.sample))
            elif event.type == _END:
                self._events.append(("", event.sample))
            at += 1
        return 0


def _segments(events: Sequence[tuple[str, int]], sample_rate: int) -> list[TimedPhone]:
    """Phones from (espeak's name, first sample) pairs; unnamed events are pauses."""
    units: list[tuple[str, int, int]] = []
    for (name, start), (_, end) in pairwise(events):
        name = normalize(name).replace(" ", "")
        if not name:
            continue
        if units and len(segment(units[-1][0] + name)) == len(segment(units[-1][0])):
            units[-1] = units[-1][0] + name, units[-1][1], end  # a mark such as ʲ that espeak reports by itself
        else:
            units.append((name, start, end))
    phones = []
    for name, start, end in units:
        symbols = segment(name)
        each = (end - start) / len(symbols) / sample_rate
        first = start / sample_rate
        phones += [TimedPhone(s, round(first + i * each, 4), round(each, 4)) for i, s in enumerate(symbols)]
    return phones


def phonemize(texts: Mapping[str, Sequence[str]], nj: int = 1) -> dict[str, list[str]]:
    """IPA of texts by language.

    Args:
        texts: language tag or espeak voice -> texts; nj: processes at a time, each does one language.

    Returns:
        the same keys and as many strings, in normal form; "" where espeak broke off or has nothing to say.

    Raises:
        UserError: espeak-ng is missing, or cannot pronounce one of the languages.
    """
    for language in texts:
        if not voices_of(language):
            raise must_be(
                "the language of words without phones", "one that espeak-ng can pronounce", f"`{language[:40]}`"
            )
    with ThreadPoolExecutor(nj) as pool:
        return dict(zip(texts, pool.map(_in_process, texts, texts.values())))


def _in_process(language: str, texts: Sequence[str]) -> list[str]:
    """Pronounce in a separate process. A text on which it dies gets "", and the next process goes on after it."""
    command = [sys.executable, "-m", "couloir.text.g2p", language, *voices_of(language)]
    spoken: list[str] = []
    for _ in range(_MOST_DEATHS):
        lines = "".join(json.dumps(text) + "\n" for text in texts[len(spoken) :])
        done = subprocess.run(command, input=lines, capture_output=True, text=True, encoding="utf-8")
        if done.returncode == 2:
            raise UserError(done.stderr.strip().removeprefix("error: "))
        spoken += [json.loads(line) for line in done.stdout.splitlines() if line.endswith('"')]
        if len(spoken) == len(texts):
            break
        spoken.append("")
    return spoken + [""] * (len(texts) - len(spoken))


def _first_voice(language: str, *voices: str) -> Espeak:
    """espeak-ng with the first voice that it has. Raises `UserError` naming the language where it has none."""
    espeak = Espeak()
    for voice in voices:
        if espeak.try_voice(voice):
            return espeak
    raise _no_voice(language)


def _no_voice(language: str) -> UserError:
    return UserError(f"espeak-ng has no voice `{language[:40]}`; give the language as an ISO 639 tag such as `sw`")


def _main() -> None:
    """Read a text per line as a JSON string, write its IPA likewise; arguments are the language and its voices."""
    espeak = _first_voice(*sys.argv[1:])
    for line in sys.stdin:
        print(json.dumps(espeak.ipa(json.loads(line))), flush=True)


if __name__ == "__main__":
    from couloir.errors import one_line_errors

    sys.exit(one_line_errors(_main)())
