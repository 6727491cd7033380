"""The page in real headless Chromium: what it writes is what Python writes for the same file of the same model."""

import os
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kaldialign
import onnx
import pytest
from pages import IDLE, NEEDS_BROWSER, by_python, complaint, exported, load, running, served, shown, transcribe
from tiny_models import tiny_model, write_onnx

from couloir import web
from couloir.data.corpora.festvox import read_labels

TESTS = Path(__file__).resolve().parents[1]
DEMO = Path(os.environ.get("COULOIR_DEMO_RUN", TESTS.parent / "demo" / "exp" / "festvox-ru"))

pytestmark = NEEDS_BROWSER


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


def test_int8_text_and_times_of_a_trained_model_are_pythons(chromium, trained, tmp_path):
    """Real phones of real speech: the demo's model as it is kept for tests."""
    with served(trained) as address:
        load(chromium, address)
        for path in sorted((TESTS / "data").glob("ru_*.flac")):
            expected, grid = by_python(trained, path, tmp_path)
            assert transcribe(chromium, path) == (expected.text, grid)
            gold = [phone.symbol for phone in read_labels(path.with_suffix(".lab"))]
            errors = kaldialign.edit_distance(gold, [phone.symbol for phone in expected.phones()])["total"]
            assert errors < 0.25 * len(gold)


@pytest.mark.skipif(not DEMO.is_dir(), reason="needs the demo's run (./demo.sh); its packed copy is tested above")
def test_int8_text_and_times_of_the_demos_model_are_pythons(chromium, tmp_path):
    file = exported(DEMO, tmp_path)
    with served(file) as address:
        load(chromium, address)
        for path in sorted((TESTS.parent / "demo" / "heldout").glob("*.wav")):
            expected, grid = by_python(file, path, tmp_path)
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


def test_a_narrow_screen_is_enough(page, recordings):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    transcribe(page, recordings / "short.wav")
    too_wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 360)"
    assert page.run(f"{too_wide}.map(e => e.className)") == ["track"]  # which scrolls
    page.call("Emulation.clearDeviceMetricsOverride")


def test_bad_models_are_one_line_and_the_page_goes_on(page, model, recordings, tmp_path):
    features = write_onnx(tmp_path / "features", tiny_model())
    short = tmp_path / "tokens.txt"
    short.write_text("<blk> 0\na 1\n", encoding="utf-8")
    (tmp_path / "broken.onnx").write_bytes((model / "audio-model.onnx").read_bytes()[:5000])
    other = onnx.load(model / "audio-model.onnx")
    other.metadata_props.add(key="front_end", value="gammatone")
    onnx.save(other, tmp_path / "other.onnx")
    tokens = model / "tokens.txt"
    for files, message in [
        ([model / "audio-model.onnx"], "tokens.txt is missing"),
        ([features / "model.onnx", tokens], "takes fbank features; export with --with-frontend True"),
        ([tmp_path / "other.onnx", tokens], 'must be one of fbank, lfr, log_mel, but is "gammatone"'),
        ([tmp_path / "broken.onnx", tokens], "damaged or no model"),
        ([model / "audio-model.onnx", short], "but has 2"),
    ]:
        line = complaint(page, "#model-files", *files)
        assert message in line and "\n" not in line
    page.choose("#model-files", tokens, model / "audio-model.onnx")
    page.wait(f"document.querySelector('#model-name').textContent === 'audio-model.onnx' && {IDLE}")
    assert transcribe(page, recordings / "short.wav")[0]
