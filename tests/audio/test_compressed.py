"""Compressed recordings whose length their heads do not say, or say wrongly: MP3, FLAC, Ogg, and what PyAV reads."""

from __future__ import annotations

import io
import logging
import struct
import sys

import numpy as np
import pytest
import soundfile
from sounds import RATE, chunk, encoded, fmt, pcm16, riff, tone

from couloir.audio import AudioError, audio_seconds, load_audio, mpeg

LOUD = np.random.default_rng(0).normal(scale=0.2, size=RATE).astype(np.float32)
FALLING = np.concatenate([LOUD, tone(1.0), np.zeros(RATE, np.float32)])
RISING = FALLING[::-1].copy()


def mp3(samples: np.ndarray, rate: int = RATE, variable: bool = True) -> bytes:
    out = io.BytesIO()
    mode = "VARIABLE" if variable else "CONSTANT"
    soundfile.write(out, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return out.getvalue()


def frame_sizes(content: bytes) -> list[int]:
    """Of MPEG-2 layer III at 16 kHz (ISO 13818-3): 72 * bits per s / 16000, and one more where padded."""
    sizes, at = [], 0
    while at + 4 <= len(content):
        assert content[at] == 0xFF and content[at + 1] & 0xFE == 0xF2
        kbits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[content[at + 2] >> 4]
        sizes.append(72 * 1000 * kbits // RATE + ((content[at + 2] >> 1) & 1))
        at += sizes[-1]
    return sizes


def without_count(content: bytes) -> bytes:
    """As an encoder leaves it that writes into a pipe and makes no first frame for the count."""
    return content[frame_sizes(content)[0] :]


def empty_count(content: bytes) -> bytes:
    """As `lame - -` leaves it: room for the count, which is never written."""
    size = frame_sizes(content)[0]
    return content[:4] + bytes(size - 4) + content[size:]


@pytest.mark.parametrize("sound", [FALLING, RISING], ids=["falling", "rising"])
@pytest.mark.parametrize("cut", [without_count, empty_count])
def test_mp3_of_variable_rate_without_a_count(sound, cut, tmp_path):
    whole = mp3(sound)
    assert len(set(frame_sizes(whole))) > 3  # rates that vary
    content = cut(whole)
    (tmp_path / "a.mp3").write_bytes(content)
    loaded = load_audio(tmp_path / "a.mp3")
    delay = 529  # of the decoder, which is left out
    assert len(loaded) == 576 * len(frame_sizes(content)) - delay == round(RATE * audio_seconds(tmp_path / "a.mp3"))
    full = load_audio(whole)
    assert len(full) == len(sound)
    first = 576 + 576 * (cut is empty_count)  # the encoder's delay, which only the count tells, and the empty frame
    np.testing.assert_allclose(loaded[first + 3000 : first + 40000], full[3000:40000], atol=1e-4)


TAGS = {
    "ID3v2": lambda content: b"ID3\x03\0\0\0\0\x02\x00" + bytes(256) + content,
    "ID3v1": lambda content: content + b"TAG" + b"x" * 125,
    "APE": lambda content: content + b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0) + bytes(8) + b"\xff" * 64,
    "both": lambda content: b"ID3\x04\0\0\0\0\0\x7f" + b"\xff" * 127 + content + b"TAG" + b"\xff" * 125,
    "zeros before": lambda content: bytes(700) + content,
    "cut in the last frame": lambda content: content[:-7],
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("counted", [True, False])
def test_tags_are_no_sound(tag, counted):
    content = mp3(FALLING) if counted else without_count(mp3(FALLING))
    loaded, plain = load_audio(TAGS[tag](content)), load_audio(content)
    assert 0 <= len(plain) - len(loaded) <= (576 if tag.startswith("cut") else 0)
    np.testing.assert_allclose(loaded[: len(loaded) - 2000], plain[: len(loaded) - 2000], atol=1e-6)


@pytest.mark.parametrize("kinds", ["ccc", "nnn", "cnc", "ncv", "vvv", "tt", "cz"])
def test_joined_mp3s_are_read_to_the_end(kinds, tmp_path):
    parts = {
        "c": mp3(FALLING, variable=False),
        "v": mp3(FALLING),
        "t": TAGS["both"](mp3(FALLING)),
        "z": mp3(LOUD[:8000], 8000),
    }
    parts["n"] = without_count(parts["c"])
    (tmp_path / "joined.mp3").write_bytes(b"".join(parts[kind] for kind in kinds))
    loaded = load_audio(tmp_path / "joined.mp3")
    alone = sum(len(load_audio(parts[kind])) for kind in kinds)
    assert abs(len(loaded) - alone) <= 1200 * kinds.count("n")
    assert audio_seconds(tmp_path / "joined.mp3") == pytest.approx(len(loaded) / RATE, abs=1e-3)
    if "n" not in kinds:
        last = load_audio(parts[kinds[-1]])
        np.testing.assert_array_equal(loaded[-len(last) :], last)


def test_rates_that_change_within_an_mp3():
    loaded = load_audio(without_count(mp3(FALLING)) + encoded(tone(1.0, 44100), 44100, kind="MP3"))
    assert 4 * RATE <= len(loaded) <= 4 * RATE + 4000
    spectrum = np.abs(np.fft.rfft(loaded[-12000:-2000]))
    assert spectrum.argmax() == pytest.approx(440 * 10000 / RATE, abs=1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_an_mp3_with_a_count_is_truncated_where_frames_are_missing(share):
    content = mp3(LOUD)
    with pytest.raises(AudioError, match=r"b\.mp3 is truncated: it holds 0\.\d\d s of 1\.00 s"):
        load_audio(content[: int(share * len(content))], name="b.mp3")
    with pytest.raises(AudioError, match="truncated"):
        load_audio(content[: int(share * len(content))] + content)


def test_frames_are_counted_of_every_layer_and_version():
    for kind, rates, samples, size in (
        (0xFB, 0x90, 1152, 144 * 128000 // 44100),
        (0xF3, 0x80, 576, 72 * 64000 // 22050),
        (0xE3, 0x80, 576, 72 * 64000 // 11025),
        (0xFD, 0x80, 1152, 144 * 128000 // 44100),
        (0xFF, 0x90, 384, 4 * (12 * 288000 // 44100)),
    ):
        header = bytes([0xFF, kind, rates, 0xC0])
        (run,) = mpeg.runs((header + b"\x01" * (size - 4)) * 20)
        assert (run.count, run.first.samples, run.first.size) == (20, samples, size)


def test_flac_of_unknown_length(tmp_path):
    content = bytearray(encoded(LOUD, kind="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    content[26:42] = bytes(16)  # nor its sum
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert np.array_equal(load_audio(path), load_audio(encoded(LOUD, kind="FLAC"))) and audio_seconds(path) == 1.0
    for share in (0.5, 0.95):
        with pytest.raises(AudioError, match="truncated or damaged"):
            load_audio(bytes(content[: int(share * len(content))]))


def test_joined_flac(tmp_path):
    content = encoded(LOUD, kind="FLAC")
    (tmp_path / "a.flac").write_bytes(content + encoded(tone(0.5, 8000), 8000, kind="FLAC") + content)
    assert len(load_audio(tmp_path / "a.flac")) == 2.5 * RATE == RATE * audio_seconds(tmp_path / "a.flac")
    assert np.array_equal(load_audio(tmp_path / "a.flac")[:RATE], load_audio(tmp_path / "a.flac")[-RATE:])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_chained_and_cut(subtype, tmp_path, caplog):
    content = encoded(FALLING, kind="OGG", subtype=subtype)
    other = encoded(tone(0.5, 8000), 8000, kind="OGG", subtype="VORBIS")
    path = tmp_path / "a.ogg"
    path.write_bytes(content + other + content)
    loaded = load_audio(path)
    assert len(loaded) == 6.5 * RATE == RATE * audio_seconds(path)
    assert np.array_equal(loaded[-3 * RATE :], load_audio(content))
    assert not caplog.records
    for part in (content[: len(content) // 2], content[:-3], content + other[: len(other) // 2]):
        with pytest.raises(AudioError, match="is truncated: it ends within a page"):
            load_audio(part)
    last = content.rindex(b"OggS")
    with caplog.at_level(logging.WARNING):  # a recorder that was stopped between two pages
        try:
            assert len(load_audio(content[:last], name="b.ogg")) < 3 * RATE
        except AudioError as error:
            assert "b.ogg is" in str(error)
    assert "b.ogg does not say that it ends" in caplog.text


def by_pyav(samples: np.ndarray, container: str, codec: str, rate: int = RATE, **options: str) -> bytes:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    try:
        with av.open(out, "w", format=container, options=options) as file:
            stream = file.add_stream(codec, rate=rate, layout="mono")
            size = stream.codec_context.frame_size or 1024
            wanted = stream.format.name
            convert = av.AudioResampler(format=wanted, layout="mono", rate=rate, frame_size=size)
            frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            for part in [*convert.resample(frame), *convert.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write {codec} in {container} ({error})")
    return out.getvalue()


BY_PYAV = {
    "webm": ("webm", "libopus", 48000), "mka": ("matroska", "libvorbis", RATE), "m4a": ("mp4", "aac", RATE),
    "mov": ("mov", "aac", RATE), "wma": ("asf", "wmav2", RATE), "wav": ("wav", "adpcm_yamaha", RATE),
    "wv": ("wv", "wavpack", RATE), "aac": ("adts", "aac", RATE), "ogg": ("ogg", "flac", RATE),
    "tta": ("tta", "tta", RATE),
}  # fmt: skip


@pytest.mark.parametrize("suffix", BY_PYAV)
def test_what_pyav_reads_under_any_name(suffix, tmp_path):
    container, codec, rate = BY_PYAV[suffix]
    sound = tone(1.0, rate)
    content = by_pyav(sound, container, codec, rate)
    for name in (f"a.{suffix}", "a.wav", "a.mp3", "a"):
        (tmp_path / name).write_bytes(content)
        loaded = load_audio(tmp_path / name)
        assert abs(len(loaded) - RATE) <= 3 * 1024
        assert audio_seconds(tmp_path / name) == pytest.approx(len(loaded) / RATE, abs=1e-3)
        assert np.abs(np.fft.rfft(loaded[2000:12000])).argmax() == pytest.approx(440 * 10000 / RATE, abs=1)
    with pytest.raises(AudioError, match="is truncated"):
        load_audio(content[: len(content) // 2])


@pytest.mark.parametrize("suffix", ["webm", "m4a", "mp4", "aac", "mka", "amr", "g722", "mp3", "flac", "raw", "txt", ""])
def test_the_first_bytes_name_the_container(suffix, tmp_path):
    sound = tone(0.5)
    for content in (encoded(sound), encoded(sound, kind="FLAC"), riff(fmt(), chunk(b"data", pcm16(sound)))):
        path = tmp_path / f"id.{suffix}"
        path.write_bytes(content)
        assert np.abs(load_audio(path) - sound).max() < 2**-15
        assert np.array_equal(load_audio(content, name=path.name), load_audio(path))
        assert audio_seconds(path) == 0.5


def test_a_compressed_file_is_named_by_its_bytes_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for head in (b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftypM4A ", b"#!AMR\n", b"\0\0\0\x08wide"):
        with pytest.raises(AudioError, match=r"x\.wav needs PyAV to be read; pip install av"):
            load_audio(head + bytes(200), name="x.wav")


def test_a_container_of_many_channels_is_no_crash():
    """PyAV's arrays of more than eight planes lie in foreign memory."""
    pytest.importorskip("av")
    sound = np.tile(tone(0.1)[:, None], (1, 12))
    content = bytearray(encoded(sound, kind="CAF", subtype="PCM_16"))
    content[28:32] = b"alac" if content[28:32] == b"lpcm" else content[28:32]
    with pytest.raises(AudioError):
        load_audio(bytes(content))
