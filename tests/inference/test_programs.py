"""The programs, as a person runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "torch", "lhotse", "sentencepiece", "yaml", "rich", "tqdm", "scipy", "huggingface_hub", "panphon", "kaldialign",
    "matplotlib", "safetensors", "onnx", "tensorboard", "av",
)  # fmt: skip
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("this environment has no " + name)
sys.meta_path.insert(0, Blocker())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*command):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def _without_torch(*arguments, program="inference.py"):
    """A program of inference/ where nothing but onnxruntime, numpy, soundfile and soxr can be imported."""
    return _run("-c", BLOCKER, ROOT / "inference" / program, *arguments)


@pytest.mark.parametrize("kind", ["ctc", pytest.param("transducer", marks=pytest.mark.slow)])
def test_inference_needs_no_torch(models, speech, kind, call):
    folder = models(kind) / "onnx"
    path = folder / "model.onnx" if kind == "ctc" else folder
    result = _without_torch(speech[0], "--model-path", path, "--model-type", kind, "--times")
    assert result.returncode == 0, result.stderr
    text, *times = result.stdout.splitlines()
    assert len(text) > 20 and len(times) > 5
    shown = call("couloir", "transcribe", models(kind) / "run", speech[0])
    assert text in shown.out, "the same as with torch"


def test_8_khz_and_192_khz_and_24_bit(models, speech, tmp_path, call):
    samples, rate = soundfile.read(speech[0], dtype="float32")
    soundfile.write(tmp_path / "24.wav", samples, rate, subtype="PCM_24")
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], 1), rate)
    soundfile.write(tmp_path / "8k.wav", samples[::2], 8000)
    soundfile.write(tmp_path / "192k.wav", np.repeat(samples, 12), 192000)
    result = call("inference.py", tmp_path, "--model-path", models() / "onnx")
    assert result.returncode == 0, result.err
    texts = dict(line.split("\t") for line in result.out.splitlines())
    assert texts[str(tmp_path / "24.wav")] == texts[str(tmp_path / "stereo.wav")]
    assert len(texts) == 4 and all(texts.values())


@pytest.mark.slow
def test_batch_goes_on_after_bad_files_and_after_a_stop(models, speech, tmp_path, call, one_line):
    audio, out = tmp_path / "audio", tmp_path / "out" / "ipa.jsonl"
    (audio / "deep").mkdir(parents=True)
    shutil.copy(speech[0], audio / "b.flac")
    shutil.copy(speech[1], audio / "deep" / "c.FLAC")
    (audio / "a.wav").write_text("not audio")
    (audio / "notes.txt").write_text("no audio either")
    soundfile.write(audio / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    command = (audio, "--model-path", models() / "onnx" / "model.onnx", "--model-type", "ctc", "--batch-size", "32")
    first = _without_torch(*command, "--output", out, program="batch_inference.py")
    assert first.returncode == 2
    assert "a.wav" in first.stderr and "nan.wav" in first.stderr and "2 transcribed" in first.stderr
    assert [json.loads(line)["name"] for line in out.read_text("utf-8").splitlines()] == [
        str(audio / "b.flac"), str(audio / "deep" / "c.FLAC")
    ]  # fmt: skip

    # Killed while a line was being written; then two more files come, and the bad ones are repaired.
    journal = out.with_name(".ipa.jsonl.journal")
    header, *results = [line for line in journal.read_text("utf-8").splitlines() if '"digest"' not in line]
    journal.write_text("\n".join([header, *results])[:-40], "utf-8")
    out.unlink()
    shutil.copy(speech[2], audio / "a.wav")
    (audio / "nan.wav").unlink()
    again = call("batch_inference.py", *command, "--output", out)
    assert again.returncode == 0, again.err
    assert "2 transcribed, 1 were done before" in again.err
    assert [Path(json.loads(line)["name"]).name for line in out.read_text("utf-8").splitlines()] == [
        "a.wav", "b.flac", "c.FLAC"
    ]  # fmt: skip
    third = call("batch_inference.py", *command, "--output", out)
    assert "0 transcribed, 3 were done before" in third.err

    for other in (("--inventory", "fi"), ("--passes", "2")):
        one_line("batch_inference.py", (*command, *other, "--output", out), "--output", other[1], ".ipa.jsonl.journal")


def test_bad_input_is_one_line(models, speech, tmp_path, one_line):
    ctc, transducer = models() / "onnx", models("transducer") / "onnx"
    (tmp_path / "nothing").mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(ctc, broken)
    (broken / "model.onnx").write_bytes((ctc / "model.onnx").read_bytes()[:-5000])
    other = tmp_path / "other.txt"
    other.write_text("<blk> 0\na 1\n")
    no_tokens = tmp_path / "no-tokens"
    no_tokens.mkdir()
    shutil.copy(ctc / "model.onnx", no_tokens)
    wav = speech[0]
    one_line("inference.py", (wav, "--model-path", tmp_path / "gone.onnx"), "gone.onnx", "does not exist")
    one_line("inference.py", (wav, "--model-path", broken / "model.onnx"), "model.onnx", "damaged")
    one_line("inference.py", (wav, "--model-path", transducer, "--model-type", "ctc"), "--model-type", "transducer")
    one_line("inference.py", (wav, "--model-path", ctc / "model.onnx", "--model-type", "transducer"), "--model-path")
    encoder = transducer / "encoder-epoch-999-avg-1.onnx"
    one_line("inference.py", (wav, "--model-path", encoder, "--model-type", "ctc"), "log_probs")
    one_line("inference.py", (wav, "--model-path", ctc, "--suffix", ".int8.onnx"), ".int8.onnx", "model.onnx")
    one_line("inference.py", (wav, "--model-path", no_tokens), "tokens.txt", "--tokens")
    one_line("inference.py", (wav, "--model-path", ctc, "--tokens", other), "other.txt", "19")
    one_line("inference.py", (tmp_path / "nothing", "--model-path", ctc), "nothing", "no recording")
    one_line("inference.py", (tmp_path / "gone.wav", "--model-path", ctc), "gone.wav")
    one_line("inference.py", (wav, "--model-path", ctc, "--inventory", "xx"), "--inventory")
    one_line("inference.py", (wav, "--model-path", ctc, "--output", tmp_path / "x.docx"), "--output")
    one_line("inference.py", (wav, "--model-path", ctc, "--sufix", "x"), "--suffix")


def test_command_line_transcribes_a_folder_into_textgrids(models, speech, tmp_path, call):
    shutil.copy(speech[0], tmp_path / "a.flac")
    result = call("couloir", "transcribe", "--exp-dir", models() / "run", tmp_path, "--output", tmp_path / "grids")
    assert result.returncode == 0, result.err
    assert 'name = "phones"' in (tmp_path / "grids" / "a.TextGrid").read_text("utf-8")
    assert "confidence" in call("couloir", "transcribe", models() / "onnx", tmp_path / "a.flac").out


def test_command_line_errors_are_one_line(models, speech, tmp_path, one_line):
    one_line("couloir", ("transcribe", models() / "run"), "MODEL FILE")
    one_line("couloir", ("transcribe", tmp_path, speech[0]), str(tmp_path))
    one_line("couloir", ("transcribe", "someone/unknown", speech[0]), "someone/unknown", "hub")
    one_line("couloir", ("transcribe", "someone", speech[0]), "does not exist")
    one_line(
        "couloir", ("transcribe", models() / "run", speech[0], "--model-type", "transducer"), "--model-type", "ctc"
    )
    one_line("couloir", ("transcribe", models() / "run", speech[0], "--epoch", "9"), "--epoch 9")
    one_line("couloir", ("align", models("transducer") / "run", speech[0], "a"), "CTC")
    one_line("couloir", ("align", models() / "run", speech[0], "ak" * 500), "too short")
    one_line("couloir", ("info", tmp_path / "gone"), "gone")
    one_line("couloir", ("transcrib",), "transcribe")


def test_info(models, call):
    run = call("couloir", "info", models() / "run").out
    assert "run directory" in run and "50 frames/s" in run and "19 symbols" in run
    assert "log_probs" in call("couloir", "info", models() / "onnx" / "model.onnx").out
    assert "25 frames/s" in call("couloir", "info", models("ctc", 2) / "run" / "epoch-1.pt").out
    assert "encoder-epoch-999-avg-1.onnx" in call("couloir", "info", models("transducer") / "onnx").out


def test_ipa_is_printed_on_a_terminal_of_any_code():
    code = r"import os; from couloir import errors; errors.one_line_errors(print)('t\u0361s', os.fsdecode(b'\xe9'))"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout) == (0, "t͡s ".encode() + b"\xe9\n")


def test_importing_the_package_imports_no_torch():
    code = "import sys, couloir; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert _run("-c", code).returncode == 0
    code = "import sys, couloir.cli; couloir.cli.make_parser(); assert 'torch' not in sys.modules"
    assert _run("-c", code).returncode == 0


@pytest.mark.slow
def test_zipa_interface_word_for_word(models, speech, tmp_path):
    code = f"""
import torch
from zipa_{{kind}}_inference import initialize_model
model_path = {str(tmp_path)!r} + "/{{kind}}.pth"
bpe_model_path = {str(models() / "onnx" / "tokens.txt")!r}
model = initialize_model(model_path, bpe_model_path)
sample_rate = 16000
dummy_audio = [torch.zeros(int(sample_rate * 2)), torch.zeros(int(sample_rate * 2)), torch.zeros(int(sample_rate * 3))]
output = model.inference(dummy_audio)
print("Predicted transcript:", output)
assert len(output) == 3 and output[0] == output[1] and isinstance(output[0], list)
"""
    import torch
    from tiny_models import tiny_model

    for kind in ("ctc", "transducer"):
        torch.save(tiny_model(kind).state_dict(), tmp_path / f"{kind}.pth")
        environment = os.environ | {"PYTHONPATH": str(ROOT / "inference")}
        command = [sys.executable, "-c", code.replace("{kind}", kind)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 0, result.stderr
        assert "Predicted transcript: [[" in result.stdout
