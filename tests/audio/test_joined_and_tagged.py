"""Tags before a recording, several recordings in one, and heads that say nothing of a length, in further containers."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from sounds import RATE, encoded, tone
from test_compressed import FALLING, by_pyav, mp3, without_count

from couloir.audio import AudioError, audio_seconds, load_audio

SOUND = tone(0.5)


def id3(size: int) -> bytes:
    """A tag with a picture of that many bytes, in which frames of MPEG audio seem to begin."""
    body = b"APIC" + struct.pack(">IH", size, 0) + (b"\xff\xfb\x90\x64" + bytes(60)) * (size // 64)
    return b"ID3\3\0\0" + bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0)) + body


@pytest.mark.parametrize("tag", [id3(640), id3(65472), id3(300_032), id3(640) + id3(65536)], ids=len)
@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav", "aac"])
def test_a_tag_of_any_length_hides_nothing(tag, kind, tmp_path):
    content = {
        "mp3": lambda: without_count(mp3(FALLING)), "flac": lambda: encoded(SOUND, kind="FLAC"),
        "ogg": lambda: encoded(SOUND, kind="OGG"), "wav": lambda: encoded(SOUND),
        "aac": lambda: by_pyav(SOUND, "adts", "aac"),
    }[kind]()  # fmt: skip
    expected = load_audio(content, name=f"a.{kind}")
    for name in (f"a.{kind}", "a"):
        (tmp_path / name).write_bytes(tag + content)
        assert np.array_equal(load_audio(tmp_path / name), expected)
        assert audio_seconds(tmp_path / name) == pytest.approx(len(expected) / RATE, abs=1e-3)


def test_a_tag_behind_an_mp3_takes_no_frame_of_it():
    content = without_count(mp3(FALLING))
    assert np.array_equal(load_audio(content + id3(640)), load_audio(content))


def test_aiff_that_sox_wrote_into_a_pipe(tmp_path):
    content = bytearray(encoded(SOUND, kind="AIFF", subtype="PCM_16"))
    content[4:8] = struct.pack(">I", 0x7F000050)
    frames, samples = content.index(b"COMM") + 10, content.index(b"SSND") + 4
    content[frames : frames + 4] = struct.pack(">I", 0x3F800000)
    content[samples : samples + 4] = struct.pack(">I", 0x7F000008)
    (tmp_path / "a.aiff").write_bytes(content)
    assert np.array_equal(load_audio(tmp_path / "a.aiff"), load_audio(encoded(SOUND, subtype="PCM_16")))
    assert audio_seconds(tmp_path / "a.aiff") == 0.5


@pytest.mark.parametrize("size", [0, 4, -1])
def test_caf_whose_size_was_never_written(size):
    content = bytearray(encoded(SOUND, kind="CAF", subtype="PCM_16"))
    at = content.index(b"data", 60) + 4
    samples = struct.unpack(">q", content[at : at + 8])[0] - 4
    content[at : at + 8] = struct.pack(">q", size)
    found = load_audio(bytes(content[: at + 12 + samples]))
    assert np.array_equal(found, load_audio(encoded(SOUND, subtype="PCM_16")))
    with pytest.raises(AudioError, match="no samples"):
        load_audio(bytes(content[: at + 12]) if size != -1 else encoded(SOUND[:0], kind="CAF"))


def test_joined_au():
    content = encoded(SOUND, kind="AU", subtype="PCM_16")
    assert np.array_equal(load_audio(content * 3), np.tile(load_audio(content), 3))


@pytest.mark.parametrize("container, codec", [("mp4", "aac"), ("mov", "aac"), ("tta", "tta"), ("matroska", "flac")])
def test_joined_files_that_pyav_reads(container, codec):
    content = by_pyav(SOUND, container, codec)
    single = load_audio(content)
    assert len(load_audio(content * 3)) == pytest.approx(3 * len(single), abs=0.05 * RATE)


@pytest.mark.parametrize("first, second", [("wav", "adpcm_yamaha"), ("ogg", "flac")])
def test_parts_of_codings_that_two_decoders_read_are_each_there_once(first, second):
    """libsndfile reads the first part, and not the second."""
    plain, other = encoded(SOUND, kind=first.upper()), by_pyav(SOUND, first, second)
    expected = [load_audio(plain), load_audio(other)]
    assert np.array_equal(load_audio(plain + other), np.concatenate(expected))
    assert np.array_equal(load_audio(other + plain), np.concatenate(expected[::-1]))


def test_wma_from_a_pipe_is_whole():
    content = bytearray(by_pyav(SOUND, "asf", "wmav2"))
    whole = load_audio(bytes(content))
    at = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[at + 64 : at + 72] = struct.pack("<Q", 60 * 10**7)  # a length of a minute
    with pytest.raises(AudioError, match="is truncated"):
        load_audio(bytes(content))
    content[at + 88] |= 1  # live: the length says nothing
    assert np.array_equal(load_audio(bytes(content)), whole)


@pytest.mark.parametrize("with_tags", [True, False])
def test_matroska_of_two_streams_is_truncated_where_it_ends_early(with_tags):
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        streams = [file.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for start in range(0, 3 * RATE, 1600):
            for stream in streams:
                frame = av.AudioFrame.from_ndarray(np.full((1, 1600), start // 100, np.int16), "s16", "mono")
                frame.sample_rate, frame.pts = RATE, start
                file.mux(stream.encode(frame))
    content = out.getvalue() if with_tags else out.getvalue().replace(b"DURATION", b"DURATIOM")
    assert len(load_audio(content)) == 3 * RATE
    with pytest.raises(AudioError, match="is truncated"):
        load_audio(content[: len(content) // 2])


@pytest.mark.parametrize("mark, kind, size, rate", [(b"#!AMR\n", 7, 31, 8000), (b"#!AMR-WB\n", 8, 60, 16000)])
def test_amr(mark, kind, size, rate, tmp_path):
    """Frames of 20 ms in the highest mode (RFC 4867, section 5): a byte that names it, and its bits."""
    pytest.importorskip("av")
    bits = np.random.default_rng(0)
    content = mark + b"".join(bytes([kind << 3 | 4]) + bits.bytes(size) for _ in range(30))
    for name in ("a.amr", "a.wav"):
        (tmp_path / name).write_bytes(content)
        assert audio_seconds(tmp_path / name) == pytest.approx(0.6, abs=1e-3)
        assert len(load_audio(tmp_path / name)) == pytest.approx(0.6 * RATE, abs=1)
