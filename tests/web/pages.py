"""The page in a browser: serving it, giving it recordings, reading what it shows."""

import threading
from contextlib import contextmanager

import pytest
from chromium import find_chromium
from programs import ROOT, run_program

from couloir import web
from couloir.inference.formats import textgrid, tiers_of
from couloir.inference.recognizer import Recognizer

IDLE = "!document.body.classList.contains('busy')"
NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_chromium(), reason="needs Chromium (Debian's package chromium)"),
    pytest.mark.skipif(not web.has_runtime(web.PAGE), reason="needs: python -m couloir.web --fetch-runtime"),
]


def in_browser(test):
    """Mark a test as one that needs the browser."""
    for mark in NEEDS_BROWSER:
        test = mark(test)
    return test


def exported(run, folder, *flags):
    """A run's audio-model.int8.onnx, as a person makes it."""
    given = ["--exp-dir", run.resolve(), "--with-frontend", "True", "--out-dir", folder, *flags]
    run_program(ROOT, "zipformer_crctc/export_onnx.py", given)
    return folder / "audio-model.int8.onnx"


def running(server):
    """Start a server; its address."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    return f"http://127.0.0.1:{server.server_port}/"


@contextmanager
def served(file, without=()):
    """The address of the page with a model, some paths left out."""
    routes = web.routes_of(web.PAGE, file)
    with web.make_server({path: file for path, file in routes.items() if path not in without}) as server:
        yield running(server)
        server.shutdown()


def load(chromium, address):
    """Open the page and wait for its model."""
    chromium.open(address)
    chromium.wait(f"document.querySelector('#model-facts')?.textContent && {IDLE}")


def shown(chromium, selector):
    return chromium.run(f"document.querySelector('{selector}').textContent")


def transcribe(chromium, path):
    """What the page says of a recording: its text, and the TextGrid that it saves."""
    chromium.choose("#file", path)
    chromium.wait(f"document.querySelector('#name').textContent === '{path.name}' && {IDLE}")
    assert shown(chromium, "#error") == ""
    chromium.run("document.querySelector('#save-textgrid').click()")
    grid = chromium.downloaded(f"{path.stem}.TextGrid")
    text = grid.read_text(encoding="utf-8")
    grid.unlink()
    return shown(chromium, "#text"), text


def complaint(chromium, field, *files):
    """The line that files given to a field bring up."""
    chromium.run("document.querySelector('#error').textContent = ''")
    chromium.choose(field, *files)
    chromium.wait(f"document.querySelector('#error').textContent && {IDLE}")
    return shown(chromium, "#error")


def by_python(file, path, folder):
    """What Python says of a recording: the transcript, and the TextGrid's text."""
    transcript = Recognizer.from_pretrained(file).transcribe([path])[0]
    return transcript, textgrid(tiers_of(transcript), transcript.duration)
