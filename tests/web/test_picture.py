"""The README's picture of the page is the page, and says what the README's commands say."""

import re
from pathlib import Path

import numpy as np
from pages import by_python, in_browser
from picture import PICTURE, ROOT, SCALE, WIDTH_PX, take
from PIL import Image


def test_the_picture_says_what_the_commands_say():
    """Where this fails, one of them was made with an older model: python tests/web/picture.py"""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](web/page.png)" in readme
    name, text = Image.open(PICTURE).text["Description"].split(": ")
    row = re.search(rf"^ +{re.escape(name)} +(\S+) +0\.\d\d$", readme, re.M)
    assert row and row[1] == text
    assert readme.count(text) == 3  # couloir transcribe, inference.py, Python
    assert PICTURE.stat().st_size < 300_000


@in_browser
def test_the_picture_is_taken(chromium, trained, recordings, tmp_path):
    path, recording = tmp_path / "page.png", recordings / "short.wav"
    expected, _ = by_python(trained, recording, tmp_path)
    assert take(chromium, trained, recording, path) == expected.text
    picture = Image.open(path)
    assert picture.text["Description"] == f"short.wav: {expected.text}"
    assert picture.width == WIDTH_PX * SCALE and 0.5 < picture.height / picture.width < 1
    # Waveform and spectrogram are drawn: the picture's middle is far from empty.
    pixels = np.asarray(picture.convert("L"), np.float32)[picture.height // 3 : 2 * picture.height // 3]
    assert pixels.std() > 25
    assert Path(tmp_path / "page.png").stat().st_size < 400_000
