"""The microphone, of which Chromium has one that beeps: nothing of it is lost, and it is let go whatever happens."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import Chromium
from pages import IDLE, in_browser, load, served, shown, transcribe

HERE = Path(__file__).resolve().parent
KEEP_STREAMS = """{
  window.streams = [];
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => (streams.push(await ask(wish)), streams.at(-1));
}"""
HELD = "streams.flatMap((stream) => stream.getTracks()).filter((track) => track.readyState === 'live').length"


@pytest.fixture
def allowed(page, address):
    """The page, which may use the microphone; `HELD` counts those that it holds."""
    page.allow("microphone", address)
    page.run(KEEP_STREAMS)
    return page


def press_record(page):
    page.run("document.querySelector('#record').focus()")
    page.press(" ")


@in_browser
def test_the_microphone_is_recorded(allowed):
    page = allowed
    press_record(page)
    page.run("window.loudest = 0")
    look = "window.loudest = Math.max(window.loudest, document.querySelector('#level').value)"
    page.run(f"setInterval(() => {{ {look} }}, 5)")
    page.wait("window.loudest > 0.01")  # one of the beeps
    assert shown(page, "#record-label") == "Stop" and shown(page, "#record-time").endswith(" s")
    assert shown(page, "#message") == "Recording" and page.run(HELD) == 1
    assert page.run("document.querySelector('#file').disabled")
    page.press(" ")  # The button kept the focus.
    page.wait(f"document.querySelector('#name').textContent.startsWith('recording-') && {IDLE}")
    assert page.run(HELD) == 0 and shown(page, "#record-label") == "Record" and not shown(page, "#record-time")
    page.run("document.querySelector('#save-wav').click()")
    samples, rate = soundfile.read(page.downloaded(shown(page, "#name")))
    assert rate == 16000 and np.abs(samples).max() > 0.01


@in_browser
def test_what_the_audio_thread_still_holds_is_kept(allowed):
    """Pieces are of 2048 samples; that five recordings all end with a whole one is a chance of 1 to a million."""
    lengths = allowed.run(
        """(async () => {
          const { Recorder } = await import("/js/recorder.js");
          const found = [];
          for (let i = 0; i < 5; i++) {
            const recorder = new Recorder(() => {});
            await recorder.start();
            await new Promise((done) => setTimeout(done, 150 + 17 * i));
            const samples = await recorder.stop();
            const inChunks = recorder.chunks.reduce((sum, { length }) => sum + length, 0);
            found.push([recorder.length, inChunks, (samples.length * recorder.rate) / 16000]);
          }
          return found;
        })()"""
    )
    assert any(length % 2048 for length, *_ in lengths), lengths
    for length, in_chunks, resampled in lengths:
        assert length == in_chunks == pytest.approx(resampled, abs=3)
    assert allowed.run(HELD) == 0


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_the_worklet_hands_over_every_sample():
    """Run by Node with the audio thread's two names: blocks in, and at the end all that went in."""
    program = """
      let Tap;
      globalThis.AudioWorkletProcessor = class { port = { postMessage: (piece) => posted.push(piece && [...piece]) }; };
      globalThis.registerProcessor = (name, kind) => (Tap = kind);
      const posted = [];
      await import(process.argv[1]);
      const tap = new Tap();
      let [next, more] = [0, true];
      for (let i = 0; i < 21; i++) more &&= tap.process([[Float32Array.from({ length: 128 }, () => next++)]]);
      more &&= tap.process([[]]);
      tap.port.onmessage({ data: null });
      console.log(JSON.stringify({ posted, more, after: tap.process([[new Float32Array(128)]]) }));
    """
    command = [
        "node",
        "--input-type=module",
        "--eval",
        program,
        str(HERE.parents[1] / "web" / "js" / "recorder-worklet.js"),
    ]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    *pieces, end = done["posted"]
    assert [len(piece) for piece in pieces] == [2048, 21 * 128 - 2048]
    assert sum(pieces, []) == list(range(21 * 128))
    assert end is None and done["more"] is True and done["after"] is False


def refused(page):
    """What the page says when its microphone is asked for, and that it goes on."""
    press_record(page)
    page.wait("document.querySelector('#error').textContent")
    assert shown(page, "#record-label") == "Record" and not page.run("document.querySelector('#file').disabled")
    assert page.run("document.activeElement.id") == "record"
    return shown(page, "#error")


@in_browser
def test_a_microphone_that_is_refused_is_one_line(page, address, recordings):
    page.allow("microphone", address, "denied")
    assert refused(page) == "the microphone was not allowed; allow it in the address bar"
    assert transcribe(page, recordings / "short.wav")[0]
    page.allow("microphone", address)
    press_record(page)
    page.wait("document.querySelector('#record-label').textContent === 'Stop'")
    assert shown(page, "#error") == ""
    page.press(" ")
    page.wait(f"document.querySelector('#record-label').textContent === 'Record' && {IDLE}")


@in_browser
def test_a_missing_microphone_is_one_line(address, tmp_path):
    browser = Chromium(tmp_path, has_microphone=False)
    try:
        load(browser, address)
        browser.allow("microphone", address)
        assert refused(browser) == "there is no microphone"
    finally:
        browser.close()


@in_browser
def test_a_recorder_that_cannot_be_loaded_lets_the_microphone_go(chromium, model):
    with served(model / "audio-model.onnx", without=["/js/recorder-worklet.js"]) as address:
        load(chromium, address)
        chromium.allow("microphone", address)
        chromium.run(KEEP_STREAMS)
        assert refused(chromium) == "the recorder could not be loaded; load the page again"
        assert chromium.run("streams.length") == 1 and chromium.run(HELD) == 0


@in_browser
def test_one_thing_at_a_time(allowed, recordings):
    press_record(allowed)
    allowed.wait("document.querySelector('#record-label').textContent === 'Stop'")
    assert allowed.run("document.querySelector('#model-files').disabled")
    allowed.press(" ")
    allowed.wait(f"document.querySelector('#record-label').textContent === 'Record' && {IDLE}")
    assert not allowed.run("document.querySelector('#model-files').disabled")
