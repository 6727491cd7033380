"""Names of recordings that a terminal would obey: shown harmless by every program, kept in the files."""

from __future__ import annotations

import json
import os
import shutil

import pytest

NAMES = ["\x1b[2J\x1b]0;title\x07.wav", "a\rb.wav", "a\nerror: no.wav", "\u202egnp.wav", "\x9b31m.wav", "caf\udce9.wav"]
OBEYED = {"\x1b", "\x07", "\r", "\u202e", "\x9b", "\udce9"}


@pytest.fixture
def folder(speech, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(speech[0], folder / os.fsdecode(os.fsencode(name)))
    (folder / "bad\x1b[31m.wav").write_text("no audio")
    return folder


@pytest.mark.parametrize("program", ["couloir", "inference.py", "batch_inference.py"])
def test_programs_show_names_harmless(models, folder, call, program):
    model = models() / "onnx" / "model.onnx"
    given = ("transcribe", model, folder) if program == "couloir" else (folder, "--model-path", model)
    result = call(program, *given)
    assert result.returncode == 2 and not OBEYED & set(result.out + result.err), (result.out, result.err)
    assert r"bad\x1b[31m.wav" in result.err
    rows = [line for line in result.out.splitlines() if ".wav" in line]
    assert len(rows) == len(NAMES) and not any(line.startswith("error") for line in rows)


def test_files_keep_the_names(models, folder, call, tmp_path):
    out = tmp_path / "t.jsonl"
    result = call("batch_inference.py", folder, "--model-path", models() / "onnx", "--output", out)
    assert not OBEYED & set(result.out + result.err)
    found = {json.loads(line)["name"] for line in out.read_text("utf-8").split("\n")[:-1]}
    assert found == {str(folder / name) for name in NAMES}
    grids = tmp_path / "grids"
    assert call("couloir", "transcribe", models() / "onnx", folder, "--output", grids).returncode == 2
    assert {path.stem for path in grids.iterdir()} == {name.removesuffix(".wav") for name in NAMES}


def test_a_models_metadata_is_shown_harmless(models, tmp_path, call):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(models() / "onnx" / "model.onnx")
    entry = model.metadata_props.add()
    entry.key, entry.value = "note\x1b[1m", "one\r\nerror: two\u202e\x9b"
    onnx.save(model, tmp_path / "model.onnx")
    result = call("couloir", "info", tmp_path / "model.onnx")
    assert result.returncode == 0 and not OBEYED & set(result.out)
    (line,) = [line for line in result.out.splitlines() if line.startswith("note")]
    assert line.split("  ")[0] == r"note\x1b[1m" and line.endswith(r"one\r\nerror: two\u202e\x9b")
