"""The page in real headless Chromium: what it writes is what Python writes for the same file of the same model."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import Chromium, find_chromium
from tiny_models import tiny_model, write_onnx, write_onnx_of_audio

from couloir import web
from couloir.inference.formats import tiers_of, write_textgrid
from couloir.inference.recognizer import Recognizer

TESTS = Path(__file__).resolve().parents[1]
DEMO = Path(os.environ.get("COULOIR_DEMO_RUN", TESTS.parent / "demo" / "exp" / "festvox-ru"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_chromium(), reason="needs Chromium (Debian's package chromium)"),
    pytest.mark.skipif(not web.has_runtime(web.PAGE), reason="needs: python -m couloir.web --fetch-runtime"),
]
IDLE = "!document.body.classList.contains('busy')"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model that takes samples, and its int8 version."""
    from couloir.export.quantize import write_int8

    folder = write_onnx_of_audio(tmp_path_factory.mktemp("page-model"), tiny_model())
    write_int8(folder / "audio-model.onnx", folder / "audio-model.int8.onnx")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Real speech as a wave file, and 33 s of it, which are cut into windows."""
    folder = tmp_path_factory.mktemp("recordings")
    speech = [soundfile.read(path, dtype="int16")[0] for path in sorted((TESTS / "data").glob("ru_*.flac"))]
    soundfile.write(folder / "short.wav", speech[0], 16000)
    whole = np.concatenate(speech)
    soundfile.write(folder / "long.wav", np.resize(whole, 33 * 16000), 16000)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    return f"http://127.0.0.1:{server.server_port}/"


@contextmanager
def served(file):
    """The address of the page with a model."""
    with web.make_server(web.routes_of(web.PAGE, file)) as server:
        yield running(server)
        server.shutdown()


def load(chromium, address):
    chromium.open(address)
    chromium.wait(f"document.querySelector('#model-facts')?.textContent && {IDLE}")


@pytest.fixture(scope="module")
def address(model):
    with served(model / "audio-model.onnx") as address:
        yield address


@pytest.fixture
def page(chromium, address):
    """The page with its model loaded; in the end, with nothing to complain about."""
    chromium.events.clear()
    load(chromium, address)
    yield chromium
    # What is not there is asked for all the same: the full model's smaller brother.
    assert [line for line in chromium.complaints() if "404" not in line] == []


def shown(chromium, selector):
    return chromium.run(f"document.querySelector('{selector}').textContent")


def transcribe(chromium, path):
    """What the page says of a recording: its text, and the TextGrid that it saves."""
    chromium.choose("#file", path)
    chromium.wait(f"document.querySelector('#name').textContent === '{path.name}' && {IDLE}")
    chromium.run("document.querySelector('#save-textgrid').click()")
    grid = chromium.downloaded(f"{path.stem}.TextGrid")
    text = grid.read_text(encoding="utf-8")
    grid.unlink()
    return shown(chromium, "#text"), text


def by_python(file, path, folder):
    transcript = Recognizer.from_pretrained(file).transcribe([path])[0]
    write_textgrid(folder / "python.TextGrid", tiers_of(transcript), transcript.duration)
    return transcript, (folder / "python.TextGrid").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["short.wav", "long.wav"])
def test_text_and_times_are_pythons(page, model, recordings, tmp_path, name):
    expected, grid = by_python(model / "audio-model.onnx", recordings / name, tmp_path)
    assert len(expected.tokens) > 30
    assert page.run("crossOriginIsolated")
    assert transcribe(page, recordings / name) == (expected.text, grid)
    assert f"mean confidence {expected.confidence:.2f}" in shown(page, "#about")


def test_int8_text_and_times_are_pythons(chromium, model, recordings, tmp_path):
    expected, grid = by_python(model / "audio-model.int8.onnx", recordings / "long.wav", tmp_path)
    with served(model / "audio-model.int8.onnx") as address:
        load(chromium, address)
        assert transcribe(chromium, recordings / "long.wav") == (expected.text, grid)


@pytest.mark.skipif(not DEMO.is_dir(), reason="needs the demo's run (./demo.sh)")
def test_int8_text_and_times_of_the_demos_model_are_pythons(chromium, tmp_path):
    program = TESTS.parent / "zipformer_crctc" / "export_onnx.py"
    command = [sys.executable, program, "--exp-dir", DEMO, "--with-frontend", "True", "--out-dir", tmp_path]
    subprocess.run(command, check=True)
    with served(tmp_path / "audio-model.int8.onnx") as address:
        load(chromium, address)
        for path in sorted((TESTS.parent / "demo" / "heldout").glob("*.wav")):
            expected, grid = by_python(tmp_path / "audio-model.int8.onnx", path, tmp_path)
            assert transcribe(chromium, path) == (expected.text, grid)


def test_any_file_server_will_do(chromium, model, recordings, tmp_path):
    folder = shutil.copytree(web.PAGE, tmp_path / "web", ignore=shutil.ignore_patterns("model"))
    shutil.copytree(model, folder / "somewhere")
    expected, grid = by_python(model / "audio-model.onnx", recordings / "short.wav", tmp_path)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        load(chromium, f"{running(server)}index.html?model=somewhere/audio-model.onnx")
        assert not chromium.run("crossOriginIsolated")
        assert transcribe(chromium, recordings / "short.wav") == (expected.text, grid)
        server.shutdown()


def test_phones_are_stepped_through_by_keys(page, model, recordings, tmp_path):
    expected, _ = by_python(model / "audio-model.onnx", recordings / "short.wav", tmp_path)
    transcribe(page, recordings / "short.wav")
    page.run("document.querySelector('#timeline').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "+", "-"):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    phone = expected.phones()[1]
    times = f"{phone.symbol}  {phone.start:.3f} to {phone.end:.3f} s"
    assert shown(page, "#point").startswith(times)
    assert shown(page, ".marked") == phone.symbol
    page.call("Input.dispatchKeyEvent", type="keyDown", key=" ")
    page.wait("document.querySelector('#play').textContent === 'Pause'")
    page.call("Input.dispatchKeyEvent", type="keyDown", key=" ")
    page.wait("document.querySelector('#play').textContent === 'Play'")


def test_a_narrow_screen_is_enough(page, recordings):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    transcribe(page, recordings / "short.wav")
    too_wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 360)"
    assert page.run(f"{too_wide}.map(e => e.className)") == ["track"]  # which scrolls
    page.call("Emulation.clearDeviceMetricsOverride")


def test_the_microphone_is_recorded(page):
    page.run("document.querySelector('#record').click()")
    look = "window.loudest = Math.max(window.loudest ?? 0, document.querySelector('#level').value)"
    page.run(f"setInterval(() => {{ {look} }}, 5)")
    page.wait("window.loudest > 0.01")  # one of the beeps of Chromium's microphone
    assert shown(page, "#record-label").startswith("Stop ")
    page.run("document.querySelector('#record').click()")
    page.wait(f"document.querySelector('#name').textContent.startsWith('recording-') && {IDLE}")
    page.run("document.querySelector('#save-wav').click()")
    samples, rate = soundfile.read(page.downloaded(shown(page, "#name")))
    assert rate == 16000 and np.abs(samples).max() > 0.01


def test_bad_input_is_one_line_and_the_page_goes_on(page, model, recordings, tmp_path):
    features = write_onnx(tmp_path / "features", tiny_model())
    short = tmp_path / "tokens.txt"
    short.write_text("<blk> 0\na 1\n", encoding="utf-8")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "broken.onnx").write_bytes((model / "audio-model.onnx").read_bytes()[:5000])
    tokens = model / "tokens.txt"
    for field, files, message in [
        ("#file", [tmp_path / "empty.wav"], "empty.wav is empty"),
        ("#file", [tmp_path / "text.wav"], "text.wav is not audio"),
        ("#model-files", [model / "audio-model.onnx"], "tokens.txt is missing"),
        ("#model-files", [features / "model.onnx", tokens], "--with-frontend True"),
        ("#model-files", [tmp_path / "broken.onnx", tokens], "damaged or no model"),
        ("#model-files", [model / "audio-model.onnx", short], "but has 2"),
    ]:
        page.run("document.querySelector('#error').textContent = ''")
        page.choose(field, *files)
        page.wait(f"document.querySelector('#error').textContent && {IDLE}")
        assert message in shown(page, "#error") and "\n" not in shown(page, "#error")
    page.choose("#model-files", tokens, model / "audio-model.onnx")
    page.wait(f"document.querySelector('#model-name').textContent === 'audio-model.onnx' && {IDLE}")
    assert transcribe(page, recordings / "short.wav")[0]
    assert page.run("document.querySelector('#error').hidden")
