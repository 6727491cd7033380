"""Many files in one run: going on after a stop with the same things alone, TextGrids' names, the progress bar."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import shutil
import struct
import termios
from pathlib import Path

import numpy as np
import pytest
import soundfile

from couloir.inference.file_run import transcribe_files
from couloir.inference.inventory import restriction_to
from couloir.inference.places import textgrid_places
from couloir.inference.recognizer import Recognizer
from couloir.progress import ProgressBar


@pytest.fixture
def exported(models, tmp_path):
    """A copy of the exported CTC model, to change."""
    return Path(shutil.copytree(models() / "onnx", tmp_path / "onnx"))


def _texts(output):
    return {Path(line["name"]).name: line["text"] for line in map(json.loads, output.read_text("utf-8").splitlines())}


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_model_alone(exported, models, speech, tmp_path, call, one_line):
    out, wav = tmp_path / "ipa.jsonl", speech[0]
    (tmp_path / "phones").write_text("k r", encoding="utf-8")
    base = (wav, "--output", out, "--model-path", exported, "--inventory", tmp_path / "phones")
    assert call("batch_inference.py", *base).returncode == 0
    base = (*base, "--model-type", "ctc")
    assert "1 were done before" in call("batch_inference.py", *base, "--threads", "1", "--batch-size", "2").err
    begun, remedy = (
        "`--output` must be continued with what it was begun with",
        ".ipa.jsonl.journal to begin from nothing",
    )
    shutil.copy(exported / "model.onnx", exported / "model.int8.onnx")
    one_line("batch_inference.py", (*base, "--suffix", ".int8.onnx"), begun, "file model.onnx of", "none", remedy)
    for name in ("encoder", "decoder", "joiner"):
        shutil.copy(models("transducer") / "onnx" / f"{name}-epoch-999-avg-1.onnx", exported)
    one_line("batch_inference.py", (*base, "--model-type", "transducer"), begun, "model type ctc, but is transducer")
    shutil.copy(exported / "tokens.txt", tmp_path / "others.txt")
    one_line("batch_inference.py", (*base, "--tokens", tmp_path / "others.txt"), begun, "file tokens.txt of", remedy)
    one_line("batch_inference.py", (*base, "--blank-penalty", "1"), begun, "blank_penalty none, but is 1.0", remedy)
    (tmp_path / "phones").write_text("k r m", encoding="utf-8")  # the same name, other phones
    one_line("batch_inference.py", base, begun, f"inventory {tmp_path / 'phones'} (", remedy)
    (tmp_path / "phones").write_text("k r", encoding="utf-8")
    assert "1 were done before" in call("batch_inference.py", *base).err
    then = (exported / "model.onnx").stat()
    (exported / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    os.utime(exported / "model.onnx", ns=(then.st_atime_ns, then.st_mtime_ns + 1))  # exported again, of the same size
    one_line("batch_inference.py", base, begun, "file model.onnx of", "another of that size", remedy)
    for path in (tmp_path / ".ipa.jsonl.journal", out):
        path.unlink()
    assert "1 transcribed, 0 could" in call("batch_inference.py", *base).err


def test_a_checkpoint_is_known_by_its_files(models, speech, tmp_path, call, one_line):
    run, out = Path(shutil.copytree(models() / "run", tmp_path / "run")), tmp_path / "ipa.tsv"
    command = ("transcribe", run, speech[0], "--output", out)
    assert call("couloir", *command).returncode == call("couloir", *command).returncode == 0
    (run / "notes.txt").touch()
    assert call("couloir", *command, "--epoch", "1", "--avg", "1").returncode == 0
    os.utime(run / "epoch-1.pt")
    one_line("couloir", command, "file epoch-1.pt of", ".ipa.tsv.journal to begin from nothing")


@pytest.mark.slow
def test_a_recording_that_was_replaced_is_heard_again(exported, speech, tmp_path, call):
    folder, out = tmp_path / "audio", tmp_path / "ipa.jsonl"
    folder.mkdir()
    for name, source in (("a", 0), ("b", 1)):
        shutil.copy(speech[source], folder / f"{name}.flac")
    command = (folder, "--output", out, "--model-path", exported)
    call("batch_inference.py", *command)
    first = _texts(out)
    shutil.copy(speech[2], folder / "a.flac")
    again = call("batch_inference.py", *command)
    assert "1 transcribed, 1 were done before" in again.err
    assert f"{folder / 'a.flac'} is not the file that was transcribed before" in again.err
    assert _texts(out)["a.flac"] != first["a.flac"] and _texts(out)["b.flac"] == first["b.flac"]
    assert "0 transcribed, 2 were done before" in call("batch_inference.py", *command).err


@pytest.mark.slow
def test_textgrids_of_one_name_keep_their_folders(exported, speech, tmp_path, call):
    places = [tmp_path / "in" / name for name in ("one", "two", "three")]
    for place, source in zip(places, speech):
        place.mkdir(parents=True)
        soundfile.write(place / "x.wav", soundfile.read(source)[0], 16000)
    (places[0] / "x.wav").rename(tmp_path / "x.wav")
    (places[0] / "x.wav").write_text("no audio yet")
    command = (*places, "--output", tmp_path / "grids", "--model-path", exported)
    assert call("batch_inference.py", *command).returncode == 2

    def found():
        return sorted(str(path.relative_to(tmp_path / "grids")) for path in (tmp_path / "grids").rglob("*.TextGrid"))

    assert found() == ["three/x.TextGrid", "two/x.TextGrid"]
    contents = {name: (tmp_path / "grids" / name).read_text("utf-8") for name in found()}
    (tmp_path / "x.wav").rename(places[0] / "x.wav")
    assert "1 transcribed, 2 were done before" in call("batch_inference.py", *command).err
    assert found() == ["one/x.TextGrid", "three/x.TextGrid", "two/x.TextGrid"]
    assert all((tmp_path / "grids" / name).read_text("utf-8") == text for name, text in contents.items())
    assert len({(tmp_path / "grids" / name).read_text("utf-8") for name in found()}) == 3


def test_places_of_textgrids_are_unique_and_inside():
    def places(*names, root=None):
        found = [str(path) for path in textgrid_places(names, root).values()]
        assert len(found) == len({name.lower() for name in found}) == len(names)
        assert all(not os.path.isabs(name) and ".." not in name for name in found)
        return found

    assert places("/r/a/x.wav", "/r/b/y.wav") == ["x.TextGrid", "y.TextGrid"]
    assert places("/r/a/s/x.wav", "/r/b/s/x.wav", "q/y.wav") == ["a/s/x.TextGrid", "b/s/x.TextGrid", "y.TextGrid"]
    assert places("/x.wav", "/a/x.wav", "/b/x.wav") == ["x.TextGrid", "a/x.TextGrid", "b/x.TextGrid"]
    assert places("../a/x.wav", "../../b/x.wav", "x.wav")[:2] == ["a/x.TextGrid", "b/x.TextGrid"]
    same = ["/r/x.flac", "/r/x.wav", "/r/x.flac.wav", "/r/X.wav", "/r/x.wav.wav", os.path.relpath("/r/x.wav")]
    assert places(*same)[:3] == ["x.TextGrid", "x.wav.TextGrid", "x.flac.TextGrid"]
    inside = places("/r/a/x.wav", "/r/a/x.mp3", "/r/x.wav", "/other/x.wav", root=Path("/r"))
    assert inside == ["a/x.TextGrid", "a/x.mp3.TextGrid", "x.TextGrid", "x.wav.TextGrid"]


class Screen(io.StringIO):
    """A terminal of that many columns (0: it does not know), with all that was ever written to it."""

    def __init__(self, columns):
        super().__init__()
        self.ends = pty.openpty()
        fcntl.ioctl(self.ends[1], termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def isatty(self):
        return True

    def fileno(self):
        return self.ends[1]

    def close(self):
        for end in self.ends:
            os.close(end)
        super().close()


@pytest.mark.parametrize("columns", [80, 0, 20])
def test_progress_on_a_terminal(columns):
    now = [100.0]
    with Screen(columns) as screen:
        bar = ProgressBar(4, out=screen, clock=lambda: now[0])
        now[0] += 2.0
        bar.step(60.0)
        first = f"[{'#' * 7:<30}] 1/4  30x real time  0:06 left"
        assert screen.getvalue() == f"\r{first[: (columns or 80) - 1]}\x1b[K"
        bar.say("error: b.wav is empty")
        now[0] += 118.0
        bar.step(0.0)
        bar.close()
        second = f"[{'#' * 15:<30}] 2/4  0x real time  2:00 left"[: (columns or 80) - 1]
        rest = screen.getvalue().partition("\x1b[K")[2]
        assert rest == f"\r\x1b[Kerror: b.wav is empty\n\r{second}\x1b[K\n"


def test_no_progress_where_nobody_looks():
    out = io.StringIO()
    bar = ProgressBar(3, out=out, clock=lambda: 0.0)
    bar.step(1.0)
    bar.say("error: x")
    bar.close()
    assert out.getvalue() == "error: x\n" and (bar.count, bar.seconds) == (1, 1.0)
    with Screen(80) as screen:
        bar = ProgressBar(1, out=screen)
        bar.step(1.0)
        bar.close()
        assert screen.getvalue() == "", "one recording needs no bar"


def test_an_interrupted_run_keeps_what_is_done(models, speech, tmp_path, monkeypatch):
    recognizer = Recognizer.from_pretrained(models() / "run")
    results = recognizer.results

    def interrupted(items):
        for number, result in enumerate(results(items)):
            if number == 1:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(recognizer, "results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transcribe_files(recognizer, speech, tmp_path / "ipa.jsonl")
    assert len(_texts(tmp_path / "ipa.jsonl")) == 1
    monkeypatch.undo()
    run = transcribe_files(recognizer, speech, tmp_path / "ipa.jsonl")
    assert run.resumed == 1 and list(_texts(tmp_path / "ipa.jsonl")) == [path.name for path in speech]


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "ctm", "TextGrid"])
def test_names_that_are_no_utf_8(models, speech, tmp_path, kind):
    path = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.flac"))
    shutil.copy(speech[0], path)
    output = tmp_path / ("grids" if kind == "TextGrid" else f"ipa.{kind}")
    recognizer = Recognizer.from_pretrained(models() / "run")
    for resumed in (0, 1):
        run = transcribe_files(recognizer, [path], output)
        assert (list(run.transcripts), run.resumed) == ([str(path)], resumed)
    if kind == "TextGrid":
        assert (output / f"{path.stem}.TextGrid").is_file()
    else:
        text = output.read_bytes().decode("utf-8")
        assert ("caf\\udce9.flac" if kind == "jsonl" else r"caf\xe9.flac") in text


def test_the_digest_of_an_inventory_is_that_of_its_phones(models, tmp_path):
    vocabulary = Recognizer.from_pretrained(models() / "run").backend.vocabulary
    digests = []
    for text in ("k r", "r\nk # the same", "k r m"):
        (tmp_path / "phones").write_text(text, encoding="utf-8")
        digests.append(restriction_to(tmp_path / "phones", vocabulary).digest())
    assert digests[0] == digests[1] != digests[2]
    assert np.array_equal(restriction_to("ru", vocabulary).allowed, restriction_to("ru", vocabulary).allowed)
