"""What is no model, given as one: each program ends with one line that names it, and exit code 2."""

from __future__ import annotations

import os
import random

import pytest
from not_models import wav_bytes, zip_bytes

from couloir import web
from couloir.errors import UserError
from couloir.inference.onnx_session import load_session

NOISE = random.Random(0).randbytes(3000)


CONTENTS = {
    "recording": wav_bytes(),
    "yaml": b"a: 1\n",
    "noise": NOISE,
    "empty": b"",
    "zip": zip_bytes(),
    "text": "мама мыла\n".encode(),
    "png": b"\x89PNG\r\n\x1a\n" + NOISE,
    "page": b"<!doctype html><html>404</html>",
    "pickle": b"\x80\x04K\x01.",
}
NAMES = ["x.pt", "x.onnx", "x.safetensors", "x", "x.yaml", "x.wav", "x.zip", "x.txt"]


@pytest.fixture
def audio(tmp_path):
    (tmp_path / "audio.wav").write_bytes(wav_bytes())
    return tmp_path / "audio.wav"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", CONTENTS)
def test_files_that_are_no_model(tmp_path, audio, one_line, capsys, content, name):
    path = tmp_path / name
    path.write_bytes(CONTENTS[content])
    one_line("couloir", ("info", path), str(path))
    one_line("couloir", ("transcribe", path, audio), str(path))
    one_line("inference.py", (audio, "--model-path", path), str(path))
    assert web.main(["--model", str(path)]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", ["recording", "noise", "empty", "zip"])
def test_other_programs_and_kinds(tmp_path, audio, one_line, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(CONTENTS[content])
    one_line("couloir", ("align", path, audio, "m a", "--output", tmp_path / "o.TextGrid"), str(path))
    one_line("batch_inference.py", (audio, "--model-path", path, "--output", tmp_path / "t.tsv"), str(path))
    one_line("inference.py", (audio, "--model-path", path, "--model-type", "transducer"), "--model-path")
    assert not (tmp_path / "t.tsv").exists() and not (tmp_path / "o.TextGrid").exists()


@pytest.mark.parametrize("kind", ["empty folder", "folder without weights", "folder of noise", "pipe", "device"])
def test_places_that_hold_no_model(tmp_path, audio, one_line, kind):
    path = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
        files = {
            "folder without weights": ["config.yaml", "notes.txt"],
            "folder of noise": ["model.onnx", "epoch-1.pt"],
        }
        for name in files.get(kind, []):
            (path / name).write_bytes(NOISE if "noise" in kind else b"a: 1\n")
    one_line("couloir", ("info", path), "place")
    one_line("couloir", ("transcribe", path, audio), "place")
    one_line("inference.py", (audio, "--model-path", path), "place")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="must be an ONNX file, but is a pipe or a device"):
        load_session(tmp_path / "model.onnx", 1)


def test_swapped_arguments_say_which_comes_first(audio, models, one_line):
    model = models() / "onnx" / "model.onnx"
    one_line("couloir", ("transcribe", audio, model), "audio.wav", "is a recording", "name the model first")
