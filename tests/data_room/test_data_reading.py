"""Audio of cuts: named by its bytes whatever the id looks like, the part of a recording of any container."""

import gzip
import io
import json
import os
import pickle

import numpy as np
import pytest
import soundfile
from shar_tools import encoded, noise, raw_shard

from couloir.audio import AudioError, load_audio
from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader

ENDS = "webm", "m4a", "mp4", "aac", "mka", "g722", "amr", "wav", "mp3", "flac", "raw", "pcm", "txt", "sph", "opus"
IDS = [f"v.{end}" for end in ENDS]


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "OGG", "MP3"])
def test_an_id_that_looks_like_a_file_says_nothing_of_its_audio(kind, tmp_path):
    content = encoded(noise(16000), kind=kind)
    raw_shard(tmp_path / "train", [(name, "a", 1.0, kind.lower(), content) for name in IDS])
    corpus = folder_corpus([tmp_path / "train"])
    reader = AudioReader(corpus)
    found = {u.id: samples for u, samples in map(reader.read, range(len(corpus)))}
    assert sorted(found) == sorted(IDS)
    for name, samples in found.items():
        assert isinstance(samples, np.ndarray), (name, samples)
        assert np.array_equal(samples, load_audio(content))


def cuts_of_files(folder, cuts):
    """A manifest of (id, path, start, duration, channel) in recordings that are files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, path, start, duration, channel in cuts:
        sources = [{"type": "file", "channels": [0, 1], "source": str(path)}]
        recording = {"id": name, "sources": sources, "sampling_rate": 16000, "num_samples": 96000, "duration": 6.0}
        supervision = {"id": name, "recording_id": name, "start": 0, "duration": duration, "text": "pa"}
        cut = {"id": name, "start": start, "duration": duration, "channel": channel, "type": "MonoCut"}
        lines.append(json.dumps({**cut, "recording": recording, "supervisions": [supervision]}))
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return AudioReader(folder_corpus([folder]))


def without_count(samples):
    """An MP3 of variable bit rate as an encoder leaves it that writes into a pipe: its first frame says nothing."""
    out = io.BytesIO()
    soundfile.write(out, samples, 16000, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return out.getvalue().replace(b"Xing", b"\0\0\0\0")


def wav_into_a_pipe(samples):
    content = bytearray(encoded(samples, kind="WAV"))
    content[40:44] = b"\xff\xff\xff\xff"
    return bytes(content)


CONTENTS = {
    "wav": lambda x: encoded(x, kind="WAV"),
    "wav into a pipe": wav_into_a_pipe,
    "aiff": lambda x: encoded(x, kind="AIFF"),
    "flac": encoded,
    "joined flac": lambda x: encoded(x[:40000]) + encoded(x[40000:]),
    "mp3": lambda x: encoded(x, kind="MP3"),
    "mp3 without a count": without_count,
    "joined mp3": lambda x: encoded(x[:40000], kind="MP3") + encoded(x[40000:], kind="MP3"),
    "ogg": lambda x: encoded(x, kind="OGG"),
    "joined ogg": lambda x: encoded(x[:40000], kind="OGG") + encoded(x[40000:], kind="OGG"),
    "raw.raw": lambda x: encoded(x, kind="WAV"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_cut_is_the_part_of_the_whole(name, tmp_path):
    samples = np.concatenate([noise(48000), np.zeros(24000, np.float32), noise(24000, 1)])
    path = tmp_path / name
    path.write_bytes(CONTENTS[name](samples))
    whole = load_audio(path)
    assert abs(len(whole) - 96000) < 1700
    times = [(0.25, 0.5), (2.0, 1.0), (5.0, 0.9), (0.0, round(len(whole) / 16000, 3)), (2.4, 3.0)]
    reader = cuts_of_files(tmp_path / "train", [(f"c{i}", path, *time, 0) for i, time in enumerate(times)])
    for number, (start, duration) in enumerate(times):
        found = reader.read(number)[1]
        assert isinstance(found, np.ndarray), found
        expected = whole[round(start * 16000) :][: round(duration * 16000)]
        assert len(found) == pytest.approx(len(expected), abs=160)
        n = min(len(found), len(expected))
        # Where Vorbis is begun in its middle, its first block has no predecessor.
        np.testing.assert_allclose(found[2048 : n - 1], expected[2048 : n - 1], atol=1e-4)
    assert len(reader.read(1)[1]) == 16000
    assert pickle.loads(pickle.dumps(reader))._whole == (None, pytest.approx(np.zeros(0)))


def test_channels_of_a_cut(tmp_path):
    stereo = np.stack([noise(16000, 1), noise(16000, 2)], 1)
    for suffix, atol in (("wav", 2**-15), ("flac", 2**-15), ("mp3", 1)):
        soundfile.write(tmp_path / f"a.{suffix}", stereo, 16000)
        times = [(f"{suffix}{channel}", tmp_path / f"a.{suffix}", 0.25, 0.5, channel) for channel in (0, 1)]
        reader = cuts_of_files(tmp_path / suffix, times)
        for channel in (0, 1):
            found, wanted = reader.read(channel)[1], stereo[4000:12000, channel]
            assert np.abs(found - wanted).max() <= atol
            assert np.corrcoef(found, wanted)[0, 1] > (0.99 if atol < 1 else 0.8)


def test_a_cut_that_cannot_be_read_is_alone(tmp_path):
    soundfile.write(tmp_path / "good.wav", noise(16000), 16000)
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "text.wav").write_text("no sound " * 99)
    (tmp_path / "folder.wav").mkdir()
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    slow = bytearray(whole)
    slow[24:28] = (1).to_bytes(4, "little")
    (tmp_path / "slow.wav").write_bytes(slow)
    bad = {
        "fifo.wav": "is a pipe", "text.wav": "not audio", "folder.wav": "is a folder", "half.wav": "is truncated",
        "slow.wav": "from 1000 to", "/dev/zero": "is a device", "absent.wav": "does not exist",
    }  # fmt: skip
    cuts = [(name, tmp_path / name, 0.0, 1.0, 0) for name in [*bad, "good.wav"]]
    cuts += [("beyond", tmp_path / "good.wav", 0.9, 0.5, 0)]
    reader = cuts_of_files(tmp_path / "train", cuts)
    for number, reason in enumerate(bad.values()):
        error = reader.read(number)[1]
        assert isinstance(error, AudioError) and reason in str(error) and "\n" not in str(error)
    assert len(reader.read(len(bad))[1]) == 16000
    assert "beyond holds 0.10 s, its manifest says 0.50 s" in str(reader.read(len(bad) + 1)[1])


def test_whatever_a_decoder_raises_is_one_bad_cut(tmp_path, monkeypatch):
    raw_shard(tmp_path / "train", [("a", "a", 1.0, "flac", encoded(noise(16000)))])
    reader = AudioReader(folder_corpus([tmp_path / "train"]))

    def choked(*_, **__):
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid continuation byte")

    monkeypatch.setattr("couloir.data.reading.load_audio", choked)
    assert "a cannot be read (UnicodeDecodeError" in str(reader.read(0)[1])


def test_a_tar_that_became_shorter_is_named(tmp_path):
    raw_shard(tmp_path / "train", [(f"u{i}", "a", 1.0, "flac", encoded(noise(16000, i))) for i in range(3)])
    reader = AudioReader(folder_corpus([tmp_path / "train"]))
    os.truncate(tmp_path / "train" / "recording.000000.tar", 2000)
    assert "is truncated: it ends before" in str(reader.read(2)[1])
