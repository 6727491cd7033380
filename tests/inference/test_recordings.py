"""The programs with the recordings that people have: every container, and what is no recording at all."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from couloir.audio import SAMPLE_RATE, AudioError, load_audio
from couloir.data.corpora.textgrid import read_textgrid

SLOW = pytest.mark.slow
BAD = {
    "notes.wav": ("is not audio that can be read", lambda path: path.write_text("this is text, not sound\n" * 50)),
    "empty.wav": ("is empty (0 bytes)", lambda path: path.touch()),
    "none.wav": ("holds no samples", lambda path: soundfile.write(path, np.zeros(0), SAMPLE_RATE)),
    "nan.wav": (
        "NaN or infinite samples",
        lambda path: soundfile.write(path, np.full(9000, np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT"),
    ),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, (_, make) in BAD.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize(
    "program",
    ["inference.py", "transcribe", pytest.param("align", marks=SLOW), pytest.param("batch_inference.py", marks=SLOW)],
)
def test_what_is_no_recording_is_one_line(models, bad, program, call):
    for name, (reason, _) in BAD.items():
        path = bad / name
        if program == "align":
            arguments = ("couloir", ("align", models() / "run", path, "a k"))
        elif program == "transcribe":
            arguments = ("couloir", ("transcribe", models() / "run", path))
        else:
            arguments = (program, (path, "--model-path", models() / "onnx"))
        found = call(arguments[0], *arguments[1])
        assert found.returncode == 2 and found.out == "", "and no empty table"
        assert found.err.startswith(f"error: {path} ") and reason in found.err and len(found.err.splitlines()) == 1
    assert not list(bad.glob("*.TextGrid"))


@pytest.mark.parametrize("program", ["batch_inference.py", "couloir", pytest.param("inference.py", marks=SLOW)])
def test_bad_ones_among_good_ones_are_reported_and_the_rest_is_finished(models, bad, speech, tmp_path, program, call):
    for path in bad.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(speech[0], tmp_path / "a.flac")
    shutil.copy(speech[1], tmp_path / "z.flac")
    if program == "couloir":
        found = call(program, "transcribe", models() / "run", tmp_path)
    else:
        found = call(program, tmp_path, "--model-path", models() / "onnx")
    assert found.returncode == 2
    errors = [line for line in found.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(BAD) and "Traceback" not in found.err
    for name, (reason, _) in BAD.items():
        assert any(str(tmp_path / name) in line and reason in line for line in errors)
    assert ("2 transcribed, 4 could not be read" in found.err) == (program == "batch_inference.py")
    lines = [line for line in found.out.splitlines() if ".flac" in line]
    assert len(lines) == 2 and not any(name in found.out for name in BAD)
    assert "a.flac" in lines[0] and "z.flac" in lines[1] and all(len(line.split()) >= 2 for line in lines)


def _write_m4a(path, samples, **tags):
    """AAC in an MP4 container, as telephones record. Skips where FFmpeg has no encoder for it."""
    av = pytest.importorskip("av", reason="m4a needs PyAV")
    try:
        with av.open(str(path), "w", format="mp4") as out:
            out.metadata.update(tags)
            stream = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            for first in range(0, len(samples), 1024):
                part = samples[first : first + 1024].astype(np.float32)[None]
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, first
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write AAC ({error})")


@pytest.mark.slow
def test_batch_inference_reads_every_container(models, speech, tmp_path, call):
    samples = load_audio(speech[0])
    for suffix in ("wav", "flac", "mp3", "ogg"):
        soundfile.write(tmp_path / f"{suffix}.{suffix}", samples, SAMPLE_RATE)
    soundfile.write(tmp_path / "opus.opus", samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    kinds = ["flac", "mp3", "ogg", "opus", "wav"]
    if importlib.util.find_spec("av"):
        _write_m4a(tmp_path / "m4a.M4A", samples)
        kinds.insert(1, "M4A")
    found = call("batch_inference.py", tmp_path, "--model-path", models() / "onnx")
    assert found.returncode == 0, found.err
    texts = {Path(name).suffix[1:]: text for name, text in (line.split("\t") for line in found.out.splitlines())}
    assert list(texts) == kinds and texts["wav"] == texts["flac"]
    assert all(len(text) > 20 for text in texts.values())


def test_m4a_keeps_length_and_shape(speech, tmp_path):
    samples = load_audio(speech[0])
    _write_m4a(tmp_path / "a.m4a", samples)
    loaded = load_audio(tmp_path / "a.m4a")
    assert 0 <= len(loaded) - len(samples) < 3 * 1024
    whole = len(samples) // 1024 * 1024
    delays = (0, 1024)  # whether FFmpeg wrote down the encoder's delay
    assert max(np.corrcoef(loaded[d:whole], samples[: whole - d])[0, 1] for d in delays) > 0.97
    (tmp_path / "cut.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:2000])
    (tmp_path / "text.m4a").write_text("no film")
    for name, reason in (("cut.m4a", "is truncated or damaged"), ("text.m4a", "is not audio that can be read")):
        with pytest.raises(AudioError, match=f"{name} {reason}"):
            load_audio(tmp_path / name)


def test_an_m4a_with_a_title_that_is_no_utf_8(speech, tmp_path):
    _write_m4a(tmp_path / "a.m4a", load_audio(speech[0]), title="caf@")
    content = (tmp_path / "a.m4a").read_bytes()
    assert content.count(b"caf@") == 1
    (tmp_path / "b.m4a").write_bytes(content.replace(b"caf@", b"caf\xe9"))
    np.testing.assert_array_equal(load_audio(tmp_path / "b.m4a"), load_audio(tmp_path / "a.m4a"))


def test_without_pyav_an_m4a_is_reported_and_the_rest_is_finished(models, speech, tmp_path, call, monkeypatch):
    shutil.copy(speech[0], tmp_path / "a.flac")
    (tmp_path / "b.m4a").write_bytes(b"\0" * 100)
    monkeypatch.setitem(sys.modules, "av", None)
    found = call("batch_inference.py", tmp_path, "--model-path", models() / "onnx")
    assert found.returncode == 2 and found.out.startswith(f"{tmp_path / 'a.flac'}\t")
    assert f"error: {tmp_path / 'b.m4a'} needs PyAV to be read; pip install av" in found.err


def _tiers(path):
    return {tier.name: tier.intervals for tier in read_textgrid(path)}


def _said(intervals):
    return [interval for interval in intervals if interval[2]]


def test_align_writes_the_phones_of_a_transcript(models, speech, tmp_path, call):
    out = tmp_path / "out" / "a.TextGrid"
    (tmp_path / "said.txt").write_text("krː kak\n tʰoː sil", encoding="utf-8")
    done = call("couloir", "align", models() / "run", speech[0], tmp_path / "said.txt", "--output", out)
    assert done.returncode == 0, done.err
    assert done.out.startswith("10 phones in 4 words, -") and done.out.rstrip().endswith(str(out))
    tiers, duration = _tiers(out), soundfile.info(speech[0]).duration
    assert [label for *_, label in _said(tiers["words"])] == ["krː", "kak", "tʰoː", "sil"]
    assert [label for *_, label in _said(tiers["phones"])] == ["k", "rː", "k", "a", "k", "tʰ", "oː", "s", "i", "l"]
    for intervals in tiers.values():
        assert intervals[0][0] == 0 and intervals[-1][1] == pytest.approx(duration, abs=1e-3)
        assert all(a[1] == b[0] for a, b in zip(intervals, intervals[1:])) and all(i[0] < i[1] for i in intervals)
    phones = _said(tiers["phones"])
    for word, (first, last) in zip(_said(tiers["words"]), ((0, 1), (2, 4), (5, 6), (7, 9))):
        assert (word[0], word[1]) == (phones[first][0], phones[last][1])


@pytest.mark.parametrize("runtime", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_align_writes_the_words_of_an_orthographic_transcript(models, speech, tmp_path, call, runtime):
    pytest.importorskip("espeakng_loader")
    recording = Path(shutil.copy(speech[0], tmp_path / "a.flac"))
    model = models() / ("run" if runtime == "torch" else "onnx")
    done = call("couloir", "align", model, recording, "кот спал", "--language", "ru")
    assert done.returncode == 0, done.err
    tiers = _tiers(tmp_path / "a.TextGrid")
    words, phones = _said(tiers["words"]), _said(tiers["phones"])
    assert [label for *_, label in words] == ["кот", "спал"]
    spoken = "".join(label for *_, label in phones)
    assert spoken[0] == "k" and "sp" in spoken and len(phones) == 7
    inside = [[p[2] for p in phones if w[0] <= p[0] and p[1] <= w[1]] for w in words]
    assert [len(part) for part in inside] == [3, 4]


def test_labels_beside_a_recording_are_not_replaced(models, speech, tmp_path, call, one_line):
    recording, labels = Path(shutil.copy(speech[0], tmp_path / "a.flac")), tmp_path / "a.TextGrid"
    labels.write_text("made by hand")
    one_line("couloir", ("align", models() / "run", recording, "krː kak"), f"{labels} exists", "--output")
    command = ("transcribe", models() / "run", tmp_path, "--output", tmp_path)
    for _ in range(2):  # nothing is begun that a second run could go on with
        one_line("couloir", command, f"{labels} exists", "--output")
    assert labels.read_text() == "made by hand"
    align = ("align", models() / "run", recording, "krː kak", "--output", labels)
    one_line("couloir", align, f"{labels} exists")
    labels.unlink()
    assert call("couloir", *align).returncode == 0
    assert len(_said(_tiers(labels)["phones"])) == 5
    labels.unlink()
    for _ in range(2):  # the second finds its own
        assert call("couloir", *command).returncode == 0
    shutil.copy(speech[1], tmp_path / "b.flac")
    assert call("couloir", *command).returncode == 0 and (tmp_path / "b.TextGrid").is_file()


def test_outputs_that_cannot_be_written_are_one_line(models, speech, tmp_path, one_line, call, monkeypatch):
    model, recording = models() / "run", Path(shutil.copy(speech[0], tmp_path / "a.flac"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / ".full.tsv.journal").symlink_to("/dev/full")
    one_line("couloir", ("align", model, recording, "krː kak", "--output", tmp_path / "file" / "a.TextGrid"), "file/a")
    for place, why in (
        ("file/a.tsv", "cannot be written"),
        ("folder.tsv", "must be a file for tsv"),
        ("full.tsv", "full.tsv"),
    ):
        one_line("couloir", ("transcribe", model, recording, "--output", tmp_path / place), place, why)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for folder, place in (("in", "."), ("in/deep", "..")):
        monkeypatch.chdir(tmp_path / folder)
        assert call("couloir", "transcribe", model, recording, "--output", place).returncode == 0
    assert (tmp_path / "in" / "a.TextGrid").is_file() and (tmp_path / ".in.journal").is_file()
    assert not list((tmp_path / "in").glob(".*")) and not list((tmp_path / "in" / "deep").iterdir())


@SLOW
def test_align_says_what_is_wrong_with_a_transcript(models, speech, tmp_path, one_line):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin1.txt").write_bytes(b"\xe9t\xe9")
    run = models() / "run"
    one_line("couloir", ("align", run, speech[0], tmp_path / "empty.txt"), "empty.txt is empty")
    one_line("couloir", ("align", run, speech[0], tmp_path / "latin1.txt"), "latin1.txt", "UTF-8")
    one_line("couloir", ("align", run, speech[0]), "MODEL FILE TRANSCRIPT")
    one_line("couloir", ("align", run, tmp_path / "gone.wav", "a"), "gone.wav does not exist")
