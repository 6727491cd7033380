"""Take the README's picture of the page: real Chromium, the demo's model, a recording that it was not trained on.

    python tests/web/picture.py          # writes web/page.png; ./demo.sh has to have run

What the page wrote stays in the file beside the picture, so that a test sees when the README says something else.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chromium import Chromium
from pages import exported, load, served, shown, transcribe
from PIL import Image, PngImagePlugin
from programs import ROOT

from couloir.config import TeachingParser
from couloir.errors import one_line_errors
from couloir.files import atomic_write

PICTURE = ROOT / "web" / "page.png"
WIDTH_PX, SCALE = 1080, 2
COLOURS = 128
WITH_MOUSE = "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
"""Headless Chromium has none, and the page hides what is for those who have one."""
PHONE = 8
"""The phone that is marked."""


def take(chromium, file, recording, picture):
    """Write the picture of a recording with an audio-model .onnx; gives the text that is on it."""
    metrics = {"width": WIDTH_PX, "deviceScaleFactor": SCALE, "mobile": False}
    chromium.call("Emulation.setDeviceMetricsOverride", height=800, **metrics)
    with served(file) as address:
        load(chromium, address)
        text, _ = transcribe(chromium, recording)
        point_at(chromium, PHONE)
        height = chromium.run("document.documentElement.scrollHeight")
        chromium.call("Emulation.setDeviceMetricsOverride", height=height, **metrics)
        chromium.run("document.activeElement.blur()")
        # Two frames of the screen later all is drawn.
        chromium.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        png = base64.b64decode(chromium.call("Page.captureScreenshot", format="png")["data"])
        assert shown(chromium, "#text") == text
    chromium.call("Emulation.clearDeviceMetricsOverride")
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("Description", f"{recording.name}: {text}")
    with atomic_write(picture) as out:
        image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        image.save(out, "PNG", optimize=True, pnginfo=notes)
    return text


def point_at(chromium, phone):
    """Click on the waveform where a phone begins: the cursor goes there, and the phone is marked."""
    over = "new MouseEvent('mouseover', {bubbles: true})"
    chromium.run(f"document.querySelector('[data-phone=\"{phone}\"]').dispatchEvent({over})")
    _, start, _, end, *_ = shown(chromium, "#point").split()
    share = f"{0.95 * float(start) + 0.05 * float(end)} / document.querySelector('#timeline').ariaValueMax"
    track = "document.querySelector('.track').getBoundingClientRect()"
    x, y = chromium.run(f"[{track}.x + {track}.width * {share}, {track}.y + 30]")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        chromium.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@one_line_errors
def main():
    """Export the demo's model for the page, open it, take the picture."""
    parser = TeachingParser(description=__doc__)
    parser.add_argument("--exp-dir", type=Path, default=ROOT / "demo/exp/festvox-ru")
    parser.add_argument("--recording", type=Path, default=ROOT / "demo/heldout/festvox-ru_ru_0050.wav")
    parser.add_argument("--output", type=Path, default=PICTURE)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = exported(flags.exp_dir, Path(folder))
        browser = Chromium(Path(folder) / "chromium", WITH_MOUSE)
        try:
            print(take(browser, file, flags.recording.resolve(), flags.output))
        finally:
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
