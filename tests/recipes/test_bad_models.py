"""What is no model, given to the programs that export, decode and fine-tune: one line that names it, exit code 2."""

from __future__ import annotations

import os
import random

import pytest
import torch
from not_models import wav_bytes, zip_bytes
from programs import run_program

NOISE = random.Random(0).randbytes(3000)
PROGRAMS = {
    "zipformer_crctc/export.py": ("--exp-dir", "--out-dir out"),
    "zipformer_crctc/export_onnx.py": ("--exp-dir", "--out-dir out"),
    "zipformer_crctc/export_onnx_streaming.py": ("--exp-dir", "--out-dir out"),
    "zipformer_crctc/ctc_decode.py": ("--exp-dir", ""),
    "zipformer_transducer/export.py": ("--exp-dir", "--out-dir out"),
    "zipformer_transducer/export_onnx.py": ("--exp-dir", "--out-dir out"),
    "zipformer_transducer/decode.py": ("--exp-dir", ""),
    "zipformer_transducer/ctc_decode.py": ("--exp-dir", ""),
    "zipformer_transducer/finetune.py": ("--finetune-ckpt", "--do-finetune True --exp-dir tuned --world-size 1"),
}


def _make(folder):
    """Files, and folders of files, that are no model. Gives their names, and those of some that are not there."""
    contents = {
        "x.wav": wav_bytes(), "wav.pt": wav_bytes(), "x.yaml": b"a: 1\n", "yaml.pt": b"a: 1\n", "noise.pt": NOISE,
        "noise": NOISE, "noise.safetensors": NOISE, "empty.pt": b"", "zip.pt": zip_bytes(), "noise.onnx": NOISE,
        "page.html": b"<!doctype html>", "text.txt": "мама".encode(),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    objects = {
        "dict.pt": {"a": 1},
        "list.pt": [1],
        "odd.pt": {"model": {"x": torch.zeros(3)}},
        "none.pt": {"model": {}},
    }
    for name, value in objects.items():
        torch.save(value, folder / name)
    for name in ("empty", "yaml", "noisy", "odd"):
        (folder / f"{name}.d").mkdir()
    (folder / "yaml.d" / "config.yaml").write_text("a: 1\n")
    (folder / "noisy.d" / "epoch-1.pt").write_bytes(NOISE)
    (folder / "odd.d" / "config.yaml").write_text("- 1\n")
    torch.save(objects["odd.pt"], folder / "odd.d" / "epoch-1.pt")
    for name in ("pipe", "pipe.pt"):
        os.mkfifo(folder / name)
    absent = ["gone", "gone.pt", "a\nb", "\x1b[31mred", "\u202egnol.pt", "/dev/zero", "x" * 300, "owner/name@x"]
    return [*contents, *objects, "empty.d", "yaml.d", "noisy.d", "odd.d", "pipe", "pipe.pt", *absent]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_no_model_is_one_line(tmp_path, program):
    flag, more = PROGRAMS[program]
    for name in _make(tmp_path):
        done = run_program(tmp_path, program, [flag, name, *more.split()], check=False)
        assert done.returncode == 2, (name, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (name, done.stderr)
        assert not any(mark in done.stderr for mark in ("\x1b", "\u202e", "Traceback")), name
        assert len(done.stderr) < 5000 and not list(tmp_path.glob("out/*")), name


@pytest.mark.parametrize("program", ["zipformer_crctc/export.py", "zipformer_transducer/decode.py"])
@pytest.mark.parametrize("name", ["wav.pt", "x.yaml", "none.pt", "x" * 300])
def test_some_of_them_quickly(tmp_path, program, name):
    flag, more = PROGRAMS[program]
    _make(tmp_path)
    done = run_program(tmp_path, program, [flag, name, *more.split()], check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
