"""What a Recognizer takes as recordings: all that `load_audio` reads, in a list."""

import array
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from couloir.audio import AudioError, load_audio
from couloir.errors import UserError
from couloir.inference.recognizer import Recognizer, _size
from couloir.inference.recordings import find_audio


@pytest.fixture(scope="module")
def recognizer(models):
    return Recognizer.from_pretrained(models() / "run")


@pytest.fixture(scope="module")
def content(speech):
    out = io.BytesIO()
    soundfile.write(out, load_audio(speech[0])[:24000], 16000, format="WAV")
    return out.getvalue()


def test_every_kind_of_recording_gives_one_text(recognizer, content, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    samples = load_audio(content)
    path = tmp_path / "a.wav"
    items = [
        path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content),
        samples, torch.from_numpy(samples), (samples, 16000), samples.tolist(), (samples * 2**15).astype(np.int16),
        np.stack([samples, samples]), np.frombuffer(content, np.uint8), array.array("B", content),
    ]  # fmt: skip
    found = recognizer.transcribe(items)
    assert len({transcript.text for transcript in found}) == 1 and found[0].text
    assert {transcript.duration for transcript in found} == {1.5}
    assert [t.name for t in found[:3]] == [str(tmp_path / "a.wav")] * 2 + [""]


@pytest.mark.parametrize("kind", [
    "str", "Path", "bytes", "bytearray", "memoryview", "BytesIO", "array", "tensor", "pair", "dict", "None", "int",
])  # fmt: skip
def test_one_recording_in_place_of_a_list_is_refused(recognizer, content, kind):
    samples = load_audio(content)
    items = {
        "str": "a.wav", "Path": Path("a.wav"), "bytes": content, "bytearray": bytearray(content), "int": 3,
        "None": None,
        "memoryview": memoryview(content), "BytesIO": io.BytesIO(content), "array": samples, "dict": {"a": "a.wav"},
        "tensor": torch.from_numpy(samples), "pair": (samples, 16000),
    }[kind]  # fmt: skip
    for call in (recognizer.transcribe, recognizer.results):
        with pytest.raises(UserError, match=r"`items` must be a list of recordings, but is one .*; write \[item\]"):
            call(items)


def test_generators_and_tuples_are_lists(recognizer, content):
    assert len(recognizer.transcribe(content for _ in range(2))) == 2
    assert len(recognizer.transcribe((content, content, content))) == 3
    assert recognizer.transcribe([]) == [] == recognizer.transcribe(())


def test_numbers_in_place_of_recordings_are_named(recognizer):
    with pytest.raises(AudioError, match="item 0 must be a path, .*, but is of type float"):
        recognizer.transcribe([0.1, 0.2])


def test_a_named_pipe_is_heard_once(recognizer, content, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    (found,) = recognizer.transcribe([tmp_path / "pipe"])
    writer.join()
    assert found.text == recognizer.transcribe([content])[0].text and found.duration == 1.5


def test_sizes_of_items(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    items = [b"123", bytearray(4), memoryview(np.zeros(3)), tmp_path / "a", "absent", "a\0b", [1]]
    assert [_size(item) for item in items] == [3, 4, 24, 5, 0, 0, 0]


def test_a_dash_is_the_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if Path("/dev/stdin").exists():
        assert find_audio([Path("-")]).files == [Path("/dev/stdin")]
    Path("-").touch()
    assert find_audio([Path("-")]).files == [Path("-")]
