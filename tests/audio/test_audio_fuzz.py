"""Damaged and invented heads of recordings: each is read, or refused in one line, within bounds of memory."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from sounds import chunk, encoded, fmt, pcm16, riff, tone
from test_compressed import by_pyav

from couloir.audio import AudioError, load_audio
from couloir.audio.decoding import seconds
from couloir.limits import max_samples

SOUND = tone(0.2)
SEEDS = {
    "wav": riff(fmt(), chunk(b"LIST", b"INFOISFT\4\0\0\0Lavf"), chunk(b"data", pcm16(SOUND))),
    "stereo": encoded(np.stack([SOUND, -SOUND], 1), subtype="PCM_24"),
    "extensible": encoded(SOUND, kind="WAVEX", subtype="PCM_16"),
    "float": encoded(SOUND, subtype="FLOAT"),
    "gsm": encoded(SOUND, subtype="GSM610"),
    "adpcm": encoded(SOUND, subtype="MS_ADPCM"),
    "mp3 in wav": riff(fmt(coded=0x55), chunk(b"data", encoded(SOUND, kind="MP3"))),
    "rf64": encoded(SOUND, kind="RF64"),
    "w64": encoded(SOUND, kind="W64"),
    "aiff": encoded(SOUND, kind="AIFF"),
    "au": encoded(SOUND, kind="AU"),
    "caf": encoded(SOUND, kind="CAF"),
    "sphere": encoded(SOUND, kind="NIST"),
    "voc": encoded(SOUND, kind="VOC"),
    "flac": encoded(SOUND, kind="FLAC"),
    "mp3": encoded(SOUND, kind="MP3"),
    "vorbis": encoded(SOUND, kind="OGG"),
    "opus": encoded(SOUND, kind="OGG", subtype="OPUS"),
}
BY_PYAV = {
    "m4a": ("mp4", "aac"), "webm": ("webm", "libopus", 48000), "mka": ("matroska", "flac"), "alac": ("caf", "alac"),
}  # fmt: skip
NAMES = [*SEEDS, *BY_PYAV]
NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 36, 10**9]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to four changes, most of them in the head."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(found), 120) if chance.random() < 0.85 else len(found))
        kind = chance.randrange(6)
        if kind == 0:
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            found[at] = chance.randrange(256)
        elif kind == 2:
            number = struct.pack(chance.choice("<>") + "I", chance.choice(NUMBERS))
            found[at : at + 4] = number[: len(found) - at]
        elif kind == 3:
            del found[at : at + chance.choice([1, 2, 4, 8, 50])]
        elif kind == 4:
            found[at:at] = bytes(found[at : at + chance.choice([1, 4, 30])])
        else:
            del found[max(at, 1) + chance.randrange(len(found)) :]
        if not found:
            return b"\0"
    return bytes(found)


def outcome(content: bytes) -> str:
    """ "read", or the one line that refuses a content."""
    try:
        samples = load_audio(content, name="the file")
    except AudioError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 300 and "the file" in line, line
        return line
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
    assert 0 < len(samples) <= 16 * max_samples(len(content))
    try:
        assert abs(seconds(content, "the file") - len(samples) / 16000) < 0.11
    except AudioError as error:  # what is nearly too short by the one count is too short by the other
        assert "truncated" in str(error)
    return "read"


def fuzz(name: str, count: int) -> None:
    content = SEEDS[name] if name in SEEDS else by_pyav(SOUND, *BY_PYAV[name])
    assert outcome(content) == "read"
    chance = random.Random(f"{name} 1")
    outcomes = [outcome(mutated(content, chance)) for _ in range(count)]
    assert len(set(outcomes)) > 1  # the changes do something


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_head_is_read_or_refused(name):
    fuzz(name, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_head_is_read_or_refused_at_length(name):
    fuzz(name, 2000)
