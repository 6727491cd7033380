"""What a recording may come as: bytes of any kind, open files, pipes that were named, arrays, tensors; what not."""

from __future__ import annotations

import array
import io
import mmap
import os
import re
import struct
import sys
import threading
import time

import numpy as np
import pytest
import torch
from sounds import RATE, chunk, encoded, fmt, pcm16, riff, tone

from couloir import limits
from couloir.audio import AudioError, audio_seconds, load_audio

SOUND = tone(0.5)
WAV = encoded(SOUND)
EXACT = load_audio(WAV)


class Unseekable(io.RawIOBase):
    """As a socket: it is only read on, some bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self.rest = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part, self.rest = self.rest[: min(777, len(buffer))], self.rest[min(777, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)


BYTES = {
    "bytes": lambda: WAV,
    "bytearray": lambda: bytearray(WAV),
    "memoryview": lambda: memoryview(WAV),
    "part of a memoryview": lambda: memoryview(b"xx" + WAV + b"yy")[2:-2],
    "BytesIO": lambda: io.BytesIO(WAV),
    "buffered": lambda: io.BufferedReader(io.BytesIO(WAV)),
    "unseekable": lambda: Unseekable(WAV),
    "array of bytes": lambda: np.frombuffer(WAV, np.uint8),
    "tensor of bytes": lambda: torch.frombuffer(bytearray(WAV), dtype=torch.uint8),
    "array.array of bytes": lambda: array.array("B", WAV),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_of_every_kind(kind):
    assert np.array_equal(load_audio(BYTES[kind]()), EXACT)


def test_open_files(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"1234" + WAV)
    with path.open("rb") as file:
        file.seek(4)
        assert np.array_equal(load_audio(file), EXACT)
        with pytest.raises(AudioError, match=r"stands at its end; call its seek\(0\) first"):
            load_audio(file)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.seek(4)
        assert np.array_equal(load_audio(mapped), EXACT)
    with path.open("r", encoding="latin-1") as file, pytest.raises(AudioError, match="binary mode"):
        load_audio(file)
    with pytest.raises(AudioError, match="is empty"):
        load_audio(io.BytesIO(b""))


INT16 = np.round(SOUND * 2**15).astype(np.int16)
ARRAYS = {
    "float32": SOUND,
    "float64": SOUND.astype(np.float64),
    "big-endian": SOUND.astype(">f4"),
    "every second": np.repeat(SOUND, 2)[::2],
    "int16": INT16,
    "int16 big-endian": INT16.astype(">i2"),
    "int32": INT16.astype(np.int32) << 16,
    "memoryview of int16": memoryview(INT16),
    "array.array of int16": array.array("h", INT16.tobytes()),
    "list": SOUND.tolist(),
    "tensor": torch.from_numpy(SOUND),
    "tensor with a gradient": torch.from_numpy(SOUND).requires_grad_(),
    "tensor of float64": torch.from_numpy(SOUND).double(),
    "tensor of int16": torch.from_numpy(INT16),
    "(1, N)": SOUND[None],
    "(N, 1)": SOUND[:, None],
    "tensor (1, N)": torch.from_numpy(SOUND)[None],
    "(2, N)": np.stack([SOUND, SOUND]),
    "(N, 2)": np.stack([SOUND, SOUND], 1),
    "(N, 6) of int16": np.stack([INT16] * 6, 1),
    "(6, N)": np.stack([SOUND] * 6),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_samples_of_every_kind(kind):
    for source in (ARRAYS[kind], (ARRAYS[kind], RATE), (ARRAYS[kind], np.int64(RATE)), (ARRAYS[kind], float(RATE))):
        loaded = load_audio(source)
        assert loaded.dtype == np.float32 and loaded.flags.c_contiguous and loaded.dtype.isnative
        assert np.abs(loaded - SOUND).max() <= 2**-15


def test_half_precision():
    assert np.abs(load_audio(SOUND.astype(np.float16)) - SOUND).max() < 2e-3
    assert np.abs(load_audio(torch.from_numpy(SOUND).bfloat16()) - SOUND).max() < 2e-3


def test_16_bit_values_in_32_bits_are_named(caplog):
    load_audio(INT16.astype(np.int32), name="a.wav")
    assert "a.wav is of 32-bit integers that 16 bits could hold" in caplog.text


@pytest.mark.parametrize(
    "bad, reason",
    [
        (None, "must be a path, the bytes of a file, or samples, but is of type NoneType"),
        (3, "but is of type int"),
        ({"path": "a"}, "but is of type dict"),
        (np.float32(1), "one or two dimensions"),
        ([[1.0], [1.0, 2.0]], "cannot be an array"),
        (np.zeros(9, bool), "its type is bool"),
        (np.zeros(9, np.uint16), "its type is uint16"),
        (np.zeros(9, complex), "its type is complex"),
        (np.array([None]), "its type is object"),
        ((SOUND, "16000"), "must be a whole number of Hz, but is '16000'"),
        ((SOUND, None), "whole number"),
        ((SOUND, float("nan")), "whole number"),
        ((SOUND, 16000.5), "whole number"),
        ((SOUND, True), "whole number"),
        ((SOUND, -1), "must be positive"),
        ((SOUND, 1), "from 1000 to 1048575 Hz, but is 1"),
        ((SOUND, 10**12), "from 1000 to 1048575 Hz"),
        (np.zeros((500, 501), np.float32), "from 1 to 64 channels, but has 500"),
    ],
)
def test_what_is_no_recording(bad, reason):
    with pytest.raises(AudioError, match=reason) as error:
        load_audio(bad)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


# What is no regular file is not read as one


def special(tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "link.wav").symlink_to("/dev/zero")
    return {
        tmp_path / "fifo.wav": "is a pipe",
        tmp_path: "is a folder",
        "/dev/zero": "is a device",
        "/dev/null": "is a device",
        tmp_path / "link.wav": "is a device",
        "/dev/full": "is a device",
        "/dev/urandom": "is a device",
    }


def test_only_regular_files_are_read(tmp_path):
    began = time.monotonic()
    for path, reason in special(tmp_path).items():
        for read in (load_audio, audio_seconds):
            with pytest.raises(AudioError, match=f"must be a regular file, but {reason}"):
                read(path)
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    "path", ["/proc/self/mem", "/proc/self/maps", "/proc/kcore", "/proc/self/environ", "/proc/kmsg"]
)
def test_files_of_the_system_are_not_read(path):
    with pytest.raises(AudioError, match="is empty|at most|cannot be read|does not exist"):
        load_audio(path)


def test_names_that_no_file_can_have():
    for path, reason in (("a\0b.wav", "does not exist"), ("a" * 5000, "cannot be read"), ("", "does not exist")):
        with pytest.raises(AudioError, match=reason):
            load_audio(path)


def test_a_pipe_is_read_where_it_was_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(WAV,))
    writer.start()
    assert np.array_equal(load_audio(tmp_path / "pipe", pipes=True), EXACT)
    writer.join()
    with pytest.raises(AudioError, match="is a device"):
        load_audio("/dev/zero", pipes=True)


# Bounds: what a file claims is in proportion to what it holds


def flac_claiming(count: int) -> bytes:
    content = bytearray(encoded(SOUND, kind="FLAC"))
    content[21] = content[21] & 0xF0 | count >> 32
    content[22:26] = struct.pack(">I", count & 0xFFFFFFFF)
    return bytes(content)


def sphere_claiming(count: int) -> bytes:
    content = encoded(SOUND, kind="NIST")
    head = re.sub(rb"sample_count -i \d+", b"sample_count -i %d" % count, content[:1024])
    return head[:1024] + content[1024:]


@pytest.mark.parametrize(
    "content",
    [
        flac_claiming(2**36 - 1),
        flac_claiming(2**32),
        riff(fmt(rate=1), chunk(b"data", pcm16(SOUND))),
        sphere_claiming(10**15),
        riff(fmt(rate=2**32 - 1), chunk(b"data", pcm16(SOUND))),
        riff(fmt(channels=30000), chunk(b"data", pcm16(SOUND))),
    ],
)
def test_small_files_take_little_memory(content):
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(AudioError) as error:
            load_audio(content, name="x")
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.slow
def test_hours_of_silence_are_in_proportion():
    """Digital silence is legal: 40 minutes of it in FLAC are read, though they are 140 kB."""
    content = encoded(np.zeros(40 * 60 * RATE, np.float32), kind="FLAC")
    assert len(content) < 2e5 and len(load_audio(content)) == 40 * 60 * RATE > limits.FREE_SAMPLES


def test_a_claim_beyond_the_bounds_is_refused(monkeypatch):
    monkeypatch.setattr(limits, "FREE_SAMPLES", 4000)
    monkeypatch.setattr(limits, "MAX_SAMPLES_PER_BYTE", 10)
    silence = encoded(np.zeros(10 * RATE, np.float32), kind="FLAC")
    unknown = bytearray(silence)
    unknown[21], unknown[22:26] = unknown[21] & 0xF0, bytes(4)
    for content in (silence, bytes(unknown)):
        with pytest.raises(AudioError, match=r"must hold at most \d+ samples for its \d+ bytes"):
            load_audio(content)


def test_bounds_of_size(tmp_path, monkeypatch):
    monkeypatch.setattr("couloir.audio.sources.MAX_AUDIO_BYTES", 5000)
    (tmp_path / "a.wav").write_bytes(WAV)
    for source in (tmp_path / "a.wav", io.BytesIO(WAV)):
        with pytest.raises(AudioError, match="at most 5000 bytes"):
            load_audio(source)


def test_a_large_file_of_nothing_is_not_read_whole(tmp_path):
    path = tmp_path / "sparse.wav"
    path.touch()
    os.truncate(path, 12 << 30)
    began = time.monotonic()
    with pytest.raises(AudioError, match="first bytes name no container"):
        load_audio(path)
    assert time.monotonic() - began < 2


def test_too_little_memory_is_one_line(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("couloir.audio.decode", full)
    with pytest.raises(AudioError, match=r"a\.wav takes more memory than there is"):
        load_audio(WAV, name="a.wav")
