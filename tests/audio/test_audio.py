"""Every kind of recording that people have, good and bad, through the one door."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from couloir.audio import SAMPLE_RATE, AudioError, load_audio

DATA = Path(__file__).parents[1] / "data"
SPEECH = DATA / "ru_0683.flac"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return soundfile.read(SPEECH, dtype="float32")[0]


def encoded(samples: np.ndarray, rate: int, **kind: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, **kind)
    return out.getvalue()


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_sixteen_kilohertz_samples_are_untouched(speech):
    for source in (SPEECH, str(SPEECH), SPEECH.read_bytes(), speech, (speech, SAMPLE_RATE)):
        loaded = load_audio(source)
        assert loaded.dtype == np.float32 and loaded.flags.c_contiguous
        assert np.array_equal(loaded, speech)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_becomes_sixteen_kilohertz(rate):
    loaded = load_audio(encoded(tone(rate), rate, format="WAV"))
    middle = slice(1600, 14400)
    assert abs(len(loaded) - SAMPLE_RATE) <= 1
    assert np.abs(loaded[middle] - tone(SAMPLE_RATE)[middle]).max() < 2e-3


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
def test_every_sample_width(subtype, speech):
    loaded = load_audio(encoded(speech, SAMPLE_RATE, format="WAV", subtype=subtype))
    assert np.abs(loaded - speech).max() <= (0 if subtype != "PCM_U8" else 1 / 127)


@pytest.mark.parametrize("kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_containers_keep_length_and_shape(kind, speech):
    loaded = load_audio(encoded(speech, SAMPLE_RATE, format=kind[0], subtype=kind[1]))
    assert len(loaded) == len(speech)
    assert np.corrcoef(loaded, speech)[0, 1] > 0.97


def test_channels_are_averaged(speech):
    stereo = np.stack([speech, -0.5 * speech], axis=1)
    from_file = load_audio(encoded(stereo, SAMPLE_RATE, format="WAV", subtype="FLOAT"))
    assert np.abs(from_file - 0.25 * speech).max() < 1e-7
    assert np.array_equal(load_audio(stereo), load_audio(np.ascontiguousarray(stereo.T)))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_integer_arrays_are_scaled(dtype, speech):
    info = np.iinfo(dtype)
    middle = 128 if dtype is np.uint8 else 0
    whole = np.clip(np.round(speech.astype(np.float64) * (info.max - middle) + middle), info.min, info.max).astype(
        dtype
    )
    assert np.abs(load_audio((whole, SAMPLE_RATE)) - speech).max() < 1.5 / (info.max - middle)


def test_g722(tmp_path, speech):
    av = pytest.importorskip("av")
    path = tmp_path / "hello.g722"
    with av.open(str(path), "w", format="g722") as out:
        stream = out.add_stream("g722", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((speech * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    loaded = load_audio(path)
    delay = 22  # of the codec's filter bank
    assert abs(len(loaded) - len(speech)) <= 320
    assert np.corrcoef(loaded[delay : len(speech)], speech[: len(loaded[delay : len(speech)])])[0, 1] > 0.999
    assert np.array_equal(load_audio(path.read_bytes(), name="greeting.g722"), loaded)


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "hello.m4a"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(AudioError, match=r"hello\.m4a needs PyAV.*pip install av"):
        load_audio(path)


@pytest.mark.parametrize("keep", [60, 2000, 0.5, -10])
def test_truncated_flac_is_named(tmp_path, keep):
    content = SPEECH.read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(AudioError, match=r"cut\.flac is truncated or damaged"):
        load_audio(path)


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("AIFF", "PCM_24"), ("MP3", "MPEG_LAYER_III")])
def test_truncated_file_of_another_kind_is_named(kind, speech):
    content = encoded(speech, SAMPLE_RATE, format=kind[0], subtype=kind[1])
    with pytest.raises(AudioError, match=r"part\.bin is truncated: it holds [\d.]+ s of 3\.8\d s"):
        load_audio(content[: len(content) // 2], name="part.bin")


def test_wav_from_a_pipe_declares_no_length_and_is_read(speech):
    content = bytearray(encoded(speech, SAMPLE_RATE, format="WAV", subtype="PCM_16"))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert np.array_equal(load_audio(bytes(content)), speech)


def test_bad_sources_are_named(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "notes.wav").write_text("this is text, not sound\n" * 50)
    (tmp_path / "none.wav").write_bytes(encoded(np.zeros(0, np.float32), SAMPLE_RATE, format="WAV"))
    for name, reason in {
        "absent.wav": "does not exist",
        "empty.wav": "is empty",
        "notes.wav": "is not audio that can be read",
        "none.wav": "holds no samples",
        ".": "cannot be read",
    }.items():
        with pytest.raises(AudioError, match=reason) as caught:
            load_audio(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(bad, speech):
    broken = speech.copy()
    broken[8000] = bad
    content = encoded(broken, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match=r"x\.wav holds 1 NaN or infinite samples, the first at 0\.500 s"):
        load_audio(content, name="x.wav")


def test_bad_arrays_are_refused(speech):
    for samples, reason in (
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((0, 2), np.float32), "no samples"),
        (np.zeros((2, 3, 4), np.float32), "one or two dimensions"),
        (np.array(["a"]), "float or integer"),
        (speech * 32768, "divided by 32768"),
        ([0, 12000, -12000] * 1000, r"\[-1, 1\], but are of type int64; .* divided by 32768"),
    ):
        with pytest.raises(AudioError, match=reason):
            load_audio(samples)
    with pytest.raises(AudioError, match="must be positive"):
        load_audio((speech, 0))
    with pytest.raises(AudioError, match="too short"):
        load_audio((speech[:2], 192000))
