"""Files of plainly laid out samples whose headers are right, wrong, or say nothing: all that is there is read."""

from __future__ import annotations

import logging
import struct

import numpy as np
import pytest
from sounds import RATE, chunk, encoded, fmt, pcm16, riff, tone

from couloir.audio import AudioError, audio_seconds, load_audio

SOUND = tone(0.5)
EXACT = np.round(SOUND * 2**15).astype(np.float32) / 2**15
DATA = pcm16(SOUND)
LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf1\0")


def extensible(bits: int, width: int, sub: int = 1) -> bytes:
    guid = struct.pack("<H", sub) + bytes.fromhex("000000001000800000aa00389b71")
    return fmt(0xFFFE, bits=8 * width, width=width, more=struct.pack("<HHI", 22, bits, 4) + guid)


def rf64(data: bytes, size: int | None = None, form: bytes = b"RF64") -> bytes:
    size = len(data) if size is None else size
    ds64 = chunk(b"ds64", struct.pack("<QQQI", len(data) + 72, size, size // 2, 0))
    return riff(ds64, fmt(), chunk(b"data", data, 2**32 - 1), form=form, size=2**32 - 1)


WHOLE = {
    "plain": riff(fmt(), chunk(b"data", DATA)),
    "LIST before the samples": riff(fmt(), LIST, chunk(b"data", DATA)),
    "LIST behind the samples": riff(fmt(), chunk(b"data", DATA), LIST),
    "odd chunk, padded": riff(chunk(b"junk", b"abc"), fmt(), chunk(b"data", DATA)),
    "odd chunk, not padded": riff(fmt(), chunk(b"junk", b"abc", padded=False), chunk(b"data", DATA)),
    "two odd chunks, not padded": riff(*[chunk(b"junk", b"abc", padded=False)] * 2, fmt(), chunk(b"data", DATA)),
    "bext before the format": riff(chunk(b"bext", bytes(602)), fmt(), chunk(b"data", DATA)),
    "extensible": riff(extensible(16, 2), chunk(b"data", DATA)),
    "data of 0 bytes": riff(fmt(), chunk(b"data", DATA, 0), size=0),
    "data of 0 bytes, size 36": riff(fmt(), chunk(b"data", DATA, 0), size=36),
    "data of 0 bytes behind LIST": riff(fmt(), LIST, chunk(b"data", DATA, 0)),
    "data of 2^32 - 1": riff(fmt(), LIST, chunk(b"data", DATA, 2**32 - 1), size=2**32 - 1),
    "data of 2^32 - 45": riff(fmt(), chunk(b"data", DATA, 2**32 - 45), size=2**32 - 9),
    "data of 2^31 - 1": riff(fmt(), chunk(b"data", DATA, 2**31 - 1)),
    "data of sox in a pipe": riff(fmt(), chunk(b"data", DATA, 0x7FFFF000), size=0x7FFFF024),
    "data of arecord in a pipe": riff(fmt(), chunk(b"data", DATA, 2**31)),
    "header written before the last samples": riff(fmt(), chunk(b"data", DATA, 4000), size=4036),
    "RF64": rf64(DATA),
    "BW64": rf64(DATA, form=b"BW64"),
    "RF64 into a pipe": rf64(DATA, 0),
    "ID3 before it": b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + riff(fmt(), chunk(b"data", DATA)),
    "ID3 behind it": riff(fmt(), chunk(b"data", DATA)) + b"TAG" + bytes(125),
    "zeros behind it": riff(fmt(), chunk(b"data", DATA)) + bytes(9000),
    "RIFX": b"RIFX" + struct.pack(">I", 36 + len(DATA)) + b"WAVEfmt "
    + struct.pack(">IHHIIHH", 16, 1, 1, RATE, 32000, 2, 16) + b"data"
    + struct.pack(">I", len(DATA)) + np.frombuffer(DATA, "<i2").astype(">i2").tobytes(),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_all_samples_are_there(name, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WHOLE[name])
    assert np.array_equal(load_audio(path), EXACT)
    assert np.array_equal(load_audio(WHOLE[name]), EXACT)
    assert audio_seconds(path) == 0.5


def three_bytes(bits: int, shift: int = 0) -> bytes:
    return b"".join(struct.pack("<i", value << shift)[:3] for value in np.round(SOUND * 2**bits).astype(int).tolist())


WIDTHS = {
    "8": (fmt(bits=8), (np.round(SOUND * 128) + 128).astype(np.uint8).tobytes(), 8),
    "24": (fmt(bits=24), three_bytes(23), 24),
    "24 in 4": (fmt(bits=24, width=4), (np.round(SOUND * 2**23).astype("<i4") << 8).tobytes(), 24),
    "24 in 4, extensible": (extensible(24, 4), (np.round(SOUND * 2**23).astype("<i4") << 8).tobytes(), 24),
    "20 in 3": (fmt(bits=20, width=3), three_bytes(19, 4), 20),
    "12 in 2": (fmt(bits=12, width=2), (np.round(SOUND * 2**11).astype("<i2") << 4).tobytes(), 12),
    "32": (fmt(bits=32), np.round(SOUND.astype(float) * 2**31).astype("<i4").tobytes(), 24),
    "float": (fmt(3, bits=32), SOUND.astype("<f4").tobytes(), 24),
    "float64": (fmt(3, bits=64), SOUND.astype("<f8").tobytes(), 24),
    "float, extensible": (extensible(32, 4, 3), SOUND.astype("<f4").tobytes(), 24),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("size", ["said", "streamed"])
def test_every_width(name, size):
    head, data, bits = WIDTHS[name]
    content = riff(head, chunk(b"data", data, 2**32 - 1 if size == "streamed" else None))
    assert np.abs(load_audio(content) - SOUND).max() <= 0.51 * 2.0 ** (1 - bits)


def companded(samples: np.ndarray, law: str) -> bytes:
    """G.711 by its definition: the nearest of the 256 values that the code can say."""
    codes = np.arange(256)
    if law == "u":
        inverted = ~codes & 255
        step = (inverted >> 4) & 7
        values = (((inverted & 15) * 2 + 33) << step) - 33
        values = np.where(inverted & 128, -values, values) / 2**13
    else:
        toggled = codes ^ 0x55
        step = (toggled >> 4) & 7
        values = np.where(step == 0, (toggled & 15) * 2 + 1, ((toggled & 15) * 2 + 33) << np.maximum(step - 1, 0))
        values = np.where(toggled & 128, values, -values) / 2**12
    return np.abs(samples[:, None] - values[None]).argmin(axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize("law, coded", [("a", 6), ("u", 7)])
def test_g711(law, coded):
    content = riff(fmt(coded, rate=8000, bits=8), chunk(b"data", companded(tone(0.5, 8000), law)))
    assert np.abs(load_audio(content, 8000) - tone(0.5, 8000)).max() < 0.01


@pytest.mark.parametrize("subtype", ["GSM610", "MS_ADPCM", "IMA_ADPCM", "G721_32", "NMS_ADPCM_32"])
def test_packed_codings(subtype):
    content = encoded(SOUND, subtype=subtype)
    loaded = load_audio(content)
    assert 0 <= len(loaded) - len(SOUND) < 1024
    assert np.corrcoef(loaded[2000:7000], SOUND[2000:7000])[0, 1] > (0.9 if subtype == "GSM610" else 0.97)
    streamed = bytearray(content)
    at = content.index(b"data") + 4
    streamed[at : at + 4] = b"\xff" * 4
    assert np.array_equal(load_audio(bytes(streamed))[:7000], loaded[:7000])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(content[: len(content) // 2])


def test_mp3_in_a_wave():
    mp3 = encoded(SOUND, kind="MP3")
    content = riff(fmt(0x55, bits=0, width=1), chunk(b"data", mp3))
    assert np.array_equal(load_audio(content), load_audio(mp3))


def test_joined_waves_are_read_to_the_end(tmp_path):
    other = tone(0.25, 8000)
    path = tmp_path / "joined.wav"
    path.write_bytes(WHOLE["LIST behind the samples"] + encoded(other, 8000) + WHOLE["plain"])
    loaded = load_audio(path)
    assert len(loaded) == 8000 + 4000 + 8000 and audio_seconds(path) == pytest.approx(1.25)
    assert np.array_equal(loaded[:8000], EXACT) and np.array_equal(loaded[-8000:], EXACT)


KINDS = [(kind, None) for kind in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "VOC")]
KINDS += [("AIFF", "ULAW"), ("NIST", "ULAW"), ("AU", "FLOAT"), ("CAF", "PCM_24"), ("W64", "FLOAT")]


@pytest.mark.parametrize("kind, subtype", KINDS)
def test_a_whole_file_and_half_of_it(kind, subtype, tmp_path):
    sound = tone(1.0)
    content = encoded(sound, kind=kind, subtype=subtype)
    assert np.abs(load_audio(content) - sound).max() < (0.01 if subtype == "ULAW" else 2**-15)
    for share in (0.5, 0.85):
        path = tmp_path / "part.bin"
        path.write_bytes(content[: int(share * len(content))])
        for read in (load_audio, audio_seconds):
            with pytest.raises(AudioError, match=r"part\.bin is truncated: it holds 0\.\d\d s of 1\.00 s"):
                read(path)


@pytest.mark.parametrize("kind, at, code, number", [
    ("AU", 8, ">I", 2**32 - 1), ("AU", 8, ">I", 0),
    ("W64", b"data", "<Q", 2**64 - 1), ("W64", b"data", "<Q", 2**63 - 1),
    ("CAF", b"data", ">q", -1), ("AIFF", b"SSND", ">I", 0), ("AIFF", b"SSND", ">I", 2**31 - 1),
])  # fmt: skip
def test_streamed_kinds(kind, at, code, number):
    """What FFmpeg and others leave where they cannot go back to write the size."""
    content = bytearray(encoded(SOUND, kind=kind))
    if isinstance(at, bytes):
        at = content.index(at) + (16 if kind == "W64" else 4)
    struct.pack_into(code, content, at, number)
    if kind == "AIFF":
        struct.pack_into(">I", content, content.index(b"COMM") + 10, 0)
    assert np.array_equal(load_audio(bytes(content)), load_audio(encoded(SOUND)))


def test_large_sizes_are_promises(caplog):
    """3 GB is no streamed size: the most of such a file is missing."""
    with pytest.raises(AudioError, match="truncated"):
        load_audio(riff(fmt(), chunk(b"data", DATA, 3 * 2**30)))


def test_an_empty_wave_is_empty():
    for content in (riff(fmt(), chunk(b"data", b"")), riff(fmt(), chunk(b"data", b""), LIST)):
        with pytest.raises(AudioError, match="holds no samples"):
            load_audio(content)


def test_shorten_and_raw_are_named(tmp_path):
    head = encoded(SOUND, kind="NIST")
    start = head.index(b"sample_coding")
    stop = head.index(b"\n", start)
    packed = head[:start] + b"sample_coding -s26 pcm,embedded-shorten-v2.00" + head[stop:]
    with pytest.raises(AudioError, match=r"pcm,embedded-shorten-v2\.00, which is not read; convert it with sph2pipe"):
        load_audio(packed)
    with pytest.raises(AudioError, match="compressed with shorten"):
        load_audio(b"ajkg" + bytes(100))
    for suffix in ("raw", "pcm", "RAW"):
        (tmp_path / f"a.{suffix}").write_bytes(DATA)
        with pytest.raises(AudioError, match="raw samples without a header; convert it"):
            load_audio(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("rate", [1, 0, 999, 2_000_000])
def test_rates_that_no_recording_has(rate):
    with pytest.raises(AudioError, match=r"from 1000 to 1048575 Hz, but is|unsupported|malformed|not audio"):
        load_audio(riff(fmt(rate=rate), chunk(b"data", DATA)))


@pytest.mark.parametrize("rate", [1000, 4000, 8000, 11025, 44100, 192000])
def test_rates_that_recordings_have(rate):
    assert abs(len(load_audio(encoded(tone(0.5, rate), rate))) - 8000) <= 16


def test_nothing_is_said_of_good_files(caplog):
    with caplog.at_level(logging.INFO):
        for content in WHOLE.values():
            load_audio(content)
    assert not caplog.records
